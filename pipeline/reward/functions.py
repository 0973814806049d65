"""Functions that score responses: called within a time limit, and what they give looked at."""

import inspect
import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.data.shapes.kinds import Prompt
from pipeline.errors import PipelineError
from pipeline.recipe import function
from pipeline.recipe.rewards import Named
from pipeline.reward.verifiable import Verifiable


@dataclass(frozen=True)
class Scorer:
    """One reward function. `key` is the whole key of the recipe that names it."""

    key: str
    named: Named
    judge: Verifiable | None
    called: Callable | None = None  # where it stands in a file

    def __call__(
        self, examples: Sequence[Prompt], texts: Sequence[str], responses: Sequence[Sequence[int]]
    ) -> list[float]:
        """One score a response. `responses` are token ids without the stop token. Raises PipelineError by its key."""
        with _within(self.named.timeout, self.key, self.named.function, len(texts)):
            if self.judge:
                column = self.judge.reads
                answers = [example.columns.get(column) if column else None for example in examples]
                return [self.judge.score(*one) for one in zip(texts, responses, answers, strict=True)]
            names = dict.fromkeys(name for example in examples for name in example.columns)
            given = {
                "prompts": [example.prompt for example in examples],
                "completions": list(texts),
                **{name: [example.columns.get(name) for example in examples] for name in names},
            }
            scores = self.called(**_taken(self.called.function, given))
        return _numbers(self.key, scores, texts)


def scorers(stage: str, rewards: Sequence[Named]) -> list[Scorer]:
    """The functions of a stage, those of files loaded. Raises PipelineError where there is none."""
    found = []
    for named in rewards:
        key = f"stages.{stage}.{named.key}"
        loaded = function.load(named.function, key) if named.is_in_file else None
        found.append(Scorer(key, named, named.built_in, loaded))
    return found


def _taken(called: Callable, given: dict) -> dict:
    """All that there is, or only what a function without `**others` names."""
    try:
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError):  # not every callable tells
        return given
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return given
    return {name: value for name, value in given.items() if name in parameters}


def _numbers(key: str, scores: object, texts: Sequence[str]) -> list[float]:
    fix = "Return a list with one finite number a completion."
    if isinstance(scores, str | bytes | dict) or not hasattr(scores, "__iter__"):
        raise PipelineError(f"{key}: gave {_shown(scores)}, and no list of numbers.", fix)
    scores = list(scores)
    if len(scores) != len(texts):
        raise PipelineError(f"{key}: gave {len(scores)} scores for {len(texts)} completions.", fix)
    found = []
    for score, text in zip(scores, texts, strict=True):
        try:
            number = math.nan if isinstance(score, str) else float(score)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise PipelineError(
                f"{key}: gave {_shown(score)} for the completion {_shown(text)}, not a finite number.", fix
            )
        found.append(number)
    return found


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


class _TooLongError(BaseException):
    """No Exception: a function that catches those must not catch this."""


@contextmanager
def _within(seconds: float, key: str, named: str, number: int) -> Iterator[None]:
    """Stop what takes longer, also inside of a loop, a regular expression or a wait for somebody else's answer.

    By the process's one alarm, which only its main thread can have: elsewhere nothing is limited.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # and again, where the function goes on all the same
    try:
        yield
    except _TooLongError:
        raise PipelineError(
            f"{key}: {named} gave no answer within {seconds:g} seconds, for {number} completions.",
            f"Mend it, or give it longer: under reward_functions, timeout: {2 * seconds:g}.",
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
