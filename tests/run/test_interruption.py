"""A command that is stopped: what it saves, and that nothing of it stays behind."""

import os
import signal
import time

from conftest import align, manifest
from processes import below, start, wait_for


def test_ctrl_c_saves_a_checkpoint_and_says_so(copied):
    folder = copied("sft")
    long = ["--set", "stages.sft.train={max_steps: 400, save_steps: 1000}"]
    process = start(folder, "sft", *long)
    wait_for(folder, "sft/*/log.jsonl", process)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == 130, said
    assert "saved a checkpoint at step" in said and "Traceback" not in said
    assert not list(folder.glob("runs/micro/sft/*/manifest.json"))
    assert "continues from step" in align("run", "sft", "-r", "micro.yaml", *long, cwd=folder).stdout
    interrupted = manifest(folder, "sft")
    align("run", "sft", "-r", "micro.yaml", *long, "--fresh", cwd=folder)
    assert manifest(folder, "sft")["weights_sha256"] == interrupted["weights_sha256"]


def test_sigterm_saves_a_checkpoint_too_however_often_it_comes(copied):
    folder = copied("sft")
    ahead = "stages.sft.train={max_steps: 400, save_steps: 1000, dataloader_num_workers: 1}"
    process = start(folder, "sft", "--set", ahead)
    wait_for(folder, "sft/*/log.jsonl", process)
    for pid in (*below(process.pid), process.pid, process.pid):  # SLURM tells each process of a job
        os.kill(pid, signal.SIGTERM)
    said = process.communicate()[0]
    assert process.returncode == 143, said
    assert "stopping after this step (SIGTERM)" in said and "saved a checkpoint at step" in said
    assert len(list(folder.glob("runs/micro/sft/*/checkpoints/checkpoint-*"))) == 1
    assert "Traceback" not in said


def test_sigterm_before_anything_trains_is_told_too(copied):
    process = start(copied("sft"), "sft")
    first = process.stdout.readline()  # of the plan
    process.send_signal(signal.SIGTERM)
    said = first + process.communicate()[0]
    assert process.returncode == 143 and "the same command continues" in said and "Traceback" not in said, said


def test_a_stage_dies_with_its_command(copied):
    folder = copied("sft")
    process = start(folder, "sft")
    wait_for(folder, "sft/*/run.json", process)
    process.kill()
    process.wait()
    again = align("run", "sft", "-r", "micro.yaml", cwd=folder, check=False)
    deadline = time.monotonic() + 20
    while again.returncode == 2 and "another run" in again.stdout and time.monotonic() < deadline:
        again = align("run", "sft", "-r", "micro.yaml", cwd=folder, check=False)
    assert again.returncode == 0, again.stdout
