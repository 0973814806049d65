"""What a stage did to what earlier stages taught: measured on their held-out rows, and a gate where too much is lost."""

import json
import math
import re
import shutil

import pytest
from conftest import align, attempt, manifest, plan, refused

from pipeline.artifact.attempt import Attempt
from pipeline.train.earlier import AFTER, BEFORE, OWN


def test_a_policy_is_asked_what_every_earlier_stage_was_asked(chain):
    said = manifest(chain, "dpo")["earlier"]
    assert list(said) == ["pretrain", "sft"]
    assert set(manifest(chain, "sft")["earlier"]) == {"pretrain"}
    assert manifest(chain, "pretrain")["earlier"] == manifest(chain, "reward")["earlier"] == {}
    assert said["sft"]["after"]["n"] == manifest(chain, "sft")["metrics"]["after"]["n"]
    assert {"exact_match", "perplexity"} <= set(said["sft"]["after"])


def test_before_is_what_the_parents_own_run_found(chain):
    said, sft = manifest(chain, "dpo")["earlier"], manifest(chain, "sft")
    for name in ("loss", "exact_match"):
        assert said["sft"]["before"][name] == sft["metrics"]["after"][name]
    assert said["pretrain"]["before"] == sft["earlier"]["pretrain"]["after"]


def test_after_is_of_the_trained_policy_and_the_earlier_rows(stage_of, chain):
    policy = stage_of("dpo")
    model = policy.models.trained(policy.models.at_the_start(), Attempt(attempt(chain, "dpo")))
    found = stage_of("sft").measuring.evaluation.run(model).metrics
    said = manifest(chain, "dpo")["earlier"]["sft"]
    assert {name: found[name] for name in said["after"]} == pytest.approx(said["after"], abs=1e-6)
    moved = said["differences"]["loss"]
    assert moved["value"] == pytest.approx(said["after"]["loss"] - said["before"]["loss"], abs=1e-9)
    assert moved["low"] <= moved["value"] <= moved["high"]


def test_what_the_parent_has_not_kept_is_measured_to_the_same_figures(stage_of, chain, built):
    for name in (OWN, AFTER):
        (attempt(built, "sft") / name).unlink()
    stage = stage_of("dpo")
    stage.measuring.earlier.before(stage.models.at_the_start())
    kept = json.loads((stage.folder / BEFORE).read_text())
    for name, said in manifest(chain, "dpo")["earlier"].items():
        figures = kept[name]["figures"]["metrics"]
        assert {key: figures[key] for key in said["before"]} == pytest.approx(said["before"], abs=1e-6)


def test_rows_that_are_gone_are_told(stage_of, built):
    shutil.rmtree(built / "runs/.data" / manifest(built, "pretrain")["data"]["prepared"])
    notes = []
    stage = stage_of("dpo", report=lambda kind, **fields: notes.append(fields.get("text")))
    assert [one.name for one in stage.measuring.earlier.taught] == ["sft"]
    assert "what pretrain taught is not measured: its rows are not kept any more" in notes


def test_rows_that_are_there_again_are_measured_from_where_training_starts(stage_of, built):
    """A killed run whose rows were gone at first, and that goes on where they are not."""
    rows = built / "runs/.data" / manifest(built, "pretrain")["data"]["prepared"]
    shutil.move(rows, built / "gone")
    first = stage_of("dpo")
    first.measuring.earlier.before(first.models.at_the_start())
    shutil.move(built / "gone", rows)
    earlier, model = (again := stage_of("dpo")).measuring.earlier, again.models.at_the_start()
    earlier.before(model)
    earlier.after(model)
    assert [*earlier.summary()] == ["pretrain", "sft"]


def test_a_stage_that_loses_too_much_ends_the_run_with_3_and_is_not_the_latest(built):
    harsh = ("--set", "stages.dpo.train.learning_rate=0.1", "--set", "stages.dpo.train.max_steps=6")
    before = (built / "runs/micro/dpo/latest").resolve()
    gate = ("--set", "stages.dpo.must_keep={perplexity: 1.05}")
    said = refused(built, "run", "dpo", "-r", "micro.yaml", *harsh, *gate, code=3)
    assert re.search(r"falls short dpo: perplexity on the rows of \w+ was", said)
    assert "must_keep: perplexity: 1.05 asks for" in said
    assert (built / "runs/micro/dpo/latest").resolve() == before
    again = refused(built, "run", "dpo", "-r", "micro.yaml", *harsh, *gate, code=3)
    assert "trained to step" not in again and "falls short" in again
    assert any("perplexity on the rows of" in lost for lost in plan(built, "dpo", *harsh, *gate)["dpo"]["falls_short"])
    page = (built / "runs/micro/report.html").read_text()
    assert "Do not keep it: dpo falls short" in page and "Falls short of must_keep: perplexity on the rows of" in page
    # The limit is no part of what is trained or measured.
    assert "Everything is up to date" in align("run", "dpo", "-r", "micro.yaml", *harsh, cwd=built).stdout
    assert (built / "runs/micro/dpo/latest").resolve() != before


def test_nothing_is_built_on_a_stage_that_falls_short(built):
    nothing = ("--set", "stages.sft.data.held_out=0.00001")  # so that there will be no figures
    gate = ("--set", "stages.sft.must_keep={exact_match: -0.5}")
    said = refused(built, "run", "sft", "dpo", "-r", "micro.yaml", *nothing, *gate, code=3)
    assert "exact_match was not measured, and must_keep names it" in said and "dpo run:" not in said


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ("{exact_mach: -0.02}", "did you mean exact_match?"),
        ("{exact_match: 0.02}", "0.02 is how much it may fall by, like -0.02"),
        ("{perplexity: 0.9}", "0.9 is the factor that it may grow by: 1 or more"),
        ("{perplexity: much}", "'much' is no number"),
        ("0.9", "has to be figures with their limits"),
    ],
)
def test_limits_that_mean_nothing_are_refused(chain, limits, says):
    assert says in refused(chain, "plan", "dpo", "-r", "micro.yaml", "--set", f"stages.dpo.must_keep={limits}")


def test_earlier_stages_can_be_left_out(built):
    align("run", "dpo", "-r", "micro.yaml", "--set", "stages.dpo.evaluation.earlier_stages=false", cwd=built)
    assert manifest(built, "dpo")["earlier"] == {}
    assert not math.isnan(manifest(built, "dpo")["metrics"]["after"]["loss"])
