"""Results of benchmarks as a person reads them: a figure before and after, each with its chance, and the difference."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifact import benchmarks
from pipeline.artifact.benchmarks import AFTER, BEFORE
from pipeline.errors import PipelineError
from pipeline.report.change import BETTER, SIGNS, TOLD, WORDS, WORSE, Change, judged


@dataclass(frozen=True)
class Line:
    """A figure of a task. Errors are standard errors; `low` and `high` are where 95% of the difference lies."""

    task: str
    figure: str  # "exact_match (strict-match)"
    before: float | None
    before_error: float | None
    after: float | None
    after_error: float | None
    difference: float | None
    low: float | None
    high: float | None
    how: str
    verdict: str
    questions: int

    @property
    def word(self) -> str:
        return (
            WORDS[self.verdict] if self.difference is None or self.verdict != TOLD else "better or worse is not known"
        )

    @property
    def sign(self) -> str:
        return SIGNS[self.verdict]

    def to_json(self) -> dict:
        return vars(self) | {"word": self.word}


@dataclass(frozen=True)
class Result:
    """One task as it was asked."""

    said: Mapping

    @property
    def how(self) -> str:
        """In what way it was asked."""
        asked, after = self.said["asked"], self.said[AFTER]
        shots = {one["few_shot"] for one in after["results"].values() if one["few_shot"] is not None}
        many = f"{' or '.join(map(str, sorted(shots)))} example{'' if shots == {1} else 's'} before each question"
        told = [many if shots - {0} else "no examples"]
        told.append("the chat template" if asked["chat_template"] else "no chat template")
        if asked["limit"]:
            told.append(f"only the first {asked['limit']:,} questions")
        sides = [side for side in (self.said[BEFORE], after) if side]
        if cut := max(side["cut"] for side in sides):
            told.append(f"{cut:,} prompts too long, their beginning cut")
        return f"{', '.join(told)}; lm-eval {asked['lm_eval']}"

    @property
    def began(self) -> str:
        """What it was before the stage, by name."""
        return self.said[BEFORE]["name"] if self.said[BEFORE] else ""

    def to_json(self) -> dict:
        asked = {key: self.said["asked"][key] for key in ("task", "few_shot", "limit", "chat_template", "lm_eval")}
        return asked | {"before": self.began or None, "figures": [line.to_json() for line in self.lines]}

    @property
    def lines(self) -> Iterator[Line]:
        before, after = self.said[BEFORE], self.said[AFTER]
        for task, now in after["results"].items():
            was = before["results"].get(task, {"figures": {}}) if before else {"figures": {}}
            for key, figure in now["figures"].items():
                known = self.said["differences"].get(task, {}).get(key)
                yield _line(task, key, was["figures"].get(key), figure, known, now["n"] or 0)

    @property
    def moved(self) -> Iterator[Change]:
        """What moved beyond chance. Of a group only its own figures: of so many tasks some always do."""
        for line in self.lines:
            if line.task == self.said["asked"]["task"] and line.verdict in (BETTER, WORSE):
                name = f"{line.task}: {line.figure}"
                yield Change(
                    name, line.before, line.after, line.questions, line.verdict, line.difference, line.low, line.high
                )


def _line(task: str, key: str, was: Mapping | None, now: Mapping, known: Mapping | None, questions: int) -> Line:
    name, _, filtered = key.partition(",")
    higher, verdict = now["higher_is_better"], TOLD
    if known and higher is not None:
        verdict = judged(known["value"], known["low"], known["high"], questions, not higher)
    return Line(
        task,
        name if filtered in ("none", "") else f"{name} ({filtered})",
        was["value"] if was else None,
        was["stderr"] if was else None,
        now["value"],
        now["stderr"],
        known["value"] if known else None,
        known["low"] if known else None,
        known["high"] if known else None,
        known["how"] if known else "",
        verdict,
        questions,
    )


def of(attempt_folder: Path) -> tuple[list[Result], list[str]]:
    """(the results kept with an attempt, what is wrong with those that cannot be read)."""
    found, notes = [], []
    for path in benchmarks.results_in(attempt_folder):
        try:
            found.append(Result(benchmarks.read(path)))
        except PipelineError as error:
            notes.append(error.what)
    return found, notes


def read(files: Sequence[Path]) -> list[Result]:
    """Raises PipelineError for one that was edited."""
    return [Result(benchmarks.read(path)) for path in files]
