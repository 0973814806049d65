"""The one kind of error that a person is meant to read."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODES = {  # of `align`
    0: "done",
    1: "the machine failed: a full disk, memory that ran out, a process that was killed",
    2: "a mistake, and the message says how to mend it",
    3: "a stage has lost what it `must_keep`",
    130: "interrupted by Ctrl-C; the same command goes on",
    143: "stopped by SIGTERM, with a checkpoint where a stage was training; the same command goes on",
}
_TWO_ENDS = re.compile(r"(did you mean [^?\n]+\?)\.")  # a question that a sentence ends with


class PipelineError(Exception):
    """A mistake that the user can mend: what happened, where, and what to do next.

    It ends `align` with exit code 2 and is shown without a traceback. Failures of the machine
    (`MachineError`) end with 1.
    """

    exit_code = 2

    def __init__(self, what: str, fix: str = ""):
        self.what = _TWO_ENDS.sub(r"\1", what)
        super().__init__(self.what)
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n{self.fix}" if self.fix else self.what


class MachineError(PipelineError):
    """The machine failed, not the user: a full disk, a process that was killed, memory that ran out."""

    exit_code = 1


class Together:
    """Mistakes that are found one after the other and told at once."""

    def __init__(self):
        self._found: list[PipelineError] = []

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Go on after a mistake; a failure of the machine ends it all."""
        try:
            yield
        except MachineError:
            raise
        except PipelineError as error:
            self._found.append(error)

    def tell(self) -> None:
        """Raises PipelineError with all that was noted, or does nothing."""
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            fixes = dict.fromkeys(error.fix for error in self._found if error.fix)
            raise PipelineError("\n".join(dict.fromkeys(error.what for error in self._found)), "\n".join(fixes))
