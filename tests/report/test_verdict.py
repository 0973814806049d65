"""What is called more than chance, and what a page says of it."""

import made
import pytest

from pipeline.evaluate.figures import Figures
from pipeline.evaluate.intervals import differences
from pipeline.evaluate.shares import newcombe, wilson
from pipeline.report import change, verdict
from pipeline.report.change import changes


def judged(before: dict, after: dict, *, rows_kept: bool = True) -> tuple[dict, verdict.Verdict]:
    """(the changes by name, the verdict) of what each row's numbers were."""
    was, now = made.figures(before), made.figures(after)
    known = differences(Figures(**was), Figures(**now)) if rows_kept else {}
    if not rows_kept:
        was, now = was | {"each": {}}, now | {"each": {}}
    found = list(changes(was, now, {name: one.to_json() for name, one in known.items()}))
    return {one.name: one for one in found}, verdict.of_stage(found, now["metrics"])


def test_intervals_of_shares_are_those_of_the_books():
    assert wilson(0.0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe's own example
    low, high = newcombe(48 / 80, 80, 56 / 70, 70)
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_pairs_are_surer_than_shares_alone():
    """Six rows of a hundred became right and none wrong: of the same rows that is more than chance, of others it may be."""
    was, now = [0.0] * 50 + [1.0] * 50, [1.0] * 6 + [0.0] * 44 + [1.0] * 50
    paired = judged({"exact_match": was}, {"exact_match": now})[0]["exact_match"]
    apart = judged({"exact_match": was}, {"exact_match": now}, rows_kept=False)[0]["exact_match"]
    assert (paired.verdict, apart.verdict) == ("better", "chance")
    assert apart.low < 0 < paired.low and paired.difference == pytest.approx(0.06)


def test_a_loss_counts_rows_by_their_tokens():
    was = Figures(each={"loss": [3.0, 1.0]}, weights={"loss": [1, 3]})
    now = Figures(each={"loss": [1.0, 1.0]}, weights={"loss": [1, 3]})
    found = differences(was, now)["loss"]
    assert found.value == pytest.approx(-0.5) and found.low == pytest.approx(-2) and found.high == 0


def test_a_fall_of_a_loss_is_better_and_a_fall_of_accuracy_is_worse():
    found, said = judged(
        {"loss": [2.0] * 100, "exact_match": [1.0] * 100}, {"loss": [1.0] * 100, "exact_match": [1.0] * 70 + [0.0] * 30}
    )
    assert {name: one.verdict for name, one in found.items()} == {"loss": "better", "exact_match": "worse"}
    assert said.mark == verdict.BOTH
    assert said.learned.startswith("Loss fell from 2.000 to 1.000, more than chance")
    assert said.lost.startswith("Exact match fell from 1.000 to 0.700")


def test_what_reads_the_same_neither_rose_nor_fell():
    few = judged({"loss": [0.6790] * 7}, {"loss": [0.6791] * 7})[1]
    assert few.learned.startswith("Loss stayed at 0.679, but only 7 held-out rows")
    many = judged({"loss": [0.6790] * 40}, {"loss": [0.6791] * 40})[1]  # every row: more than chance
    assert many.lost.startswith("Loss rose from 0.6790 to 0.6791, more than chance")


def test_few_rows_claim_nothing():
    found, said = judged({"exact_match": [0.0] * 29}, {"exact_match": [1.0] * 29})
    assert found["exact_match"].verdict == "few" and said.mark == verdict.OPEN
    assert "only 29 held-out rows" in said.learned
    assert judged({"exact_match": [0.0] * 30}, {"exact_match": [1.0] * 30})[1].mark == verdict.LEARNED


def test_no_rows_and_what_is_no_number_are_told():
    assert "No rows were held out" in judged({}, {})[1].learned
    found, _ = judged({"loss": [1.0] * 40}, {"loss": [float("nan")] * 40}, rows_kept=False)
    assert found["loss"].verdict == "unknown" and found["loss"].difference is None


def test_a_win_rate_is_held_against_even():
    found, _ = judged({}, {"win_rate": [1.0] * 55 + [0.0] * 45})
    assert found["win_rate"].verdict == "chance"
    found, _ = judged({}, {"win_rate": [1.0] * 75 + [0.0] * 25})
    assert found["win_rate"].verdict == "better" and found["win_rate"].difference == pytest.approx(0.25)


def test_what_a_lookup_does_as_well_is_no_secret():
    was, now = made.figures({"exact_match": [0.0] * 50}), made.figures({"exact_match": [1.0] * 50})
    now["metrics"]["nearest_question"] = 1.0
    said = verdict.of_stage(list(changes(was, now, None)), now["metrics"])
    assert "Looking up the nearest training question does as well" in said.besides


def test_a_chain_is_only_spoken_for_where_no_stage_lost():
    good, bad = verdict.Verdict(verdict.LEARNED, ""), verdict.Verdict(verdict.BOTH, "")
    assert verdict.of_chain([("sft", good), ("dpo", good)], [])[0] == verdict.LEARNED
    mark, said = verdict.of_chain([("sft", good), ("dpo", bad)], ["ppo"])
    nothing = verdict.Verdict(verdict.NOTHING, "")
    assert "Nothing speaks for keeping dpo" in verdict.of_chain([("sft", good), ("dpo", nothing)], [])[1]
    assert mark == verdict.BOTH and "dpo lost" in said and "ppo is not trained" in said


def test_what_was_forgotten_counts_against_a_stage():
    said = {"before": {"exact_match": 0.9, "n": 100}, "after": {"exact_match": 0.5, "n": 100}}
    lost = {"exact_match": {"value": -0.4, "low": -0.5, "high": -0.3}}
    (forgotten,) = change.of_earlier({"earlier": {"sft": said | {"differences": lost}}})
    own = change.Change("preference_accuracy", 0.5, 0.9, 100, change.BETTER, 0.4, 0.3, 0.5)
    told = verdict.of_stage([own, forgotten], {})
    assert told.mark == verdict.BOTH and "exact match on the rows of sft fell from 0.900 to 0.500" in told.lost.lower()
    few = {"earlier": {"sft": {"before": {"exact_match": 0.9, "n": 10}, "after": {"exact_match": 0.5, "n": 10}}}}
    few["earlier"]["sft"]["differences"] = lost
    assert verdict.of_stage([own, *change.of_earlier(few)], {}).mark == verdict.LEARNED  # of 10 rows nothing is told
