"""Rewards that are built in, on answers as people and models write them."""

import json
from decimal import Decimal

import pytest

from pipeline.reward.verifiable import BUILT_IN, missing_library, number_in


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\n#### 18", 18),
        ("#### 1,234,567", 1234567),
        ("The answer is $1,080.50.", Decimal("1080.50")),
        ("so 5-3", 3),
        ("it is \N{MINUS SIGN}4 degrees", -4),
        ("#### -7.", -7),
        ("x = \\boxed{42} and not 43", 42),
        ("18% of them, or .5", Decimal("0.5")),
        ("about 1.5e3", 1500),
        ("in 2,3", 3),
        ("no number", None),
        ("5 of them\n#### none", None),
        ("model v2", None),
    ],
)
def test_the_number_of_an_answer(text, number):
    assert number_in(text) == number


def test_every_answer_of_gsm8k_has_its_number(shared):
    lines = (shared / "data/prompts/gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()
    judge = BUILT_IN["number"]()
    for answer in (json.loads(line)["answer"] for line in lines):
        right = answer.rpartition("#### ")[2]
        assert judge.problem(answer) is None
        assert judge.score(f"That makes {right} in all.", [], answer) == 1
        assert judge.score(answer, [], answer) == 1
        assert judge.score(f"{right}1", [], answer) == 0


@pytest.mark.parametrize(
    ("name", "options", "text", "answer", "score"),
    [
        ("exact_match", {}, " tea ", "tea", 1),
        ("exact_match", {}, "tea; hot", "tea", 0),
        ("exact_match", {"pattern": r"^([^;]+);"}, "tea ; hot", "tea", 1),
        ("exact_match", {"pattern": r"^([^;]+);"}, "tea", "tea", 0),
        ("exact_match", {}, "7", 7, 1),
        ("number", {}, "I think #### 7.0", "#### 7", 1),
        ("format", {"pattern": r"(?s)^<think>.*</think>"}, "<think>a\nb</think> c", None, 1),
        ("format", {"pattern": r"^<think>"}, "c <think>", None, 0),
    ],
)
def test_what_is_right(name, options, text, answer, score):
    assert BUILT_IN[name](**options).score(text, [], answer) == score


def test_length_and_repetition_are_of_tokens():
    length = BUILT_IN["length"](at_most=4, margin=2)
    assert [length.score("", [1] * n, None) for n in (0, 4, 5, 6, 60)] == [0, 0, -0.5, -1, -1]
    fresh = BUILT_IN["non_repetition"](n=2)
    assert fresh.score("", [1, 2, 3, 4], None) == 1
    assert fresh.score("", [1, 1, 1, 1], None) == pytest.approx(1 / 3)
    assert fresh.score("", [1], None) == 1


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ("0.5", "so it is $\\frac{1}{2}$", "it is 5"),
        ("1+x^2", "The answer is \\boxed{x^2+1}", "The answer is 1"),
        ("3x", "$x + 2x$", "3"),
        ("5\\pi", "\\boxed{5 \\pi}", "5"),
        ("2^{10}", "it is 1024", "it is 2"),
        ("(1, 2)", "\\boxed{(1,2)}", "\\boxed{(2,1)}"),
        ("\\text{Evelyn}", "\\boxed{\\text{Evelyn}}", "\\boxed{\\text{Briana}}"),
        ("x = 4", "$x=4$", "$x=5$"),
        ("1e3", "1,000", "1"),
        ("so much\n#### 1,080", "That is $1080$.", "#### 1,081"),
        ("#### 12", "12", "#### 13"),
        ("13", "#### 13", "nothing"),
        ("1+x^2", "1+x^2", "x"),
    ],
)
def test_mathematics_are_compared_by_what_they_say(answer, right, wrong):
    pytest.importorskip("math_verify", reason="math-verify is not installed: pip install -e .[math]")
    judge = BUILT_IN["math"]()
    assert judge.problem(answer) is None
    assert (judge.score(right, [], answer), judge.score(wrong, [], answer)) == (1, 0)


@pytest.mark.parametrize("answer", ["what?", "Evelyn", "sin(2x)", "", "3 blue cars"])
def test_words_are_no_mathematics(answer):
    pytest.importorskip("math_verify", reason="math-verify is not installed: pip install -e .[math]")
    assert "is no mathematics" in BUILT_IN["math"]().problem(answer)
    assert missing_library("math") is None
