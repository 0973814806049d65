"""The verdicts on many pairs: asked for at once, kept as they come, counted, and none of them lost in silence."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from hashlib import sha256
from pathlib import Path

from pipeline.artifact.digests import canonical
from pipeline.errors import PipelineError
from pipeline.evaluate.pairwise.endpoint import Endpoint
from pipeline.evaluate.pairwise.verdicts import NONE, QUESTION, SAME, Pair, Verdict, asked
from pipeline.recipe.judging import Judge

FILE = "verdicts.jsonl"  # in a stage's folder
IN_A_ROW = 8  # pairs without a verdict before any with one: there is no judge at work


class Verdicts:
    """Of an endpoint, and kept in `file`: what was asked before in the same words is not asked again."""

    def __init__(self, judge: Judge, file: Path):
        self.judge, self.file = judge, file
        self._known = {line["key"]: line for line in self._lines() if line.get("outcome") != NONE}

    def check(self) -> None:
        """That the judge answers. Raises PipelineError."""
        endpoint = Endpoint(self.judge)
        try:
            endpoint.check()
        finally:
            endpoint.close()

    def of(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One a pair. Raises PipelineError where the judge gives none at all."""
        found: dict[int, Verdict] = {}
        for number, pair in enumerate(pairs):
            if said := self._known.get(self._key(pair)):
                found[number] = Verdict(said["outcome"], tuple(said["said"]), said["reason"])
        self._ask(pairs, [number for number in range(len(pairs)) if number not in found], found)
        self._refuse_silence(found.values())
        return [found[number] for number in range(len(pairs))]

    def _ask(self, pairs: Sequence[Pair], numbers: Sequence[int], found: dict[int, Verdict]) -> None:
        endpoint = Endpoint(self.judge)
        pool = ThreadPoolExecutor(self.judge.at_once)
        try:
            waiting = {pool.submit(asked, pairs[one], self.judge.criteria, endpoint.ask): one for one in numbers}
            with self.file.open("a", encoding="utf-8") as file:
                for done in as_completed(waiting):
                    number, verdict = waiting[done], done.result()
                    found[number] = verdict
                    line = {"key": self._key(pairs[number]), **vars(pairs[number]), **verdict.to_json()}
                    file.write(json.dumps(line | {"judge": self.judge.model}, ensure_ascii=False) + "\n")
                    file.flush()
                    if sum(one.outcome == NONE for one in found.values()) >= IN_A_ROW:
                        self._refuse_silence(found.values())
        finally:
            pool.shutdown(cancel_futures=True)
            endpoint.close()

    def _refuse_silence(self, found) -> None:
        judged = [one for one in found if one.outcome != SAME]
        if judged and all(one.outcome == NONE for one in judged):
            reasons = Counter(one.reason for one in judged)
            counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
            first = next(one.said[-1] for one in judged if one.said)
            raise PipelineError(
                f"evaluation.judge: {self.judge.model} gave no verdict on any of {len(judged)} pairs of answers: {counts}; "
                f"the first: {first}.",
                f"All it said is in {self.file}. A judge has to reply with A, B or TIE: use another model, raise "
                "options.max_tokens where it thinks first, or leave evaluation.judge out. Then run it again: it goes on "
                "from the last checkpoint.",
            )

    def _key(self, pair: Pair) -> str:
        """Of all that the judge is sent."""
        what = {"model": self.judge.model, "options": self.judge.options, "criteria": self.judge.criteria}
        return sha256(canonical(what | {"question": QUESTION} | vars(pair))).hexdigest()[:16]

    def _lines(self) -> list[dict]:
        """Those that are whole: the last may have been cut."""
        found = []
        if self.file.is_file():
            for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    said = json.loads(line)
                except ValueError:
                    continue
                found += (
                    [said] if isinstance(said, dict) and {"key", "outcome", "said", "reason"} <= said.keys() else []
                )
        return found


def counted(verdicts: Sequence[Verdict]) -> dict:
    """How many of each outcome, and of those without a verdict why."""
    outcomes = Counter(one.outcome for one in verdicts)
    why = Counter(one.reason for one in verdicts if one.outcome == NONE)
    return {"pairs": len(verdicts)} | dict(outcomes) | ({"why": dict(why)} if why else {})


Asking = Callable[[Sequence[Pair]], list[Verdict]]
