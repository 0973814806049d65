"""The one kind of error that a person is meant to read."""


class PipelineError(Exception):
    """A mistake that the user can mend: what happened, where, and what to do next.

    It ends `align` with exit code 2 and is shown without a traceback. Failures of the machine
    (`MachineError`) end with 1.
    """

    exit_code = 2

    def __init__(self, what: str, fix: str = ""):
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n{self.fix}" if self.fix else self.what


class MachineError(PipelineError):
    """The machine failed, not the user: a full disk, a process that was killed, memory that ran out."""

    exit_code = 1
