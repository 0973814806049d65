"""The page of a chain: what a run writes by itself, and what bad input does to it, which is nothing."""

import json
import re
import time
from html import unescape

import made
import pytest
from browser import browser
from conftest import align, manifest

from pipeline.artifact.attempt import Attempt
from pipeline.report import answers, part
from pipeline.report.page import Live

HOSTILE = '</span><script>document.title = "hacked"</script><img src=x onerror="document.title = \'hacked\'">'


def text_of(page: str) -> str:
    return unescape(" ".join(re.sub("<[^>]*>", " ", page.partition("<body")[2]).split()))


def test_a_run_leaves_its_page(chain):
    page = (chain / "runs" / "micro" / "report.html").read_text(encoding="utf-8")
    for stage in ("pretrain", "sft", "dpo", "reward", "ppo"):
        assert f'id="{stage}"' in page and page.count(f'href="#{stage}"') >= 3  # on top, and in both pictures
    assert 'http-equiv="refresh' not in page and 'id="live"' not in page
    loaded = re.findall(r"""(?:src|href)=["']?([^"'\s>]+)|url\(([^)]+)|@import""", page)
    assert {one for one, _ in loaded if not one.startswith("#")} == set()  # nothing comes from elsewhere
    said = text_of(page)
    assert "8 held-out rows were measured" in said and "0.005" in said
    assert len(page) < 200_000


def test_the_command_writes_it_again_and_prints_where(built):
    file = built / "runs" / "micro" / "report.html"
    file.unlink()
    assert "report.html" in align("report", "-r", "micro.yaml", cwd=built).stdout
    first = text_of(file.read_text(encoding="utf-8"))
    align("report", "-r", "micro.yaml", "--set", "seed=7", cwd=built)
    changed = text_of(file.read_text(encoding="utf-8"))
    assert "What" in first and "never run before" not in first
    assert "Nothing is trained as the recipe stands" in changed and "seed: 42 -> 7" in changed


def test_a_plan_that_fails_leaves_a_page_that_says_so(built):
    (built / "pairs.jsonl").unlink()
    align("report", "-r", "micro.yaml", cwd=built)
    page = text_of((built / "runs" / "micro" / "report.html").read_text(encoding="utf-8"))
    assert "pairs.jsonl" in page and "could not be told" in page


def test_every_row_that_was_answered_is_kept_with_its_reference(chain):
    folder = (chain / "runs" / "micro" / "sft" / "latest").resolve()
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 8 and all({"prompt", "before", "after", "reference"} == line.keys() for line in lines)
    said = manifest(chain, "sft")
    assert len(said["samples"]) == 3
    assert said["differences"].keys() == {"loss", "exact_match"}
    value = said["metrics"]["after"]["loss"] - said["metrics"]["before"]["loss"]
    assert said["differences"]["loss"]["value"] == pytest.approx(value)


@pytest.mark.parametrize("stage", ["dpo", "reward", "ppo"])
def test_differences_are_those_of_the_figures(chain, stage):
    said = manifest(chain, stage)
    for name, one in said["differences"].items():
        was = 0.5 if name == "win_rate" else said["metrics"]["before"][name]
        assert one["value"] == pytest.approx(said["metrics"]["after"][name] - was, abs=1e-6)
        assert one["low"] <= one["value"] + 1e-9 and one["value"] - 1e-9 <= one["high"]
    assert said["differences"].keys() & {"preference_accuracy", "reward_accuracy", "mean_reward"}


def test_a_sample_is_text_and_nothing_else(tmp_path):
    long = "\N{FACE WITH TEARS OF JOY}" * 100_000
    samples = [
        {"prompt": HOSTILE, "before": "\ud800\x00\x1b[31m", "after": long, "reference": HOSTILE},
        {"prompt": "same?", "before": "same", "after": "same"},
    ]
    page = made.written(tmp_path, made.attempt(tmp_path, samples=samples))
    assert "<img" not in page and page.count("<script") == 1 and "<b>long" not in page and "<i>chat" not in page
    assert (
        f"{100_000 - answers.LONG:,} characters more" in page
        and page.count("\N{FACE WITH TEARS OF JOY}") == answers.LONG
    )
    assert "1 of 2 changed" in page and "\x1b" not in page and "\x00" not in page


def test_changed_answers_come_first_and_what_became_wrong_before_all():
    samples = [{"prompt": str(n), "before": "a", "after": "a" if n in (0, 4) else "b"} for n in range(5)]
    each = {"exact_match": [1.0, 0.0, 0.0, 1.0, 0.0]}, {"exact_match": [1.0, 1.0, 0.0, 0.0, 0.0]}
    found = answers.answers(samples, *({"each": one} for one in each))
    assert [(one.prompt.shown, one.word) for one in found.shown] == [
        ("3", "became wrong"),
        ("1", "became right"),
        ("2", "changed, both wrong"),
        ("0", "right"),
        ("4", "wrong"),
    ]


def test_an_artifact_of_an_earlier_version_says_what_is_not_known(tmp_path):
    before, after = made.figures({"mean_score": made.WAS}), made.figures({"mean_score": made.NOW})
    page = text_of(made.written(tmp_path, made.attempt(tmp_path, before=before, after=after, rows_kept=False)))
    assert "chance not known" in page and "were not kept" in page
    assert "more than chance explains." not in page.partition("“")[0]


def test_a_share_of_pairs_is_not_taken_for_one_of_rows(tmp_path):
    before, after = ({"metrics": {"preference_accuracy": value, "n": 100, "n_wanted": 50}} for value in (0.6, 0.9))
    empty = {"each": {}, "weights": {}, "completions": []}
    page = text_of(made.written(tmp_path, made.attempt(tmp_path, before=before | empty, after=after | empty)))
    assert "a share of pairs of rows, for which no interval" in page and "0.900 0.8" not in page


def test_a_page_that_is_open_follows_the_run(tmp_path):
    unfinished = made.attempt(tmp_path, finished=False)
    made.written(tmp_path, unfinished, live=Live("sft", 120, every=0.2))
    with browser() as opened:
        opened.open(f"file://{tmp_path}/report.html")
        opened.wait_for("document.getElementById('live').innerText.includes('sft is running')")
        made.written(tmp_path, unfinished)
        opened.wait_for("document.getElementById('live') === null", seconds=20)


def test_what_was_refused_before_it_began_is_not_on_the_page(tmp_path):
    unfinished = made.attempt(tmp_path, "dpo", finished=False)
    assert "dpo is not trained as the recipe stands" in text_of(
        made.written(tmp_path, made.attempt(tmp_path), unfinished)
    )
    (unfinished.folder / "inputs.json").unlink()
    page = made.written(tmp_path, Attempt(tmp_path / "sft/0123456789ab"), unfinished)
    assert "dpo is not trained" not in text_of(page) and 'id="dpo"' not in page


def test_no_rows_a_broken_log_and_another_schema_are_told(tmp_path):
    empty = made.figures({})
    shown = made.attempt(tmp_path, before=empty, after=empty)
    with (shown.folder / "log.jsonl").open("a") as log:
        log.write('{"step": 31, "loss": NaN}\n{"step": 32, "lo')
    other = made.attempt(tmp_path, name="ba9876543210")
    (other.folder / "manifest.json").write_text('{"schema": 0}')
    page = text_of(made.written(tmp_path, shown))
    assert "No rows were held out" in page and "cannot be read" in page and "NaN or infinite at step 31" in page
    assert "is not a manifest of this pipeline" in page
    unasked = made.attempt(
        tmp_path / "other", before=empty, after=empty, evaluation={"settings": {"max_rows": 0, "answer_pattern": None}}
    )
    page = text_of(made.written(tmp_path, unasked))
    assert "No rows were held out" not in page and "evaluation.max_rows is 0: none of the held-out rows" in page


def test_two_hundred_attempts_stay_one_quick_page(tmp_path):
    for number in range(200):
        inputs = made.INPUTS | {"seed": number}
        made.attempt(tmp_path, name=f"{number:012x}", inputs=inputs)
    shown = made.attempt(tmp_path)
    begun = time.monotonic()
    page = made.written(tmp_path, shown)
    assert time.monotonic() - begun < 2  # 0.1 s on a quiet machine
    assert len(page) < 100_000 and page.count("seed: 42 -&gt;") == part.ATTEMPTS_SHOWN - 1
    assert f"{201 - part.ATTEMPTS_SHOWN} earlier ones" in page


def test_a_running_stage_shows_how_far_it_is_and_reloads(tmp_path):
    unfinished = made.attempt(tmp_path, finished=False)
    page = made.written(tmp_path, unfinished, live=Live("sft", 120))
    assert 'http-equiv="refresh"' in page and 'id="live"' in page and 'aria-valuenow="30"' in page
    assert "It is at step 30 of 120." in page and "<path" in page


def test_in_a_browser_nothing_acts_and_everything_fits(tmp_path):
    samples = [{"prompt": f"{HOSTILE} {n}", "before": "a" * 3000, "after": f"word{n}"} for n in range(20)]
    made.written(tmp_path, made.attempt(tmp_path, samples=samples))
    with browser() as opened:
        opened.open(f"file://{tmp_path}/report.html")
        assert opened.run("return document.title") == "micro: should I keep it?"
        assert opened.run("return document.querySelectorAll('img, script').length") == 1
        opened.type("#sft-find", "word13")
        assert opened.run("return document.getElementById('sft-found').innerText") == "1 of 16 shown"
        visible = "[...document.querySelectorAll('#sft-answers li')].filter(one => one.offsetParent).length"
        assert opened.run(f"return {visible}") == 1
        for width in (390, 1280, 1920):
            size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width == 390}
            opened.emulate(size)
            assert opened.run("return document.documentElement.scrollWidth") <= width


def test_what_was_forgotten_is_a_table_of_policies_by_what_each_stage_taught(built):
    align("report", "-r", "micro.yaml", cwd=built)
    page = (built / "runs/micro/report.html").read_text(encoding="utf-8")
    table = text_of("<body " + page[page.index('id="forgotten"') :].partition("</section>")[0])
    assert "perplexity on the rows of pretrain" in table and "exact match on the rows of sft" in table
    said = json.loads((built / "runs/micro/dpo/latest/manifest.json").read_text())["earlier"]
    assert f"{said['sft']['after']['exact_match']:.3f}" in table and "taught here" in table
