"""`keep: {best: ...}`: what a stage leaves is its best step, killed or not, and without the key nothing is other."""

import json
import math
from types import SimpleNamespace

import pytest
from conftest import align, attempt, manifest, plan, refused
from processes import kill, start, wait_for

from pipeline.errors import PipelineError
from pipeline.train.loop.best import Best

LOSS = "stages.sft.keep={best: loss}"
OFTEN = "lr_scheduler_type: constant, eval_strategy: steps, eval_steps: 3, save_steps: 2, save_total_limit: 1"
BEST = {
    "sft": ("exact_match", "5e-3"),
    "pretrain": ("perplexity", "5e-3"),
    "ppo": ("mean_reward", "0.05"),
}


def asked(stage: str) -> tuple[str, ...]:
    figure, rate = BEST[stage]
    return (
        *("--set", f"stages.{stage}.keep={{best: {figure}}}"),
        *("--set", f"stages.{stage}.data.held_out=0.2"),
        *(one for key in OFTEN.split(", ") for one in ("--set", f"stages.{stage}.train.{key.replace(': ', '=')}")),
        *("--set", f"stages.{stage}.train.learning_rate={rate}"),
    )


@pytest.mark.parametrize("stage", ["pretrain", "ppo"])
def test_the_best_step_is_what_the_stage_leaves(stage_of, stage, tmp_path, monkeypatch):
    """Where a figure would get better to the end, it is turned round."""
    monkeypatch.setattr("pipeline.train.loop.best.LOWER_IS_BETTER", set())
    told = []
    run = stage_of(stage, *asked(stage)[1::2], report=lambda kind, **fields: told.append((kind, fields)))
    assert run.run() == 0
    said = json.loads((tmp_path / "manifest.json").read_text())
    kept, (event,) = said["kept"], [fields for kind, fields in told if kind == "kept"]
    assert event == kept and kept["step"] < kept["last"] == 12
    # The figures are of it.
    assert said["metrics"]["after"][kept["best"]] == kept["value"]
    assert kept["value"] == max(one["value"] for one in kept["candidates"])
    assert [one["step"] for one in kept["candidates"]] == [3, 6, 9, 12]
    assert not (tmp_path / "best").exists()


def test_a_run_that_was_killed_chooses_as_one_that_never_was(copied):
    folder = copied("sft")
    process = start(folder, "sft", *asked("sft"))
    wait_for(folder, "sft/*/checkpoints/checkpoint-10", process)
    kill(process, folder)
    said = align("run", "sft", "-r", "micro.yaml", *asked("sft"), cwd=folder).stdout
    resumed = manifest(folder, "sft")
    assert "continues from step" in said and f"kept: step {resumed['kept']['step']} of 12, " in said
    align("run", "sft", "-r", "micro.yaml", *asked("sft"), "--fresh", cwd=folder)
    whole = manifest(folder, "sft")
    assert attempt(folder, "sft").name.endswith("-2") and whole["kept"]["step"] < 12
    for what in ("kept", "weights_sha256", "metrics", "steps"):
        assert resumed[what] == whole[what]


def best_of(tmp_path, figure="exact_match") -> tuple[Best, SimpleNamespace]:
    """With a trainer that has nothing but what is asked of it."""
    trainer = SimpleNamespace(state=SimpleNamespace(global_step=12), had=[])
    trainer.put = trainer.had.append
    return Best(tmp_path, figure, lambda *_, **__: None), trainer


@pytest.fixture
def saves(monkeypatch):
    """Stands for the weights: an empty folder."""
    monkeypatch.setattr(
        "pipeline.train.loop.best.save_weights", lambda model, folder, ranks: folder.mkdir(parents=True)
    )


def test_of_equals_the_first_and_what_is_no_number_never(tmp_path, saves):
    best, trainer = best_of(tmp_path)
    for step, value in ((3, math.nan), (6, 0.5), (9, 0.5), (12, 0.4)):
        best.consider(step, {"exact_match": value}, None)
    assert best.settle(trainer)["step"] == 6
    assert trainer.had == [tmp_path / "best" / "step-6"]


def test_what_a_resume_may_need_is_kept(tmp_path, saves, monkeypatch):
    """From the oldest checkpoint on a run may go another way than the one that was killed."""
    best, trainer = best_of(tmp_path, "loss")
    checkpoints = [(9, tmp_path), (4, tmp_path)]
    monkeypatch.setattr("pipeline.train.loop.best.Attempt.checkpoints", lambda self: checkpoints)
    for step, value in ((2, 3.0), (3, 2.0), (6, 1.0), (9, 0.5)):
        best.consider(step, {"loss": value}, None)
    assert sorted(one.name for one in (tmp_path / "best").iterdir()) == ["step-3", "step-6", "step-9"]
    for step, value in ((6, 2.5), (9, 2.5), (12, 2.5)):  # as on a machine that is not exact
        best.consider(step, {"loss": value}, None)
    assert best.settle(trainer)["step"] == 3


def test_a_figure_that_is_never_a_number_is_an_error(tmp_path, saves):
    from pipeline.errors import PipelineError

    best, trainer = best_of(tmp_path)
    best.consider(12, {"exact_match": math.nan}, None)
    with pytest.raises(PipelineError, match="exact_match is no number at any of the 1 steps"):
        best.settle(trainer)


def test_the_fingerprint_counts_it_and_what_it_depends_on(chain):
    held = ("--set", "stages.sft.train.eval_strategy=epoch")
    loss, match = (("--set", f"stages.sft.keep={{best: {one}}}", *held) for one in ("loss", "exact_match"))
    other = ("--set", "evaluation.answer_pattern=^..")

    def name(*given: str) -> str:
        return plan(chain, *given)["sft"]["fingerprint"]

    plain = name()
    assert name(*held) == name(*other) == plain  # how it is evaluated is no part of what is trained
    assert len({plain, name(*loss), name(*match), name(*match, *other)}) == 4
    assert name(*loss, *other) == name(*loss)
    assert name(*loss, "--set", "evaluation.max_rows=5") != name(*loss)
    assert name(*loss, "--set", "evaluation.samples=1") == name(*loss)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("stages.sft.keep=best",), "names no figure; write keep: {best: loss}"),
        (("stages.sft.keep={best: loss}",), "no step but the last is measured; add train: {eval_strategy: steps"),
        (("stages.sft.keep={best: preference_accuracy}",), "sft does not measure preference_accuracy; what can decide"),
        (("stages.sft.keep={best: loss}", "stages.sft.data.held_out=0"), "no row is held out"),
        (("stages.dpo.keep={best: chrf}", "train.eval_strategy=epoch"), "dpo does not measure chrf"),
        (("train.load_best_model_at_end=true",), "set keep: {best: a figure} in the stage instead"),
        (("train.save_strategy=best",), "set keep: {best: a figure} in the stage"),
        (
            (LOSS, "stages.sft.train={eval_strategy: steps, eval_steps: 12}"),
            "eval_steps is 12, and there are 12 steps.",
        ),
        ((LOSS, "stages.sft.train={eval_strategy: steps, logging_steps: 99}"), "eval_steps is 99, and there are 12"),
        (
            (LOSS, "train.eval_strategy=epoch", "adapter={method: adalora, tinit: 2, tfinal: 2}"),
            "keep does not go with adapter.method adalora: its ranks are settled by its last steps",
        ),
    ],
)
def test_what_cannot_decide_is_refused_by_the_plan(chain, given, said):
    assert said in refused(chain, "plan", "-r", "micro.yaml", *(one for key in given for one in ("--set", key)))


def test_what_only_the_rows_tell_is_refused_before_the_first_step(stage_of):
    rare = "stages.sft.train={eval_strategy: steps, eval_steps: 99, max_steps: -1, num_train_epochs: 1}"
    with pytest.raises(PipelineError, match=r"there is nothing to choose from: train\.eval_steps is 99, and there are"):
        stage_of("sft", LOSS, rare).run()
