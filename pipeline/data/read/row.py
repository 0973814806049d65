"""A row and its place."""

from dataclasses import dataclass

from pipeline.errors import PipelineError


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in the file. `problem` says why it could not be read, where it could not.

    `line` counts from 1: the line that the row starts on, or the number of the row in a Parquet or Arrow file.
    """

    file: str
    line: int
    value: object = None
    problem: str = ""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def nothing_in(path: str) -> PipelineError:
    """For a file without any content; a well-formed one with no rows, such as [], is the account's to judge."""
    return PipelineError(f"{path}: the file is empty.", "Give a file with at least one row.")
