"""Two attempts beside each other: which keys differ, and what is more than chance."""

import json

import made
import pytest
from browser import browser
from conftest import align, refused

from pipeline.errors import PipelineError
from pipeline.recipe.reading import load_recipe
from pipeline.report import verdict
from pipeline.report.beside import Beside, find

EVALUATION = {"sha256": "same"}
OTHER = "ba9876543210"


def two(tmp_path, now: list[float], **more) -> Beside:
    """Against an attempt with 90 of 100 right, one whose rows are `now`, at another learning rate."""
    inputs = made.INPUTS | {"train": made.INPUTS["train"] | {"learning_rate": 0.05}}
    a = made.attempt(tmp_path, evaluation=EVALUATION)
    b = made.attempt(
        tmp_path,
        name=OTHER,
        inputs=inputs,
        after=made.figures({"exact_match": now}),
        **{"evaluation": EVALUATION} | more,
    )
    return Beside(a, b)


def test_what_differs_is_told_with_the_interval_of_the_difference(tmp_path):
    beside = two(tmp_path, [0.0] * 20 + [1.0] * 80)
    assert beside.keys == ["train.learning_rate: 0.005 -> 0.05"]
    (one,) = beside.changes
    assert (one.before, one.after, one.verdict) == (0.9, 0.8, "worse")
    assert one.low == pytest.approx(-0.16, abs=0.02) and one.high == pytest.approx(-0.04, abs=0.02)
    assert beside.verdict == (verdict.LOST, f"{OTHER} has the worse exact match, more than chance explains.")


def test_of_other_rows_it_is_not_taken_for_a_pair(tmp_path):
    beside = two(tmp_path, [0.0] * 13 + [1.0] * 87, evaluation={"sha256": "other"})
    win_rate = made.figures({"win_rate": [1.0] * 60 + [0.0] * 40})
    apart = Beside(
        made.attempt(tmp_path, stage="dpo", after=win_rate),
        made.attempt(tmp_path, stage="dpo", name=OTHER, after=win_rate),
    )
    assert [one.verdict for one in apart.changes] == ["equal"]  # against the other's, and not against even
    (one,) = beside.changes
    assert one.verdict == "chance" and "shares alone" in one.how
    assert "not asked the same rows" in " ".join(beside.notes)


def test_two_attempts_that_are_alike_differ_by_no_more_than_chance(tmp_path):
    assert two(tmp_path, made.NOW).verdict[0] == verdict.NOTHING


def test_of_an_unfinished_one_there_are_keys_and_curves(tmp_path):
    a, b = made.attempt(tmp_path), made.attempt(tmp_path, name=OTHER, finished=False)
    beside = Beside(a, b)
    assert beside.changes == [] and len(beside.charts) == 3
    assert f"{OTHER} is not finished" in " ".join(beside.notes)


def test_both_curves_stand_on_one_plot_and_differ_by_more_than_color(tmp_path):
    loss = two(tmp_path, made.NOW).charts[0]
    assert [(line.label, line.style) for line in loss.lines] == [("0123456789ab", "first"), (OTHER, "second")]


def test_an_attempt_is_found_by_what_a_person_has_at_hand(tmp_path, micro, monkeypatch):
    monkeypatch.chdir(micro)
    recipe, runs = load_recipe(micro / "micro.yaml"), tmp_path / "runs"
    attempt = made.attempt(runs / "micro")
    made.attempt(runs / "micro", name=f"{attempt.folder.name}-2")
    made.attempt(runs / "micro", stage="dpo", name=OTHER)
    assert find("0123456789ab", recipe, runs) == attempt
    assert find("sft/0123456789ab-2", recipe, runs).number == 2
    assert find("ba98", recipe, runs).folder.parent.name == "dpo"
    for wrong, said in (
        ("0123", "2 attempts begin so"),
        ("ba", "neither a stage"),
        ("sft", "there is no attempt at it"),
    ):
        with pytest.raises(PipelineError, match=said):
            find(wrong, recipe, runs)


def test_the_command_prints_it_and_writes_a_page(built):
    align("run", "sft", "-r", "micro.yaml", "--set", "stages.sft.train.learning_rate=1e-3", cwd=built)
    others = [one.name for one in (built / "runs/micro/sft").iterdir() if one.is_dir() and not one.is_symlink()]
    here = json.loads(align("plan", "sft", "-r", "micro.yaml", "--json", cwd=built).stdout)[-1]["folder"]
    other = next(name for name in others if not here.endswith(name))
    said = align("diff", "sft", other, "-r", "micro.yaml", cwd=built).stdout
    assert "train.learning_rate: 0.005 -> 0.001" in said and "exact match" in said and "too few rows to tell" in said
    told = json.loads(align("diff", here, other, "-r", "micro.yaml", "--json", cwd=built).stdout)
    assert told["keys"] == ["train.learning_rate: 0.005 -> 0.001"] and told["notes"] == []
    assert told["figures"]["loss"]["low"] <= told["figures"]["loss"]["difference"] <= told["figures"]["loss"]["high"]
    (page,) = (built / "runs" / "micro").glob("diff-*.html")
    assert other in page.read_text(encoding="utf-8")
    assert "did you mean" in refused(built, "diff", "sft", "sfd", "-r", "micro.yaml")
    with browser() as opened:
        opened.open(f"file://{page}")
        assert opened.run("return document.querySelectorAll('.chart svg').length") >= 5
