"""What runs again, and why: decided from contents, never from times or places."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from conftest import align, attempt, manifest
from filelock import FileLock

ALL = ["pretrain", "sft", "dpo", "reward", "ppo"]


@pytest.fixture
def built(chain, tmp_path) -> Path:
    shutil.copytree(chain, tmp_path / "built", symlinks=True)
    return tmp_path / "built"


def plan(folder: Path, *arguments: str) -> dict[str, dict]:
    rows = json.loads(align("plan", "-r", "micro.yaml", "--json", *arguments, cwd=folder).stdout)
    return {row["stage"]: row for row in rows}


def states(folder: Path, *arguments: str) -> dict[str, str]:
    return {stage: row["state"] for stage, row in plan(folder, *arguments).items()}


def test_what_is_done_is_not_done_again(built):
    assert states(built) == dict.fromkeys(ALL, "up to date")
    started = time.monotonic()
    assert "Everything is up to date" in align("run", "-r", "micro.yaml", cwd=built).stdout
    assert time.monotonic() - started < 60  # no library was loaded for it; the figure itself stands in benchmarks/


def test_a_changed_key_runs_its_stage_and_what_stands_on_it(built):
    rows = plan(built, "--set", "stages.sft.train.learning_rate=1e-3")
    assert [rows[stage]["state"] for stage in ALL] == ["up to date", "run", "run", "run", "run"]
    assert rows["ppo"]["why"] == "after sft and reward"
    assert rows["sft"]["why"] == "train.learning_rate: 0.005 -> 0.001"
    assert rows["dpo"]["why"] == "after sft"
    assert states(built, "--set", "stages.dpo.train.beta=0.2") == dict.fromkeys(ALL, "up to date") | {"dpo": "run"}
    assert states(built) == dict.fromkeys(ALL, "up to date")


@pytest.mark.parametrize(
    "how",
    ["train.logging_steps=1", "train.save_steps=2", "threads=2", "train.gradient_checkpointing=true",
     "stages.sft.train={per_device_train_batch_size: 2, gradient_accumulation_steps: 2}"],
)  # fmt: skip
def test_how_is_trained_is_no_reason_to_train_again(built, how):
    assert states(built, "--set", how) == dict.fromkeys(ALL, "up to date")


def test_contents_count_and_times_and_places_do_not(built):
    for path in built.rglob("*"):
        if path.is_file():
            os.utime(path, (1, 1))
    moved = built.rename(built.with_name("elsewhere"))
    assert states(moved) == dict.fromkeys(ALL, "up to date")
    pairs = moved / "pairs.jsonl"
    pairs.write_text(pairs.read_text().replace("I say", "I think"))
    assert states(moved) == dict.fromkeys(ALL, "run") | {"pretrain": "up to date", "sft": "up to date"}
    assert "content of pairs.jsonl: " in plan(moved)["dpo"]["why"]


def test_a_moved_runs_folder_is_trained_on(built):
    moved = built.rename(built.with_name("elsewhere"))
    align("run", "dpo", "-r", "micro.yaml", "--set", "stages.dpo.train.beta=0.2", cwd=moved)
    assert manifest(moved, "dpo")["base"]["source"].startswith(str(moved))


def test_a_missing_parent_is_built_first(built):
    shutil.rmtree(built / "runs" / "micro" / "sft")
    rows = plan(built, "dpo")
    assert [row["state"] for row in rows.values()] == ["up to date", "run", "run"]
    assert rows["dpo"]["why"] == "after sft"


def test_a_changed_evaluation_evaluates_again_and_retrains_nothing(built):
    before = {stage: manifest(built, stage)["weights_sha256"] for stage in ALL}
    changed = ["--set", "evaluation.max_rows=4"]
    assert states(built, *changed) == dict.fromkeys(ALL, "evaluate")
    align("run", "-r", "micro.yaml", *changed, cwd=built)
    assert states(built, *changed) == dict.fromkeys(ALL, "up to date")
    assert {stage: manifest(built, stage)["weights_sha256"] for stage in ALL} == before
    assert manifest(built, "dpo")["metrics"]["after"]["n"] == 4


def test_the_same_evaluation_again_finds_the_same_figures(built):
    before = {stage: manifest(built, stage)["metrics"] for stage in ALL}
    align("run", "-r", "micro.yaml", "--set", "evaluation.max_rows=4", cwd=built)
    align("run", "-r", "micro.yaml", cwd=built)
    for stage in ALL:
        for when in ("before", "after"):
            assert manifest(built, stage)["metrics"][when] == pytest.approx(before[stage][when], abs=1e-6)


def test_fresh_is_another_attempt_beside_the_first(built):
    first = attempt(built, "dpo")
    align("run", "dpo", "-r", "micro.yaml", "--fresh", cwd=built)
    assert attempt(built, "dpo").name == f"{first.name}-2" and (first / "manifest.json").is_file()
    assert (
        manifest(built, "dpo")["weights_sha256"] == json.loads((first / "manifest.json").read_text())["weights_sha256"]
    )


def test_another_policy_by_its_folder(built):
    folder = attempt(built, "dpo") / "adapter"
    rows = plan(built, "dpo", "--policy", str(folder))
    assert list(rows) == ["dpo"] and rows["dpo"]["state"] == "run"
    align("run", "dpo", "-r", "micro.yaml", "--policy", str(folder), cwd=built)
    assert manifest(built, "dpo")["parents"]["policy"]["folder"] == str(folder)


def test_what_cannot_take_effect_on_the_adapter_of_another_policy_is_refused(built):
    folder = attempt(built, "dpo") / "adapter"
    own = ["--set", f"stages.dpo.policy={folder}", "--set", "stages.dpo.adapter.r"]
    done = align("plan", "dpo", "-r", "micro.yaml", *own[:3], f"{own[3]}=2", cwd=built, check=False)
    assert (
        done.returncode == 2 and "stages.dpo.adapter.r: cannot take effect" in done.stdout and "r is 4" in done.stdout
    )
    assert plan(built, "dpo", *own[:3], f"{own[3]}=4")["dpo"]["state"] == "run"


def test_an_attempt_begun_otherwise_is_refused_with_both_ways_out(built):
    folder = attempt(built, "dpo")
    (folder / "manifest.json").unlink()
    machine = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(machine | {"device": "cuda"}))
    done = align("run", "dpo", "-r", "micro.yaml", cwd=built, check=False)
    assert done.returncode == 2 and "FRESH=1" in done.stdout and "device" in done.stdout


def test_what_another_process_works_on_is_shown_as_running_and_refused(built):
    folder = attempt(built, "sft")
    (folder / "manifest.json").unlink()
    with FileLock(folder / ".lock"):
        rows = plan(built, "dpo")
        assert (rows["sft"]["state"], rows["dpo"]["why"]) == ("running", "after sft")
        done = align("run", "dpo", "-r", "micro.yaml", cwd=built, check=False)
        assert done.returncode == 2 and "sft: another run is working on" in done.stdout
    assert states(built, "sft")["sft"] == "continue"


def test_status_for_a_program(built):
    rows = json.loads(align("status", "-r", "micro.yaml", "--json", cwd=built).stdout)
    assert [row["stage"] for row in rows] == ALL
    assert rows[1]["metrics"]["after"]["n"] == 8


def test_gc_shows_first_and_takes_only_what_nothing_names(built):
    assert "Nothing to remove" in align("gc", "-r", "micro.yaml", cwd=built).stdout
    first = attempt(built, "dpo")
    align("run", "dpo", "-r", "micro.yaml", "--fresh", cwd=built)
    assert str(first.relative_to(built)) in align("gc", "-r", "micro.yaml", cwd=built).stdout and first.is_dir()
    align("gc", "-r", "micro.yaml", "--delete", cwd=built)
    assert not first.exists()
    assert states(built) == dict.fromkeys(ALL, "up to date")
