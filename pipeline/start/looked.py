"""A first look at a file: what its rows are, how long they are, whether they have an answer that can be checked."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.data.shapes.examples import example_of
from pipeline.data.shapes.fields import BadRow
from pipeline.data.shapes.kinds import KINDS
from pipeline.data.source import Data
from pipeline.errors import PipelineError
from pipeline.recipe.reading import data_section

TOKENS_A_WORD = 1.6  # a rough figure: English has about 1.3, code and other languages more
_ANSWERS = ("answer", "final_answer", "solution", "target", "ground_truth")
_NUMBER = re.compile(r"[-+]?[\d,]*\.?\d+%?")


@dataclass(frozen=True)
class Looked:
    """Of the first rows of a file. `longest` is in words; `reward` judges by the column `answer`, where there is one."""

    path: str
    kind: str
    rows: int
    bad: list[str]
    longest: int
    answer: str | None
    reward: str | None
    tools: bool = False  # whether a row has some, which not every chat template shows
    how: Mapping[str, Any] = field(default_factory=dict)  # what `data` has to say beside the path for them to be read

    @property
    def tokens(self) -> int:
        """The longest row in tokens, about, as a power of two from 256 to 4096."""
        wanted = max(self.longest * TOKENS_A_WORD + 32, 256)
        return min(2 ** (int(wanted) - 1).bit_length(), 4096)


def look(path: str, encoding: str | None = None) -> Looked:
    """Of texts in this encoding, UTF-8 if it is None. Raises PipelineError for a file that is not there, or whose rows are of no known shape."""
    from pipeline.data.prepare import kinds  # reading needs Arrow, which no other command waits for
    from pipeline.data.tokens.words import Words

    how = {"encoding": encoding} if encoding else {}
    data = data_section(path=path, **how)
    if data.data_sets():
        raise PipelineError(
            f"{path}: a data set of the hub is not looked at before a recipe names it.",
            "Put it under data.path of a recipe, and look with `align data check --recipe ...`.",
        )
    first = kinds.probed(data)  # of a file that cannot be read it says itself what to do
    kind, columns = _kind_of(data, first)
    bad, examples = [], []
    labels = kinds.label_fields_of(first) if KINDS[kind].HEEDS_LABELS else None
    for row, source in first:
        try:
            examples.append(example_of(row.value, kind, columns=columns, named=source.shape, label_fields=labels))
        except BadRow as reason:
            bad.append(f"{row.place} {row.problem or reason}")
    longest = max((len(Words().written(example)) for example in examples), default=0)
    answer, reward = _checkable([row.value for row, _ in first if isinstance(row.value, dict)])
    tools = any(isinstance(row.value, dict) and row.value.get("tools") not in (None, "", "[]", []) for row, _ in first)
    return Looked(
        path, kind, len(first), bad, longest, answer, reward, tools, {"columns": columns} | how if columns else how
    )


def _kind_of(data: Data, first: Sequence) -> tuple[str, dict[str, str]]:
    """What the rows are, and what their fields have to be called for that, by a guess where they have other names."""
    from pipeline.data.prepare import kinds

    try:
        kind = kinds.kind_of(data)
    except PipelineError as error:
        if not first:
            raise
        if not (columns := kinds.guessed_columns(first)):
            fix = "Name the columns in a recipe's data.columns; see `align data check`."
            raise PipelineError(error.what, fix) from None
    else:
        # Questions whose answers have a name of their own would be taken for mere questions.
        columns = kinds.guessed_columns(first) if kind == "prompt" else {}
    return (kinds.kind_of(data.model_copy(update={"columns": columns})), columns) if columns else (kind, {})


def _checkable(rows: list[dict]) -> tuple[str | None, str | None]:
    """The column with answers, and the built-in reward that reads them."""
    column = next((name for name in _ANSWERS if rows and all(row.get(name) not in (None, "") for row in rows)), None)
    if column is None:
        return None, None
    found = Counter(_judged_by(str(row[column])) for row in rows)
    return column, found.most_common(1)[0][0]


def _judged_by(answer: str) -> str:
    if "####" in answer or _NUMBER.fullmatch(answer.strip()):
        return "number"
    return "math" if "\\boxed" in answer or "\\frac" in answer or "$" in answer else "exact_match"
