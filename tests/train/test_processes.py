"""Several processes train what one trains, go on when one of them is killed, and say what they cannot do."""

import json
import os
import shutil
import signal
import socket
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import Thread

import pytest
from conftest import align, attempt, manifest, refused
from processes import below, kill_rank, start, wait_for
from several import lines, sft_by, without_the_second
from stage_runs import adapter_of

from pipeline.ranks import Ranks
from pipeline.recipe.launch import divided, of_slurm, visible_gpus
from pipeline.stage import specs
from pipeline.train import meeting
from pipeline.train.loop.dealing import Dealt, counts

TWO = ("--processes", "2")


@pytest.fixture(scope="module")
def by_two(chain, tmp_path_factory):
    """The folder of a chain whose sft was trained by two processes and its dpo by one, from the pretrain of `chain`."""
    return sft_by(tmp_path_factory.mktemp("by_two"), chain, *TWO)


def test_two_processes_train_what_one_trains(chain, by_two):
    one, two = (adapter_of(folder, "sft") for folder in (chain, by_two))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
    log = [lines(folder) for folder in (chain, by_two)]
    for single, both in zip(*log, strict=True):
        assert both["step"] == single["step"]
        if "loss" in single:
            assert both["loss"] == pytest.approx(single["loss"], abs=1e-4)
            assert both["num_tokens"] == single["num_tokens"]
    single, both = manifest(chain, "sft"), manifest(by_two, "sft")
    assert both["fingerprint"] == single["fingerprint"]
    assert both["tokens"] == single["tokens"]
    assert both["metrics"]["before"] == single["metrics"]["before"]
    assert both["metrics"]["after"]["loss"] == pytest.approx(single["metrics"]["after"]["loss"], abs=1e-4)
    assert (both["run"]["processes"], both["run"]["strategy"], both["run"]["threads"]) == (2, "ddp", 1)
    assert single["run"]["processes"] == 1


def test_a_killed_process_takes_the_stage_down_and_it_goes_on_to_the_bit(chain, by_two, copied):
    folder = copied("sft")
    assert "The same command continues." in without_the_second(folder, *TWO)
    said = align("run", "sft", "-r", "micro.yaml", *TWO, cwd=folder, alone=True).stdout
    assert "from step" in said
    assert manifest(folder, "sft")["weights_sha256"] == manifest(by_two, "sft")["weights_sha256"]
    assert manifest(folder, "sft")["tokens"] == manifest(by_two, "sft")["tokens"]
    assert lines(folder) == lines(by_two)


UNEVEN = ("--set", "train={per_device_train_batch_size: 4, num_train_epochs: 2, save_steps: 13, logging_steps: 1}")


@pytest.mark.parametrize("stage", ["dpo", pytest.param("reward", marks=pytest.mark.slow)])
def test_rows_that_fill_no_batch_and_a_second_epoch(copied, stage):
    """47 rows in batches of two: the last round of an epoch has 2 rows and 1. It is killed in the second epoch."""
    folder = copied(stage)
    rows = (folder / "pairs.jsonl").read_text().splitlines()
    (folder / "held_out.jsonl").write_text("\n".join(rows[47:]) + "\n")
    (folder / "pairs.jsonl").write_text("\n".join(rows[:47]) + "\n")
    options = (stage, *UNEVEN, "--set", f"stages.{stage}.data.held_out=held_out.jsonl")
    align("run", *options, "-r", "micro.yaml", "--runs", "one", "--policy", sft(folder), cwd=folder)
    align("run", *options, "-r", "micro.yaml", "--runs", "two", "--policy", sft(folder), *TWO, cwd=folder, alone=True)
    one, two = (manifest(folder, stage, runs) for runs in ("one", "two"))
    assert one["data"]["rows"]["trained"] == 47
    assert two["tokens"] == one["tokens"]
    logs = [(attempt(folder, stage, runs) / "log.jsonl").read_text().splitlines() for runs in ("one", "two")]
    for single, both in zip(*(map(json.loads, log) for log in logs), strict=True):
        if "loss" in single and single["step"] not in (
            12,
            24,
        ):  # the rows of a step that is not full weigh a little otherwise
            assert both["loss"] == pytest.approx(single["loss"], abs=2e-2)
    weights = two["weights_sha256"]
    shutil.rmtree(folder / "two" / "micro" / stage)
    process = start(folder, *options, "--runs", "runs", "--policy", sft(folder), *TWO)
    wait_for(folder, f"{stage}/*/checkpoints/checkpoint-13", process)
    kill_rank(0, process.pid)
    process.wait()
    again = align(
        "run", *options, "-r", "micro.yaml", "--runs", "runs", "--policy", sft(folder), *TWO, cwd=folder, alone=True
    )
    assert "from step 13" in again.stdout
    assert manifest(folder, stage)["weights_sha256"] == weights


def sft(folder: Path) -> str:
    return str(attempt(folder, "sft") / "adapter")


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_is_stopped_saves_once_and_another_number_of_processes_goes_on(chain, copied, asked, code):
    folder = copied("sft")
    process = start(folder, "sft", *TWO)
    wait_for(folder, "sft/*/checkpoints/checkpoint-4", process)
    # SLURM sends SIGTERM to each process of a job, the launcher among them.
    for pid in (process.pid, *(below(process.pid) if asked == signal.SIGTERM else ())):
        os.kill(pid, asked)
    said = process.stdout.read()
    assert "saved a checkpoint at step" in said and "Traceback" not in said
    assert process.wait() == code
    assert not below(process.pid)
    said = align("run", "sft", "-r", "micro.yaml", cwd=folder, alone=True).stdout
    assert "begun with 2 processes, continued with 1" in said
    (share,) = manifest(folder, "sft")["run"]["earlier"]
    assert 4 <= share.pop("until") <= manifest(folder, "sft")["steps"]
    assert share == {"processes": 2, "nodes": 1, "strategy": "ddp"}
    assert manifest(folder, "sft")["tokens"] == manifest(chain, "sft")["tokens"]
    one, other = adapter_of(chain, "sft"), adapter_of(folder, "sft")
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_other_stages_too(chain, copied, stage):
    folder = copied(stage)
    align("run", stage, "-r", "micro.yaml", *TWO, cwd=folder, alone=True)
    one, two = (adapter_of(where, stage) for where in (chain, folder))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4


@pytest.mark.slow
def test_ppo_keeps_one_policy(copied):
    folder = copied("ppo")
    align("run", "ppo", "-r", "micro.yaml", *TWO, cwd=folder, alone=True)
    log = [json.loads(line) for line in (attempt(folder, "ppo") / "log.jsonl").read_text().splitlines()]
    assert log[0]["objective/kl"] == 0 and log[0]["val/ratio"] == 1
    assert manifest(folder, "ppo")["run"]["processes"] == 2


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("size", [2, 3])
def test_each_row_counts_once_and_as_much_as_in_one_process(rows, size):
    each, passes = 2, 2
    parts = [Dealt(range(rows), each, False, Ranks(rank, size)) for rank in range(size)]
    assert len({len(list(part)) for part in parts}) == 1  # no process waits for one that has less to do
    batches = [list(part) for part in parts]
    steps = -(-len(parts[0]) // passes)
    for step in range(steps):
        there = slice(step * passes, (step + 1) * passes)
        number = len(batches[0][there])
        weight: dict[int, float] = {}
        for part, own in zip(parts, batches, strict=True):
            for batch, count in zip(own[there], counts(number, passes, step, part), strict=True):
                for row in batch:
                    # The loss is a mean over the batch, then over the passes, then over the processes.
                    weight[row] = weight.get(row, 0) + count / len(batch) / number / size
        one = range(step * each * passes * size, min((step + 1) * each * passes * size, rows))
        pieces = [one[at : at + each] for at in range(0, len(one), each)]
        expected = {row: 1 / len(piece) / len(pieces) for piece in pieces for row in piece}
        assert {row: count for row, count in weight.items() if count} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("stage", "given", "size", "split"),
    [
        ("sft", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}, 2, (4, 2)),
        ("sft", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}, 2, (2, 1)),
        ("sft", {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 1}, 2, None),
        # KTO estimates its KL over a piece of all processes, so the piece stays and its rows are dealt out.
        ("kto", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, 2, (2, 2)),
        ("kto", {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, 2, None),
        # ORPO's loss is a mean over the tokens of a piece, so each piece stays in one process.
        ("orpo", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, 2, (4, 1)),
        ("orpo", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}, 2, None),
    ],
)
def test_a_step_is_dealt_out_or_refused(stage, given, size, split):
    if split is None:
        with pytest.raises(ValueError):
            divided(specs()[stage], given, size)
        return
    made = divided(specs()[stage], given, size)
    assert (made["per_device_train_batch_size"], made["gradient_accumulation_steps"]) == split


def test_what_cannot_be_shared_is_refused_by_the_plan(built):
    assert "its steps cannot be shared by 3 processes" in refused(
        built, "plan", "pretrain", "-r", "micro.yaml", "--runs", "new", "--processes", "3"
    )
    odd = "stages.sft.train.per_device_train_batch_size=3"
    said = refused(built, "plan", "sft", "-r", "micro.yaml", "--runs", "new", *TWO, "--set", odd)
    assert "Set stages.sft.train.gradient_accumulation_steps: 2, which makes another recipe" in said
    odd = "stages.orpo={data: {path: pairs.jsonl}, train: {per_device_train_batch_size: 8, gradient_accumulation_steps: 3}}"
    said = refused(built, "plan", "orpo", "-r", "micro.yaml", "--runs", "new", *TWO, "--set", odd)
    # More passes and not more rows at a time, which might not fit.
    assert "Set stages.orpo.train.per_device_train_batch_size: 6 and gradient_accumulation_steps: 4" in said
    said = refused(built, "plan", "sft", "-r", "micro.yaml", "--fresh", *TWO, "--unsloth")
    assert "it trains in one process, not in several" in said
    said = refused(
        built,
        "plan",
        "sft",
        "-r",
        "micro.yaml",
        *TWO,
        "--set",
        "adapter={method: adalora}",
        "--set",
        "train.max_steps=2000",
    )
    assert "launch.processes does not go with adapter.method adalora" in said
    assert "Leave launch.processes (--processes) out" in said
    said = refused(built, "plan", "-r", "micro.yaml", "--processes", "many")
    assert "--processes many: launch.processes: must be a number of processes or auto" in said and "--set" not in said
    said = refused(built, "plan", "-r", "micro.yaml", "--set", "launch=2")
    assert "launch: must be a mapping, not 2; write launch: {processes: 2}" in said


def test_a_plan_is_of_as_many_machines_as_are_said(built, monkeypatch):
    said = align("plan", "sft", "-r", "micro.yaml", "--fresh", "--nodes", "2", cwd=built).stdout
    assert "the plan, with 2 processes on 2 machines (ddp)" in said
    assert "cannot be shared by 6 processes" in refused(
        built, "plan", "sft", "-r", "micro.yaml", "--fresh", "--nodes", "2", "--processes", "3"
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    said = align("plan", "sft", "-r", "micro.yaml", "--processes", "auto", cwd=built).stdout
    assert "with one process; auto finds no GPU here" in " ".join(said.split())


def test_auto_is_a_process_for_each_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == 0


@pytest.mark.slow
def test_two_machines_train_what_one_trains(chain, copied):
    folder = copied("sft")
    options = ("sft", "--nodes", "2", "--rendezvous", "127.0.0.1:29519", "--node-rank")
    machines = [start(folder, *options, rank) for rank in ("0", "1")]
    said = [machine.communicate()[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert "machine 2 of 2" in said[1]
    one, two = (adapter_of(where, "sft") for where in (chain, folder))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4


def test_a_machine_that_does_not_come_is_waited_for_no_longer_than_said(copied, monkeypatch):
    folder = copied("sft")
    monkeypatch.setenv("ALIGN_PATIENCE", "0.05")
    said = refused(
        folder, "run", "sft", "-r", "micro.yaml", "--nodes", "2", "--rendezvous", "127.0.0.1:29517", alone=True, code=1
    )
    assert "the 2 machines did not meet at 127.0.0.1:29517 within 3 seconds" in said


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.6\r\n"])
def test_a_stranger_at_the_port_is_no_first_machine(greeting, monkeypatch):
    monkeypatch.setattr(meeting, "MARGIN", 1)
    taken = []

    def answer() -> None:
        with suppress(OSError):  # closed
            while True:
                taken.append(door.accept()[0])
                taken[-1].sendall(greeting)

    with socket.create_server(("127.0.0.1", 0)) as door:
        Thread(target=answer, daemon=True).start()
        said = meeting.stranger_at(f"127.0.0.1:{door.getsockname()[1]}", timedelta(seconds=1))
    assert said == (
        "another service answers there" if greeting else "something took the connection and has said nothing"
    )


def test_machines_are_told_where_they_meet(built):
    said = refused(built, "run", "sft", "-r", "micro.yaml", "--nodes", "2")
    assert "several machines need rendezvous" in said
    said = refused(built, "run", "sft", "-r", "micro.yaml", "--nodes", "2", "--node-rank", "2")
    assert "of 2 machines the last is 1" in said


def test_slurm_says_which_machine_this_is():
    job = {"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "1", "SLURM_JOB_ID": "1000"}
    listed = {"gpu[03-04]": "gpu03", "gpu7,gpu9": "gpu7", "a-b[1,5]": "a-b1", "n[01-02]-ib": "n01-ib"}
    for nodes, first in listed.items():
        assert of_slurm(job | {"SLURM_STEP_NODELIST": nodes}) == [
            "launch.nodes=2",
            "launch.node_rank=1",
            f"launch.rendezvous={first}:27000",
        ]
    assert not of_slurm(job | {"SLURM_STEP_NUM_TASKS": "8"})  # eight tasks are no two machines
    assert not of_slurm({"SLURM_NNODES": "2"})  # the batch script itself, without srun
