"""What a file's rows are: their kind is told by the first of them."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from pipeline.data.prepare.label_fields import label_fields_in
from pipeline.data.prepare.work import shaped
from pipeline.data.read.files import container
from pipeline.data.read.reader import Row, read_rows
from pipeline.data.shapes.examples import BadRow, recognized
from pipeline.data.shapes.fields import renamed
from pipeline.data.shapes.guessed import as_columns, guessed
from pipeline.data.shapes.kinds import KINDS
from pipeline.data.shapes.labels import Unwanted
from pipeline.data.shapes.shape import SHAPES, Shape
from pipeline.data.source import Data, Source
from pipeline.errors import PipelineError
from pipeline.stage import specs
from pipeline.wording import listed

PROBED = 50  # rows that tell what kind a file is

Probed = Sequence[tuple[Row, Source]]


def probed(data: Data) -> list[tuple[Row, Source]]:
    """The first rows of each part."""
    return [(row, source) for source in data.parts for row in islice(read_rows(source), PROBED)]


def kind_of(data: Data) -> str:
    """The kind of row that most of the first rows are. Raises PipelineError where they are none."""
    rows, paths = probed(data), ", ".join(path for part in data.parts for path in part.paths)
    if not rows:
        raise PipelineError(f"{paths}: has no rows.", "Give a file with at least one row.")
    if kind := _likeliest(rows) or _by_fields(rows):
        return kind
    said = (
        f"{paths}: its first {len(rows)} rows have no shape that is known; their fields are {_fields(rows) or 'none'}."
    )
    if columns := guessed_columns(rows):
        raise PipelineError(said, f"Say which is which: data.columns: {as_columns(columns)}{as_options(columns)}.")
    raise PipelineError(
        said,
        "Name the stage with --stage to see why, or say in data.columns (--column) which is which, as in "
        f"{KINDS['conversation'].ROW}.{_header(rows)}",
    )


def guessed_columns(rows: Probed, kind: str | None = None) -> dict[str, str]:
    """What `data.columns` could say of the rows, by the names that their fields have; empty where nothing comes to mind."""
    fields = _named(rows)
    kinds = [kind] if kind else [name for name, one in KINDS.items() if not one.WANTED]
    return next((found for name in kinds if (found := guessed(fields, name))), {})


def as_options(columns: Mapping[str, str]) -> str:
    """The same as options of `align data check`, in brackets."""
    options = (f"--column {shlex.quote(f'{ours}={theirs}')}" for ours, theirs in columns.items())
    return f" ({' '.join(options)})"


def looks_like(rows: Probed, kind: str) -> str:
    """What bad rows of a kind rather are, and what to do with them; empty where that is not plain."""
    found = _likeliest(rows)
    if found in (None, "prompt") and (columns := guessed_columns(rows, kind)):
        return f"Their fields are {_fields(rows)}: say which is which, data.columns: {as_columns(columns)}{as_options(columns)}."
    if found not in (None, kind) and not (found == "prompt" and _has_all_fields(rows, kind)):
        return f"These look like {KINDS[found].WORDS}, for {listed(stages_of(found))}."
    if not found and _fields(rows) and not any(recognized(row.value, kind, source.columns) for row, source in rows):
        said = f"Their fields are {_fields(rows)}: say in data.columns which is which, as in {KINDS[kind].ROW}."
        return said + _header(rows)
    return ""


def stages_of(kind: str) -> list[str]:
    """Those that train on rows of a kind."""
    return [name for name, spec in specs().items() if spec.row_kind == kind]


def learning_wanted() -> list[str]:
    """The stages that learn of labeled answers the wanted ones alone."""
    return [name for kind, one in KINDS.items() if one.HEEDS_LABELS and not one.WANTED for name in stages_of(kind)]


def shapes_in(rows: Probed, kind: str) -> Iterator[str]:
    for row, source in rows:
        if not row.problem and (name := source.shape or recognized(row.value, kind, source.columns)):
            yield name


def label_fields_of(rows: Probed) -> list[str]:
    """The fields by which some rows say whether they are wanted."""
    parts = {id(source): source for _, source in rows}
    found = [label_fields_in((row for row, of in rows if of is source), source) for source in parts.values()]
    return sorted(set().union(*found))


def unused(rows: Probed, kind: str) -> list[str]:
    """The fields with words in them that nothing reads. Of some kinds any may be of use."""
    found: dict[str, None] = {}
    for row, source in rows:
        name = source.shape or (None if row.problem else recognized(row.value, kind, source.columns))
        if not name or not isinstance(row.value, dict):
            continue
        used = KINDS[kind].used(SHAPES[name])
        if used is not None:
            used = {*used, *source.columns.values()}
            there = ((field, value) for field, value in row.value.items() if field not in used)
            found |= {field: None for field, value in there if isinstance(value, str) and _has_words(value.strip())}
    return list(found)


def _has_words(text: str) -> bool:
    """Several, that is; Chinese has no spaces between them."""
    return " " in text or (len(text) >= 8 and not text.isascii())


def unused_said(fields: Sequence[str]) -> str:
    quoted = ", ".join(f'"{field}"' for field in fields)
    columns = f"data.columns: {{instruction: ..., input: {fields[0]}, output: ...}}"
    return f"not used: {quoted}; what belongs to the question is mapped, as in {columns}"


def _likeliest(rows: Probed) -> str | None:
    rows, label_fields = [(row, source) for row, source in rows if not row.problem], label_fields_of(rows)

    def good(row: Row, kind: str, source: Source) -> bool:
        example = shaped(row, kind, source, label_fields)
        return not isinstance(example, BadRow) or isinstance(example, Unwanted) or _answers(row, kind, source)

    number = {kind: sum(good(row, kind, source) for row, source in rows) for kind in KINDS}
    most = max(number.values())
    # A bad row of one kind may be a good one of another.
    return next(kind for kind in KINDS if 2 * number[kind] >= most) if most else None


def _answers(row: Row, kind: str, source: Source) -> bool:
    """Whether it has answers with words in them beside what is asked.

    Then it is no mere prompt, though it may be bad.
    """
    if not (whole := _whole(row, kind, source)):
        return False
    written, value = whole
    answers = ("chosen", "rejected") if kind == "preference" else written.answer
    words = [value[one] for one in answers if one in value]
    return bool(words) and all(isinstance(one, str) and one.strip() for one in words)


def _by_fields(rows: Probed) -> str | None:
    """The kind whose fields most of the rows have, though none is a good one."""
    number = {kind: sum(_whole(row, kind, source) is not None for row, source in rows) for kind in KINDS}
    return next((kind for kind in KINDS if 2 * number[kind] > len(rows)), None)


def _whole(row: Row, kind: str, source: Source) -> tuple[Shape, dict] | None:
    """The shape all of whose fields a row has, and the row by their names.

    A label, which any field may be, tells none.
    """
    name = source.shape or recognized(row.value, kind, source.columns)
    if not name or not isinstance(row.value, dict) or not set(source.columns.values()) <= row.value.keys():
        return None
    value, written = renamed(row.value, source.columns), SHAPES[name]
    fits = not KINDS[kind].WANTED and name in KINDS[kind].WRITTEN_AS and KINDS[kind].present(written, value) == 1
    return (written, value) if fits else None


def _has_all_fields(rows: Probed, kind: str) -> bool:
    """Whether they have an answer beside what is asked, be it a bad one."""
    names = {recognized(row.value, kind, source.columns) for row, source in rows if isinstance(row.value, dict)}
    return any(
        name and SHAPES[name].answer and KINDS[kind].present(SHAPES[name], row.value) == 1
        for name in names
        for row, _ in rows
        if isinstance(row.value, dict)
    )


def _header(rows: Probed) -> str:
    """What else it may be where the rows of a table have names that nobody knows."""
    is_table = any(container(row.file) in (".csv", ".tsv") for row, _ in rows)
    if is_table and any("，" in name for name in _named(rows)):
        return ' Their names stand between full-width commas (，): write "," between them, and between what is below.'
    return " If these are no names but a row, put a line with the names before it." if is_table else ""


def _fields(rows: Probed) -> str:
    """Those of the first row that has some."""
    shown = [name if len(name) <= 40 else f"{name[:40]}..." for name in _named(rows)]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")


def _named(rows: Probed) -> list[str]:
    return [str(name) for name in next((row.value for row, _ in rows if isinstance(row.value, dict) and row.value), {})]
