"""What runs again, and why: decided from contents, never from times or places."""

import os
import shutil
import time
from pathlib import Path

import pytest
from conftest import ALL, align, manifest, plan, states

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.digests import difference
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe


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
    [
        "train.logging_steps=1",
        "train.save_steps=2",
        "threads=2",
        "train.gradient_checkpointing=true",
        "stages.sft.train={per_device_train_batch_size: 2, gradient_accumulation_steps: 2}",
    ],
)
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


def test_what_is_measured_otherwise_is_named(built, monkeypatch):
    monkeypatch.chdir(built)
    Path("score.py").write_text("def score(prompts, completions, **_): return [1.0 for _ in prompts]\n")

    def planned(*overrides: str):
        (step,) = Planner(load_recipe("micro.yaml", overrides), Path("runs")).plan(["pretrain"])
        return step.state, step.why

    assert planned("evaluation.samples=1") == ("evaluate", "evaluation.samples: 3 -> 1; the weights stay")
    two = planned("evaluation.samples=1", "evaluation.answer_pattern=a+")
    assert two == ("evaluate", "evaluation.samples: 3 -> 1 and 1 more; the weights stay")
    said = manifest(built, "pretrain")
    said["evaluation"]["settings"]["score_function"] = "score.py:score"
    monkeypatch.setattr(Attempt, "manifest", said)
    scored = planned("evaluation.score_function=score.py:score")
    assert scored == ("evaluate", "content of score.py; the weights stay")


@pytest.mark.parametrize("was, now", [(1, 1.0), (True, 1), ([0], [0.0])])
def test_what_differs_to_a_digest_differs_in_the_reason(was, now):
    assert list(difference({"key": was}, {"key": now})) != []
