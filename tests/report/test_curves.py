"""Curves show what a log has: gaps as gaps, peaks as peaks."""

import math

from pipeline.report import curves
from pipeline.report.kept import read_log


def test_a_number_that_is_none_is_a_gap_and_told():
    lines = [{"step": step, "loss": math.nan if step == 5 else 1.0 / step} for step in range(1, 11)]
    (chart,) = curves.charts(lines, {}, {})
    assert chart.lines[0].raw.count("M") == 2
    assert chart.notes == ["training: NaN or infinite at step 5; the line has a gap there"]


def test_a_curve_of_nothing_but_nan_is_told_and_not_drawn():
    (chart,) = curves.charts([{"step": step, "loss": math.nan} for step in (1, 2, 3)], {}, {})
    assert chart.lines == [] and "3 of the steps 1 to 3" in chart.notes[0]


def test_a_peak_outlives_thinning():
    lines = [{"step": step, "grad_norm": 50.0 if step == 1234 else 1.0} for step in range(1, 3001)]
    (chart,) = curves.charts(lines, {}, {})
    points = chart.lines[0].raw.replace("M", "L").split("L")[1:]
    assert len(points) <= curves.MOST_POINTS + 2
    assert min(float(point.split()[1]) for point in points) < curves.HEIGHT / 2 < float(points[0].split()[1])


def test_what_is_smoothed_does_not_lag():
    steps = [(step, float(step > 500)) for step in range(1001)]
    half = next(step for step, value in curves.smoothed(steps) if value >= 0.5)
    assert abs(half - 501) <= 1


def test_train_and_held_out_stand_in_one_chart():
    lines = [{"step": 4, "loss": 2.0}, {"step": 4, "eval_loss": 2.5}, {"step": 8, "loss": 1.0}]
    (chart,) = curves.charts(lines, {"loss": 3.0}, {"loss": 1.5})
    held_out = next(line for line in chart.lines if line.style == "held-out")
    assert len(held_out.dots) == 3 and "held out: 3 at step 0, 1.5 at step 8" in chart.told[1]


def test_a_log_that_was_cut_is_read_up_to_there(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')
    log = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in log.lines] == [1, 2]
    assert "a line cannot be read" in log.notes[0]
    assert read_log(tmp_path / "none.jsonl").lines == []


def test_a_number_beyond_all_charts_has_one_of_its_own():
    lines = [{"step": step, "loss": 1.0, "val/ratio": 1.0 + step, "val/eos_rate": 1.0} for step in (1, 2)]
    assert [chart.title for chart in curves.more(lines)] == ["val/ratio"]  # what never changes has none
