"""A function of the user's: what it may be, and all that it can do wrong."""

import time

import pytest

from pipeline.data.shapes.kinds import Prompt
from pipeline.errors import PipelineError
from pipeline.recipe.rewards import Named
from pipeline.reward.columns import refuse_unreadable
from pipeline.reward.functions import scorers
from pipeline.reward.troubles import Settings, troubles

ROWS = [Prompt([{"role": "user", "content": "a?"}], {"answer": "1"}), Prompt([{"role": "user", "content": "b?"}], {})]


@pytest.fixture
def scorer(tmp_path):
    """A function of that body, as a stage would have it."""

    def made(body: str, takes: str = "completions, **others", timeout: float = 30):
        (tmp_path / "mine.py").write_text(f"import re, time\ndef score({takes}):\n    {body}\n")
        named = Named("reward_functions.mine", "mine", f"{tmp_path}/mine.py:score", 1.0, timeout, {})
        return scorers("grpo", [named])[0]

    return made


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 1 / 0", "mine.py:3: ZeroDivisionError"),
        ("return [1.0]", "gave 1 scores for 2 completions"),
        ("return 'ab'", "gave 'ab', and no list of numbers"),
        ("return 3", "gave 3, and no list of numbers"),
        ("return ['1', 2]", "gave '1' for the completion 'x', not a finite number"),
        ("return [1, None]", "gave None for the completion 'y', not a finite number"),
        ("return [1, float('nan')]", "gave nan for the completion 'y'"),
        ("return [float('inf'), 1]", "gave inf for the completion 'x'"),
    ],
)
def test_what_is_no_reward_is_told_by_its_key(scorer, body, words):
    with pytest.raises(PipelineError) as caught:
        scorer(body)(ROWS, ["x", "y"], [[1], [2]])
    assert words in str(caught.value) and "stages.grpo.reward_functions.mine: " in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(60)",
        "\n    while True: pass",
        "\n    while True:\n        try: time.sleep(60)\n        except Exception: pass",
        "return [float(bool(re.match('(a+)+b', 'a' * 40))) for one in completions]",
    ],
    ids=["it waits", "it loops", "it catches every exception", "it looks for a pattern without an end"],
)
def test_a_function_that_hangs_is_stopped(scorer, body):
    started = time.monotonic()
    with pytest.raises(PipelineError, match=r"mine.py:score gave no answer within 0.2 seconds, for 2 completions"):
        scorer(body, timeout=0.2)(ROWS, ["x", "y"], [[1], [2]])
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("takes", ["completions", "prompts, completions, answer", "completions, answer=None, **others"])
def test_it_is_given_what_it_takes(scorer, takes):
    assert scorer("return [len(one) for one in completions]", takes)(ROWS, ["x", "yy"], [[1], [2]]) == [1, 2]


def test_rows_without_what_is_read_are_told_by_their_lines(tmp_path):
    number = Named("reward_functions.right", "right", "number", 1.0, 30, {})
    rows = [(f"p.jsonl:{n}", ROWS[n % 2]) for n in range(10)]
    with pytest.raises(PipelineError) as caught:
        refuse_unreadable("grpo", [number], rows)
    assert 'p.jsonl:1: "answer" is not there' in str(caught.value) and "and 2 more" in str(caught.value)
    refuse_unreadable("grpo", [number], rows[::2])
    (tmp_path / "mine.py").write_text("def score(completions, *, wanted, weight=1, **others): ...\n")
    mine = Named("reward_function", "score", f"{tmp_path}/mine.py:score", 1.0, 30, {})
    with pytest.raises(PipelineError, match="takes wanted, which no row has; they have answer"):
        refuse_unreadable("grpo", [mine], rows)


GOOD = {"kl": 0.1, "entropy": 1.0, "ended": 1.0, "length": 10.0, "no_signal": 0.2}


@pytest.mark.parametrize(
    ("changes", "trouble"),
    [
        ([{}] * 9, set()),
        ([{"no_signal": 1.0}] * 3, {"no signal"}),
        ([{"no_signal": 1.0}] * 2 + [{"no_signal": 0.9}], set()),
        ([{}] * 3 + [{"length": 40.0}], {"length"}),
        ([{"length": 5.0}] * 3 + [{"length": 12.0}], set()),
        ([{}, {"kl": 0.5}], {"kl"}),
        ([{"ended": 0.0}] * 2, {"eos"}),
    ],
)
def test_what_goes_wrong_is_seen(changes, trouble):
    settings = Settings(0.3, "nats a token", "beta", "max_completion_length", 64, "mask_truncated_completions")
    assert troubles([GOOD | change for change in changes], settings).keys() == trouble
