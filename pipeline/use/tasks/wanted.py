"""What is asked for: which tasks, how, and where they are found. Light."""

from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import PipelineError

HUB = "hub:"


@dataclass(frozen=True)
class Wanted:
    """`few_shot` is None for each task's own number, `limit` the number of questions asked, None for all."""

    tasks: tuple[str, ...]
    folder: str | None = None  # of a person's own tasks
    few_shot: int | None = None
    limit: int | None = None
    chat_template: bool = False
    batch_size: int = 8

    @classmethod
    def told(cls, tasks: str | None, folder: str | None, **how: object) -> "Wanted":
        """From a command line. Raises PipelineError for what cannot be meant."""
        names = tuple(dict.fromkeys(name.strip() for name in (tasks or "").split(",") if name.strip()))
        if not names:
            raise PipelineError(
                "evaluate: no task is named.",
                "Name some: --tasks gsm8k,my_task (TASKS=); your own lie in --tasks-path.",
            )
        if folder is not None:
            _check_folder(folder)
        return cls(names, folder, **how)

    def to_json(self) -> dict:
        return asdict(self)


def _check_folder(folder: str) -> None:
    if folder.startswith(HUB) or "://" in folder:
        raise PipelineError(
            f"--tasks-path: {folder} is not on this machine. A task can run code, so it is never taken from elsewhere.",
            "Download it, read it, and name the folder.",
        )
    if not Path(folder).is_dir():
        raise PipelineError(f"--tasks-path: {folder}: no such folder.", "Name the folder of your tasks' YAML files.")
    if not any(Path(folder).glob("**/*.yaml")):
        raise PipelineError(f"--tasks-path: {folder}: has no *.yaml, so no task.", "lm-eval reads *.yaml, not *.yml.")
