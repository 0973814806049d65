"""What the engine asks of every kind of row."""

import json
from collections.abc import Collection, Iterable, Mapping
from typing import ClassVar, Self

from pipeline.data.shapes.shape import BESIDE, Shape

_WRITER = json.JSONEncoder(ensure_ascii=False, default=str)  # what JSON has not, as dates in a table, becomes text


class Kind:
    """An example of some kind: a frozen dataclass whose fields are what a row says.

    Its tokens are `COLUMNS`. A kind that has `prompt_ids` first is a question and as many answers as it has columns
    more; the others are learned as one sequence.
    """

    __slots__: tuple[str, ...] = ()

    messages: list[dict]  # of all but texts
    tools: list[dict] | None

    NAME: ClassVar[str]
    WORDS: ClassVar[str]  # in a sentence: "These look like ..."
    ROW: ClassVar[str]  # the simplest row, as in a hint
    COLUMNS: ClassVar[tuple[str, ...]]
    NUMBERS: ClassVar[tuple[str, ...]] = ()  # fields that stand beside the tokens in the table, as numbers
    WANTED: ClassVar[str | None] = None  # the one of them that says whether an answer is to be learned or avoided
    ASKS: ClassVar[bool] = True  # whether there is a question that a model can be asked
    WRITTEN_AS: ClassVar[tuple[str, ...]]  # in which its rows are written
    HEEDS_LABELS: ClassVar[bool] = False  # whether its rows may say of themselves that they are not wanted

    @classmethod
    def groups(cls, shape: Shape) -> list[tuple[tuple[str, ...], ...]]:
        """The fields that a row has, as alternative lists of (alternative names)."""
        return [(shape.prompt,)]

    @classmethod
    def read(cls, row: dict, shape: Shape, label_fields: Collection[str]) -> Self:
        """A row of one of the shapes. Raises BadRow.

        `label_fields` are those by which rows say whether they are wanted.
        """
        raise NotImplementedError

    @classmethod
    def rather(cls, row: dict) -> str:
        """What a row is that cannot be read as this kind, where that is plain."""
        return ""

    @classmethod
    def doubt(cls, row: Mapping) -> str:
        """What a row that is read as this kind says against itself."""
        return ""

    @classmethod
    def apart(cls, value: object, shape: str | None, columns: Mapping[str, str]) -> list[object]:
        """The rows that a row of the file is, where `shape`, named in the recipe, asks to take it apart."""
        return [value]

    @classmethod
    def from_json(cls, fields: dict) -> Self:
        return cls(**fields)

    @classmethod
    def fields(cls, shape: Shape) -> set[str]:
        """All that rows of a shape may have."""
        return {*shape.beside, *(name for group in cls.groups(shape) for one in group for name in one)}

    @classmethod
    def used(cls, shape: Shape) -> set[str] | None:
        """The fields that are read of a row; None where any may be."""
        return {*cls.fields(shape), *BESIDE}

    @classmethod
    def present(cls, shape: Shape, fields: Iterable[str]) -> float:
        """The share of its fields that a row has, of the alternative of which it has the most."""
        return max(
            sum(any(name in fields for name in one) for one in group) / len(group) for group in cls.groups(shape)
        )

    @property
    def prompt(self) -> str:
        """What is asked up to the first answer: two rows that ask the same belong on the same side of a split."""
        return "\n".join(message["content"] for message in self.question)

    @property
    def question(self) -> list[dict]:
        """The messages that a model is asked to answer."""
        return self.messages

    @property
    def answers(self) -> list[dict]:
        """The answers beside the question, as messages, in the order of their columns."""
        return []

    @property
    def reference(self) -> str | None:
        """The answer that is held to be right, where the row has one."""
        return None

    @property
    def opposite(self) -> Self | None:
        """What contradicts it: of a pair the pair the other way."""
        return None

    def to_json(self) -> dict:
        return {name: getattr(self, name) for name in self.__slots__}


def to_bytes(example: Kind) -> bytes:
    """As JSON; half of a surrogate pair is kept."""
    return _WRITER.encode(example.to_json()).encode("utf-8", "surrogatepass")


def from_bytes(kind: type[Kind], written: bytes) -> Kind:
    return kind.from_json(json.loads(written.decode("utf-8", "surrogatepass")))
