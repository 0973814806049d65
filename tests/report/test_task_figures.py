"""Figures of benchmarks: what a person is told of a difference, on the terminal and on the page."""

import made
from conftest import write_micro
from rich.console import Console
from test_page import HOSTILE, text_of

from pipeline.artifact import benchmarks as kept
from pipeline.console import benchmarks as shown
from pipeline.console.screen import Screen
from pipeline.report import benchmarks

HOW = {"few_shot": None, "limit": None, "chat_template": True, "lm_eval": "0.4.13"}


def side(name: str, value: float, n: int = 100, higher: bool | None = True, task: str = "quiz", cut: int = 0) -> dict:
    figure = {"value": value, "stderr": 0.02, "higher_is_better": higher}
    results = {task: {"figures": {"acc,none": figure}, "n": n, "of": n, "few_shot": 2}}
    return {"policy": {"weights": name}, "name": name, "results": results, "each": {}, "cut": cut}


def said(value: float, low: float, high: float, *, task: str = "quiz", **more) -> dict:
    known = {"value": value, "low": low, "high": high, "how": "paired bootstrap over the questions"}
    sides = {"before": side("sft", 0.5, task=task), "after": side("dpo", 0.5 + value, task=task, **more)}
    return sides | {"asked": HOW | {"task": task}, "differences": {task: {"acc,none": known}}}


def word(*numbers: float, **more) -> str:
    (line,) = benchmarks.Result(said(*numbers, **more)).lines
    return line.word


def test_a_difference_is_told_for_what_it_is():
    assert word(0.1, 0.02, 0.18) == "better" and word(-0.1, -0.18, -0.02) == "worse"
    assert word(-0.1, -0.18, -0.02, higher=False) == "better"
    assert word(0.1, -0.02, 0.2) == "no more than chance" and word(0.0, 0.0, 0.0) == "unchanged"
    assert word(0.1, 0.02, 0.18, n=12) == "too few rows to tell"
    assert word(0.1, 0.02, 0.18, higher=None) == "better or worse is not known"
    assert word(0.1, None, None) == "chance not known"


def test_without_anything_before_there_is_no_difference():
    (line,) = benchmarks.Result(said(0.1, 0, 0) | {"before": None, "differences": {}}).lines
    assert line.before is None and line.difference is None and line.word == ""


def test_how_it_was_asked_is_told():
    one = said(0.1, 0.02, 0.18, cut=3)
    one["asked"] |= {"limit": 50}
    how = benchmarks.Result(one).how
    assert how == (
        "2 examples before each question, the chat template, only the first 50 questions, 3 prompts too long, "
        "their beginning cut; lm-eval 0.4.13"
    )


def test_the_terminal_shows_both_sides_with_their_errors():
    console = Console(width=150, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    shown.show(Screen(console), [benchmarks.Result(said(0.25, 0.2, 0.3))], "dpo")
    text = " ".join(console.export_text().split())
    assert "dpo on benchmarks, before (sft) and after" in text
    assert "quiz acc 0.500 ± 0.020 0.750 ± 0.020 +0.250 +0.200 to +0.300 100 better" in text


def page(tmp_path, **results: dict) -> str:
    attempt = made.attempt(tmp_path / "runs" / "micro")
    for one in results.values():
        kept.keep(attempt.folder / kept.FOLDER, one["asked"], one)
    return made.written(tmp_path, attempt)


def test_the_page_shows_them_and_counts_what_got_worse(tmp_path):
    whole = page(tmp_path, one=said(-0.25, -0.3, -0.2))
    text = text_of(whole)
    assert "Benchmarks" in text and "quiz: acc" in text and "0.500 ± 0.020" in text
    assert "Quiz: acc fell from 0.500 to 0.250, more than chance explains." in text
    assert "nothing that was measured got worse" not in text.lower()


def test_a_hostile_task_does_nothing_on_the_page_and_an_edited_result_is_told(tmp_path):
    attempt = made.attempt(tmp_path / "runs" / "micro")
    one = said(0.25, 0.2, 0.3, task=HOSTILE)
    kept.keep(attempt.folder / kept.FOLDER, one["asked"], one)
    other = said(0.25, 0.2, 0.3)
    file = kept.keep(attempt.folder / kept.FOLDER, other["asked"], other)
    file.write_text(file.read_text().replace("0.25", "0.99"))
    whole = made.written(tmp_path, attempt)
    assert "<script>document.title" not in whole and "<img" not in whole
    assert "was changed after it was written" in text_of(whole)


def test_a_page_without_any_says_nothing_of_them(tmp_path):
    write_micro(tmp_path)
    assert "Benchmarks" not in page(tmp_path)
