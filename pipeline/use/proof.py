"""The proof: an export is asked what the trained model is asked, and both have to say the same.

One for all formats. What can go wrong in silence is compared by itself, so that it can be named: the template's text,
the tokens of a text, the stop tokens, the next token's distribution along the trained answer, the greedy answers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

import numpy

from pipeline.errors import PipelineError
from pipeline.evaluate.figures import share_above
from pipeline.evaluate.judge import Judge
from pipeline.use.forms import Form
from pipeline.use.questions import Questions, reference

SHOWN = 300  # characters of a prompt or an answer in a proof


@dataclass(frozen=True)
class Limits:
    """How far an export may be from what was trained.

    `kl` is the mean of KL(trained || exported) in nats a token. `learned`: the same as a share of KL(trained || base),
    for an adapter may have changed so little that an export which lost it is near. `gap`: the likeliest token may be
    another only where the trained model's own log-probabilities of both are closer than this, for then rounding decides;
    `sure` is the share of tokens, and of answers, for which this holds. `score`: how far a reward may be off, in
    standard deviations of the rewards.
    """

    kl: float
    learned: float
    gap: float
    sure: float
    score: float


# Chosen after measuring lora, qlora, new tokens, full and reward models in every format (stories260K, the tiny chain,
# random Qwen3 shapes; the figures stand in benchmarks/README.md): the limits of `kl` are 10 to 100 times above what
# sound exports had, and mistakes (a lost bias, an unpermuted matrix, an adapter that was not merged) far above them.
EXACT = Limits(kl=1e-5, learned=0.1, gap=0.02, sure=0.999, score=1e-3)  # fp32: only the order of sums differs
# llama.cpp's activations are approximations: 1e-7 to 4e-6 nats were measured of what is exact elsewhere.
NEARLY_EXACT = Limits(kl=1e-4, learned=0.1, gap=0.05, sure=0.999, score=1e-3)
HALF = Limits(kl=1e-2, learned=0.5, gap=0.5, sure=0.99, score=0.1)  # bf16 has no numbers between 32 and 32.25
EIGHT_BITS = Limits(kl=5e-2, learned=0.5, gap=0.75, sure=0.98, score=0.2)  # q8_0
FEW_BITS = Limits(kl=0.5, learned=math.inf, gap=2.0, sure=0.9, score=1.0)  # 4 to 6 bits are meant to lose something


@dataclass
class _Trained:
    """What the trained model says, kept so that only one of the two is in memory at a time."""

    scratch: Path
    runtime: str
    stops: set[int]
    names: dict[int, str]  # of the stops
    texts: list[tuple[str, list[int]]] = field(default_factory=list)  # a text and its tokens
    answers: list[list[int]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)
    learned: float | None = None  # KL(trained || base) in nats a token; None of a whole model

    def token(self, number: int) -> str:
        return self.names.get(number, str(number))

    def log_probabilities(self, number: int) -> numpy.ndarray:
        return numpy.load(self.scratch / f"{number}.npy")


def prove(
    trained: Callable[[], Form],
    exported: Callable[[], Form],
    questions: Questions,
    limits: Limits,
    scratch: Path,
    *,
    head: str = "causal",
) -> dict:
    """The proof as it is kept. "proven" says whether all holds, "differs" what does not, with the first such prompt.

    The forms are made one after the other. `scratch` is a folder for the trained model's distributions, which are
    large: (tokens, vocabulary) float32 a prompt.
    """
    known = _asked(trained, questions, scratch, head)
    try:
        form = exported()
    except PipelineError as error:  # what runs it cannot even load it
        return not_proven(error.what)
    try:
        found = {
            "prompts": len(questions.rows),
            "of": questions.origin,
            "prompts_cut": questions.cut,
            "runtime": {"trained": known.runtime, "exported": form.runtime},
            "limits": asdict(limits),
        }
        differs: list[str] = []
        found |= _texts(form, known, questions, differs)
        if head == "score":
            found |= _scores(form, known, questions, limits, differs)
        else:
            found |= _stops(form, known, differs)
            found |= _next_tokens(form, known, questions, limits, differs)
            found |= _answers(form, known, questions, limits, differs)
    finally:
        form.close()
    return {"proven": not differs, "differs": differs} | found


def not_proven(why: str) -> dict:
    """The proof of what nothing here can run."""
    return {"proven": False, "differs": [why], "prompts": 0}


def _asked(make: Callable[[], Form], questions: Questions, scratch: Path, head: str) -> _Trained:
    form = make()
    try:
        found = _Trained(scratch, form.runtime, form.stops, {one: form.token(one) for one in form.stops})
        texts = list(dict.fromkeys([*(one.text for one in questions.rows), *questions.texts]))
        found.texts = [(text, form.tokens(text)) for text in texts]
        if head == "score":
            found.scores = [form.scores(one.scored) for one in questions.rows]
            return found
        found.answers = form.answers([one.ids for one in questions.rows], questions.max_new_tokens)
        found.words = [form.text(ids) for ids in found.answers]
        learned = []
        for number, (one, answer) in enumerate(zip(questions.rows, found.answers, strict=True)):
            said = form.log_probabilities(one.ids, answer)
            numpy.save(scratch / f"{number}.npy", said)
            if form.has_adapter:
                learned.append(divergence(said, form.log_probabilities(one.ids, answer, adapter=False)))
        found.learned = float(numpy.concatenate(learned).mean()) if learned else None
        return found
    finally:
        form.close()


def _texts(form: Form, known: _Trained, questions: Questions, differs: list[str]) -> dict:
    """The template's text, and the tokens of a text."""
    asked = [one for one in questions.rows if one.messages is not None]
    written = [form.render(one.messages, one.tools) for one in asked]
    other = [number for number, one in enumerate(asked) if written[number] != one.text]
    if other:
        first = other[0]
        differs.append(
            f"its chat template writes {len(other)} of {len(asked)} prompts otherwise, the first:\n"
            f"  trained   {_short(asked[first].text)}\n  exported  {_short(written[first])}"
        )
    split = [(text, ids, form.tokens(text)) for text, ids in known.texts]
    wrong = [one for one in split if one[1] != one[2]]
    if wrong:
        text, right, ids = wrong[0]
        differs.append(
            f"its tokenizer splits {len(wrong)} of {len(split)} texts otherwise, the first: {_short(text)}\n"
            f"  trained   {_parted(right, ids)}\n  exported  {_parted(ids, right)}"
        )
    return {
        "templates": {"n": len(asked), "equal": len(asked) - len(other)},
        "texts": {"n": len(split), "equal": len(split) - len(wrong)},
    }


def _stops(form: Form, known: _Trained, differs: list[str]) -> dict:
    lost = sorted(known.stops - form.stops)
    if lost:
        named = ", ".join(known.token(number) for number in lost)
        differs.append(f"it does not stop at {named}, at which a trained answer ends.")
    return {"stops": {"trained": sorted(known.stops), "exported": sorted(form.stops)}}


def _next_tokens(form: Form, known: _Trained, questions: Questions, limits: Limits, differs: list[str]) -> dict:
    """KL and agreement along the trained answers."""
    nats, gaps, same, worst = [], [], 0, (-math.inf, 0)
    for number, (one, answer) in enumerate(zip(questions.rows, known.answers, strict=True)):
        right, found = known.log_probabilities(number), form.log_probabilities(one.ids, answer)
        if right.shape != found.shape:
            differs.append(f"it has {found.shape[1]} tokens, and the trained model {right.shape[1]}.")
            return {"tokens": 0}
        nats.append(divergence(right, found))
        likeliest = numpy.nan_to_num(found, nan=-numpy.inf).argmax(1)
        gap = right.max(1) - right[numpy.arange(len(right)), likeliest]
        same += int((gap == 0).sum())
        gaps.append(gap)
        worst = max(worst, (float(nats[-1].mean()), number))
    kl, gap = float(numpy.concatenate(nats).mean()), numpy.concatenate(gaps)
    sure = float((gap <= limits.gap).mean())
    learned = math.inf if known.learned is None else max(limits.learned * known.learned, EXACT.kl)
    after = f"Most of it ({worst[0]:.2g}) after: {_short(questions.rows[worst[1]].text)}"
    if not kl <= limits.kl:  # a NaN is beyond every limit
        differs.append(
            f"its next tokens are {kl:.2g} nats off, over {len(gap)} tokens; at most {limits.kl:.0e} is allowed. {after}"
        )
    elif kl > learned:
        differs.append(
            f"its next tokens are {kl:.2g} nats off, and those of the base without its adapter {known.learned:.2g}: "
            f"what was learned is lost. {after}"
        )
    if sure < limits.sure:
        differs.append(
            f"its likeliest next token is another one for {1 - sure:.1%} of {len(gap)} where the trained model was sure; "
            f"at most {1 - limits.sure:.1%} is allowed. {after}"
        )
    found = {"tokens": len(gap), "kl": kl, "kl_of_worst_prompt": worst[0], "agreement": same / len(gap)}
    allowed = min(limits.kl, learned)
    return found | {"largest_gap": float(gap.max()), "kl_of_base": known.learned, "kl_allowed": allowed}


def divergence(right: numpy.ndarray, found: numpy.ndarray) -> numpy.ndarray:
    """KL(right || found) of each row of log-probabilities, in nats.

    Where `found` is NaN only the probability of all such tokens together is known, and so they are compared together:
    a lower bound, by the data-processing inequality.
    """
    right, found = right.astype(numpy.float64), found.astype(numpy.float64)
    said = ~numpy.isnan(found)
    for one in (right, found) if said.all() else (right,):  # float32 sums are 1e-6 off
        one -= numpy.log(numpy.exp(one).sum(1, keepdims=True))
    p, q = numpy.exp(right), numpy.where(said, found, 0.0)
    with numpy.errstate(invalid="ignore", divide="ignore"):
        nats = numpy.where(said & (p > 0), p * (right - q), 0.0).sum(1)
        rest_p = numpy.where(said, 0.0, p).sum(1)
        rest_q = numpy.clip(1 - numpy.where(said, numpy.exp(q), 0.0).sum(1), 1e-12, None)
        rest = numpy.where(rest_p > 1e-12, rest_p * (numpy.log(rest_p) - numpy.log(rest_q)), 0.0)
    return nats + numpy.where(said.all(1), 0.0, rest)


def _answers(form: Form, known: _Trained, questions: Questions, limits: Limits, differs: list[str]) -> dict:
    """Greedy answers: how many are the same, and whether the others part where it is a toss-up."""
    answers = form.answers([one.ids for one in questions.rows], questions.max_new_tokens)
    words = [form.text(ids) for ids in answers]
    equal = [mine == theirs for mine, theirs in zip(answers, known.answers, strict=True)]
    gaps = [_gap(known, number, answers[number]) for number, same in enumerate(equal) if not same]
    unlike = [number for number, same in enumerate(equal) if not same]
    far = [(gap, number) for gap, number in zip(gaps, unlike, strict=True) if gap > limits.gap]
    if len(far) > (1 - limits.sure) * len(answers):
        number = far[0][1]
        differs.append(
            f"{len(far)} of {len(answers)} greedy answers are others, where the trained model was sure, the first to: "
            f"{_short(questions.rows[number].text)}\n"
            f"  trained   {_short(known.words[number])}\n  exported  {_short(words[number])}"
        )
    return {"answers": {"n": len(answers), "equal": sum(equal)}} | _judged(questions, known.words, words)


def _gap(known: _Trained, number: int, answer: list[int]) -> float:
    """By how much the trained model preferred its own token where the two answers part, in nats."""
    right = known.answers[number]
    at = next((place for place, pair in enumerate(zip(right, answer, strict=False)) if len({*pair}) > 1), None)
    if at is None:  # one goes on where the other has ended
        return math.inf
    said = known.log_probabilities(number)[at]
    return float(said[right[at]] - said[answer[at]])


def _judged(questions: Questions, trained: Sequence[str], exported: Sequence[str]) -> dict:
    """What the recipe holds to be right, of both."""
    settings = questions.evaluation
    if settings is None or not questions.rows or questions.rows[0].example is None:
        return {}
    judge, found = Judge(settings), {}
    right = [reference(one.example) for one in questions.rows]
    try:
        if judge.figure and None not in right:
            known = judge.right(right)
            found["exact_match"] = [judge.matches(words, known) for words in (trained, exported)]
        if settings.score_function:
            examples = [one.example for one in questions.rows]
            found["mean_score"] = [judge.score(examples, words)[0] for words in (trained, exported)]
    except PipelineError as error:  # a proof does not stand or fall with it
        return {"not_judged": error.what}
    return {name: dict(zip(("trained", "exported"), pair, strict=True)) for name, pair in found.items()}


def _scores(form: Form, known: _Trained, questions: Questions, limits: Limits, differs: list[str]) -> dict:
    """Rewards, in units of how much the trained ones vary."""
    found = [form.scores(one.scored) for one in questions.rows]
    right, given = (numpy.array([*chain.from_iterable(scores)]) for scores in (known.scores, found))
    spread = max(float(right.std()), 1e-3)
    off = numpy.abs(right - given) / spread
    if not off.max() <= limits.score:
        at = int(numpy.nan_to_num(off, nan=numpy.inf).argmax())
        asked = [one for one, scores in zip(questions.rows, known.scores, strict=True) for _ in scores][at]
        differs.append(
            f"its scores are up to {off.max():.2g} standard deviations off; at most {limits.score:g} is allowed. "
            f"Most after: {_short(asked.text)}\n  trained   {right[at]:.5f}\n  exported  {given[at]:.5f}"
        )
    pairs = [pair for pair in zip(known.scores, found, strict=True) if len(pair[0]) == 2]
    accuracy = {
        name: share_above([pair[side][0] for pair in pairs], [pair[side][1] for pair in pairs])
        for side, name in enumerate(("trained", "exported"))
        if pairs
    }
    return {
        "scores": {"n": len(right), "largest_difference": float(numpy.abs(right - given).max()), "deviation": spread}
    } | ({"reward_accuracy": accuracy} if accuracy else {})


def _short(text: str | None) -> str:
    if text is None:
        return "(no template)"
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")


def _parted(ids: list[int], other: list[int]) -> str:
    """Some tokens from where the two begin to differ."""
    at = next((place for place, pair in enumerate(zip(ids, other, strict=False)) if len({*pair}) > 1), len(other))
    return f"{ids[at : at + 8]} from token {at + 1}"
