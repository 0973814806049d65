"""Answers that are labels: read as a person would, counted as scikit-learn would, with what is no label told apart."""

import re

import numpy
import pytest
from conftest import align, manifest, write_micro, write_rows

from pipeline.errors import PipelineError
from pipeline.evaluate.figures import Figures
from pipeline.evaluate.intervals import differences
from pipeline.evaluate.labels import Labels, macro_f1

LABELS = ["negative", "positive", "mixed"]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("positive", "positive"),
        (" **Positive.** It is good", "positive"),
        ("positively bad", None),
        ("I say positive", None),
        ("", None),
        ("mixed, or negative", "mixed"),
    ],
)
def test_the_label_stands_at_the_beginning(text, label):
    assert Labels(LABELS).of(text) == label


def test_of_labels_that_begin_alike_the_longest_is_meant_and_chinese_has_no_spaces():
    assert Labels(["好", "好评"]).of("好评。") == "好评" and Labels(["正面", "负面"]).of("正面的评价") == "正面"
    assert [Labels(["1", "-1"]).of(text) for text in ("1", "-1", "12")] == ["1", "-1", None]


def test_a_pattern_says_where_it_stands():
    labels = Labels(LABELS, "Label: (.*)$")
    assert labels.of("It is bad. Label: NEGATIVE ") == "negative" and labels.of("negative") is None


def measured(right: list[str], said: list[str]) -> Figures:
    found, labels = Figures(), Labels(LABELS)
    found.mean_of("accuracy", [one == other for one, other in zip(right, said, strict=True)])
    labels.measure(said, labels.right(right), found)
    return found


def test_the_figures_by_hand():
    right = ["negative"] * 6 + ["positive"] * 3
    found = measured(right, ["negative"] * 5 + ["positive"] + ["positive"] * 2 + ["who knows"])
    assert found.confusion == {"labels": LABELS, "table": [[5, 1, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0]]}
    f1 = (10 / 11 + 4 / 6) / 2  # mixed is neither right nor said
    assert found.metrics == pytest.approx(
        {"accuracy": 7 / 9, "macro_f1": f1, "no_label": 1 / 9, "most_frequent_label": 6 / 9}
    )


def test_macro_f1_is_reckoned_of_many_draws_at_once():
    sums = numpy.array([[5, 2, 0, 5, 3, 0, 6, 3, 0], [0] * 9])
    assert macro_f1(sums) == pytest.approx([(10 / 11 + 4 / 6) / 2, 0])


def test_its_difference_has_an_interval():
    right = ["negative", "positive"] * 30
    moved = differences(measured(right, ["negative"] * 60), measured(right, right))["macro_f1"]
    assert moved.value == pytest.approx(1 - 1 / 3) and 0.6 < moved.low < moved.high < 0.75


def test_a_reference_that_is_no_label_is_a_mistake_and_no_wrong_answer():
    with pytest.raises(PipelineError, match=r'1 of 3 held-out rows .* none of negative, positive, mixed: "neutral"'):
        Labels(LABELS).right(["positive", "neutral", None])


def test_a_stage_tells_them_on_screen_in_the_manifest_and_on_the_page(chain, tmp_path):
    write_micro(tmp_path)
    words = [("film", "red"), ("book", "blue"), ("play", "blue")]
    write_rows(tmp_path / "chat.jsonl", [{"prompt": f"{a} {n}", "completion": c} for n in range(20) for a, c in words])
    labels = "stages.sft.evaluation={labels: [red, blue], answer_pattern: null, max_rows: 12}"
    base = f"model={{id: {chain}/runs/micro/pretrain/latest/model}}"
    said = align("run", "sft", "-r", "micro.yaml", "--set", base, "--set", labels, cwd=tmp_path, check=False)
    said = said.stdout + said.stderr
    kept = manifest(tmp_path, "sft")
    assert "always the most frequent label" in said and "Labels of sft after it" in said and "no label" in said
    table = kept["confusion"]["after"]["table"]
    assert sum(map(sum, table)) == kept["metrics"]["after"]["n"] == 12
    assert kept["metrics"]["after"]["most_frequent_label"] == max(map(sum, table)) / 12
    assert {"accuracy", "macro_f1", "no_label"} <= kept["differences"].keys()
    assert "Which label was said for which" in (tmp_path / "runs" / "micro" / "report.html").read_text()


@pytest.mark.parametrize(("short", "every"), [("b", False), ("zqqj", True)])
def test_an_answer_too_long_to_be_given_is_told_before_it_is_judged(chain, tmp_path, short, every):
    write_micro(tmp_path)
    both = [("film", short), ("book", "xqzjv")]
    write_rows(tmp_path / "chat.jsonl", [{"prompt": f"{a} {n}", "completion": c} for n in range(20) for a, c in both])
    labels = (
        f"stages.sft.evaluation={{labels: [{short}, xqzjv], answer_pattern: null, max_rows: 12, max_new_tokens: 1}}"
    )
    base = f"model={{id: {chain}/runs/micro/pretrain/latest/model}}"
    done = align("run", "sft", "-r", "micro.yaml", "--set", base, "--set", labels, cwd=tmp_path, check=False)
    said = " ".join((done.stdout + done.stderr).split())
    told = re.search(
        r"evaluation.max_new_tokens: (\d+) of the (\d+) held-out rows have an answer that would be judged", said
    )
    assert done.returncode == 0 and (told[1] == told[2]) is every and 0 < int(told[1]) <= int(told[2])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("[positive]", "must be a list of two labels or more"),
        ("[yes, true]", "must be text, not true: put each label in quotes"),
        ("[Good, good]", "has a label twice"),
    ],
)
def test_labels_that_tell_nothing_apart_are_mistakes(problems, labels, said):
    text = f"{{name: a, model: {{id: x}}, evaluation: {{labels: {labels}}}, stages: {{sft: {{data: {{path: a}}}}}}}}"
    assert any(said in one for one in problems(text))
