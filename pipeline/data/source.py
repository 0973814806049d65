"""What a recipe says of a stage's rows: where they are, how they are written, which are held out."""

from os.path import normpath
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from pipeline.data.shapes.shape import SHAPES
from pipeline.errors import PipelineError
from pipeline.hub import Repository, data_set, pinned
from pipeline.section import Section, empty_for_null
from pipeline.wording import did_you_mean, must_be

ROWS_TAG = "<rows>"  # pydantic puts it into the place of an error; a recipe has no such key


def _share_or_file(value: object) -> object:
    if isinstance(value, str) and value:
        return _file_or_files(value)
    if isinstance(value, dict):
        return value
    return _share(value, "a share of the rows from 0 to below 1, or a file")


def _share(value: object, wanted: str = "a share of the rows from 0 to below 1; a file is given to one stage") -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1:
        return float(value)
    raise ValueError(must_be(wanted, value))


def _file_or_files(value: object) -> object:
    files: list[Any] = value if isinstance(value, list) else [value]
    if not files or not all(isinstance(file, str) and file for file in files):
        raise ValueError(must_be("a file, a folder, a glob, or a list of them", value))
    for file in files:
        try:
            data_set(file)
        except PipelineError as error:
            raise ValueError(f"{error.what} {error.fix}") from None
    return value


def _shape_name(value: object) -> object:
    if value is None or (isinstance(value, str) and value in SHAPES):
        return value
    hint = did_you_mean(value, SHAPES) if isinstance(value, str) else ""
    raise ValueError(must_be(f"one of {', '.join(SHAPES)}", value) + hint)


# None is what a section has that was not given one; to write it is refused.
Paths = Annotated[str | list[str] | None, BeforeValidator(_file_or_files)]


class Rows(Section):
    """Where rows are: files, folders, globs and data sets of the hub, and what of them is meant."""

    path: Paths
    """A file, a folder, a glob, a data set of the hub (`hub:owner/name`), or a list of these."""
    config: str | None = None
    """Which config of a folder or data set, where it has several."""
    split: str | None = None
    """Which split, where it has several: `train`, `test`."""
    revision: str = "main"
    """A branch, tag or commit of a data set of the hub. The commit is looked up once and recorded."""

    def pinned(self, folder: Path | None) -> Self:
        """With every data set of the hub at its commit, so that it stays what it is; asks the hub where that is new.

        `folder` is the recipe's own in runs/, where commits are recorded. Raises PipelineError.
        """
        return self.model_copy(update={"path": pinned(self.paths, self.revision, folder)})

    def same_as(self, other: "Rows") -> bool:
        mine, theirs = ([*map(normpath, one.paths), one.config, one.split, one.revision] for one in (self, other))
        return mine == theirs

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else self.path or []

    def data_sets(self) -> list[Repository]:
        """Those of the hub among the paths."""
        return [one for path in self.paths if (one := data_set(path, self.revision))]


class Source(Rows):
    """Rows, and how they are written."""

    shape: Annotated[str | None, BeforeValidator(_shape_name), Field(json_schema_extra={"enum": list(SHAPES)})] = None
    """How the rows are written. Left out, it is recognized."""
    columns: Annotated[dict[str, str], BeforeValidator(empty_for_null), Field(default_factory=dict)]
    """Other names of fields, the expected one first: `{instruction: ask}`."""
    encoding: str = "utf-8"
    """Of text files: `gb18030`, for one."""
    separator: str | None = None
    """What stands between the documents of a plain text. Left out, a file is one document."""

    def unusual(self) -> dict[str, Any]:
        """What says how rows are read, as far as it was set. A revision says only what its commit says."""
        said = self.model_dump(exclude={"path", "held_out", "on_bad_row", "on_too_long", "revision", "mixture"})
        fields = type(self).model_fields
        return {
            key: value for key, value in said.items() if value != fields[key].get_default(call_default_factory=True)
        }


class Part(Source):
    """One of several sources; `weight` is its share of the trained rows, against the other parts' weights."""

    weight: Annotated[float, Field(gt=0, strict=False, allow_inf_nan=False)] | None = None
    """Its share of the trained rows, against the other parts' weights. Without any, all rows are taken."""


class HeldOut(Rows):
    """Rows to hold out that are not a share of the others; without a path they are like those but for what is named."""

    path: Paths = None
    """As in `data`. Left out, that of the rows to train on."""


BadRows = Literal["error", "drop"]
LongRows = Literal["truncate", "drop", "error"]
SameRows = Literal["keep", "drop"]  # rows that say the same but for case and white space
MaxRows = Annotated[int, Field(ge=1)] | None  # of those to train on and their held-out share, see prepare.subset


class EveryData(Section):
    """What a recipe says of the rows of every stage; a stage's own `data` goes before it."""

    held_out: Annotated[float, BeforeValidator(_share)] = 0.05
    """The share of the rows that is measured on and never trained on."""
    max_rows: MaxRows = None
    """Use at most so many rows, the held-out share included."""
    on_bad_row: BadRows = "error"
    """A row that cannot be trained on: stop, or leave it out and list it in `rejected.jsonl`."""
    on_too_long: LongRows = "truncate"
    """A row longer than `max_length`: cut it (the prompt first) and list it in `truncated.jsonl`, leave it out, or
    stop."""
    duplicates: SameRows = "keep"
    """A row that says the same as an earlier one, but for case and white space. Both list it in
    `duplicates.jsonl`."""

    def under(self, own: "Data") -> "Data":
        """A stage's data with what it does not say itself taken from here."""
        said = self.model_fields_set - own.model_fields_set
        return own.model_copy(update={key: getattr(self, key) for key in said})


class Data(Source):
    """A stage's rows."""

    path: Paths = None
    """A file, a folder, a glob, a data set of the hub (`hub:owner/name`), or a list of these."""
    mixture: Annotated[list[Part], Field(default_factory=list)]
    """Instead of `path`: several sources, each with its own keys and, if wanted, its weight."""
    streaming: bool = False
    """Read no more rows than `max_steps` need."""
    held_out: Annotated[
        Annotated[float, Tag("share")] | Annotated[str, Tag("file")] | Annotated[HeldOut, Tag(ROWS_TAG)],
        Discriminator(lambda value: {float: "share", str: "file"}.get(type(value), ROWS_TAG)),
        BeforeValidator(_share_or_file),
    ] = 0.05
    """What is measured on and never trained on: a share of the rows, a file, or rows of their own
    (`{split: test}`)."""
    max_rows: MaxRows = None
    on_bad_row: BadRows = "error"
    on_too_long: LongRows = "truncate"
    duplicates: SameRows = "keep"
    learn: Literal["answers", "last", "everything"] = "answers"
    """What of a conversation carries loss: all answers, the last one, or the questions, too."""

    @model_validator(mode="after")
    def _consistent(self) -> "Data":
        if self.path is not None and self.mixture:
            raise ValueError("give a path or a mixture, not both")
        weighted = [part.weight is not None for part in self.mixture]
        if any(weighted) and not all(weighted):
            raise ValueError("give every part of the mixture a weight, or none")
        if isinstance(self.held_out, HeldOut) and self.held_out.path is None and self.mixture:
            raise ValueError("held_out needs a path beside a mixture")
        own_way = {"shape", "columns", "encoding", "separator"} if isinstance(self.held_out, float) else set()
        beside = self.model_fields_set & (own_way | {"config", "split", "revision"})
        if self.mixture and beside:
            raise ValueError(f"{', '.join(sorted(beside))}: beside a mixture it says nothing; give it in each part")
        if (rows := self.held_out_rows) and not self.mixture and self.path is not None and rows.same_as(self):
            raise ValueError(
                "held_out means the very rows that are trained on; name another split, config or path in it"
            )
        return self

    @property
    def parts(self) -> list[Source]:
        """Where the rows to train on come from, though a share of them may be held out."""
        return [*self.mixture] or [self]

    @property
    def sources(self) -> list[Source]:
        """Every place that rows come from: the parts, and that of held-out rows of their own."""
        return [*self.parts, *filter(None, [self.held_out_rows])]

    def source_of(self, part: int | None) -> Source:
        """That of a part's rows; of None that of the held-out rows, which then are rows of their own."""
        source = self.held_out_rows if part is None else self.parts[part]
        assert source is not None
        return source

    @property
    def weights(self) -> list[float] | None:
        """Of the parts; None where all their rows are taken."""
        weights = [part.weight for part in self.mixture if part.weight is not None]
        return weights or None

    @property
    def held_out_rows(self) -> Source | None:
        """Where the held-out rows are, written like the others; None where they are a share of those."""
        if isinstance(self.held_out, float):
            return None
        how = self.model_dump(include={*Source.model_fields} - {*Rows.model_fields})
        if isinstance(self.held_out, str):
            return Source(**how, path=self.held_out)
        where = self.held_out.model_dump()
        if self.held_out.path is None:
            named = self.held_out.model_dump(exclude_unset=True, exclude={"path"})
            where = self.model_dump(include={*Rows.model_fields}) | named
        return Source(**how, **where)

    def pinned(self, folder: Path | None) -> "Data":
        """Both the rows to train on and those held out."""
        held_out = self.held_out
        if rows := self.held_out_rows:
            held_out = HeldOut(**rows.pinned(folder).model_dump(include={*Rows.model_fields}))
        update = {"held_out": held_out, "mixture": [part.pinned(folder) for part in self.mixture]}
        return (self if self.mixture else super().pinned(folder)).model_copy(update=update)

    def data_sets(self) -> list[Repository]:
        return [repository for rows in self.sources for repository in Rows.data_sets(rows)]
