"""W&B: an attempt is a run with the attempt's name for its id, in the group of the recipe.

Offline, the run is written anew from what the attempt has kept whenever its stage goes on, so that one folder holds all of it.
Online, the service says which step it has, and is told from there on.
"""

import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from threading import Event, Thread

import wandb

from pipeline.artifact.writing import write_json
from pipeline.recipe.fields import DEFAULTS
from pipeline.train.trackers.tracker import About

KEPT = "wandb.json"  # in the attempt's folder: the id of its run, once the service has it
FLUSHED = 1  # seconds after which a record is in the run's file
PATIENCE = 30  # seconds, for the service to answer at the start, and to take what is left at the end


class WandB:
    held = -1

    def __init__(self, about: About, note: Callable[[str], None]):
        self.about, self.note = about, note
        self.folder = about.attempt.folder.parent.parent  # W&B puts its own folder `wandb` there
        self.kept = about.attempt.folder / KEPT
        self.described: dict = {}
        self._earlier: list = []

    def open(self) -> None:
        if wandb.setup().settings.mode == "online":
            try:
                self.run = self._online()
                self.held = self.run.starting_step - 1
            except wandb.Error as error:
                wandb.teardown()
                self._offline()
                self.note(
                    f"wandb could not be reached ({' '.join(str(error).split())}); what it would be told is kept, and "
                    f"sent by: .venv/bin/wandb sync {self.described['folder']}"
                )
        else:
            self._offline()

    def row(self, step: int, figures: Mapping[str, float]) -> None:
        self.run.log(dict(figures), step=step, commit=True)

    def caught_up(self) -> None:
        for folder in self._earlier:
            shutil.rmtree(folder)
        self._earlier = []

    def finish(self, manifest: Mapping) -> None:
        # In the summary and not at a step: what is told twice is there once.
        for when, figures in manifest["metrics"].items():
            self.run.summary.update({f"{when}/{name}": value for name, value in figures.items()})
        self.run.summary.update({"tokens": manifest["tokens"], "training seconds": manifest["seconds"]["training"]})
        if samples := manifest["samples"]:
            keys = list(dict.fromkeys(key for sample in samples for key in sample))
            rows = [[sample.get(key) for key in keys] for sample in samples]
            self.run.summary["samples"] = wandb.Table(columns=keys, data=rows)

    def close(self, finished: bool) -> None:
        """What the service has not taken in time stays in the run's folder. Raises TimeoutError then."""

        def end() -> None:
            try:
                self.run.finish(exit_code=0 if finished else 1)
                wandb.teardown()  # its own process writes the last records when it ends
            except Exception as error:
                wrong.append(error)
            ended.set()

        ended, wrong = Event(), []
        Thread(target=end, daemon=True).start()
        if not ended.wait(PATIENCE):
            raise TimeoutError(
                f"it did not take all in {PATIENCE} seconds. Send the rest: "
                f".venv/bin/wandb sync {self.described['folder']}"
            )
        if wrong:
            raise wrong[0]

    def _online(self):
        """The attempt's run. What is a new attempt here is a new run there, even where one of its name exists."""
        known, identity = self.kept.is_file(), self._id
        try:
            run = self._init(identity, mode="online", resume="allow" if known else "never")
        except wandb.Error as error:
            if known or "already exists" not in str(error):
                raise
            identity = f"{identity}-{secrets.token_hex(2)}"
            run = self._init(identity, mode="online", resume="never")
        write_json(self.kept, {"id": identity})
        return run

    def _offline(self) -> None:
        self._earlier = [*(self.folder / "wandb").glob(f"offline-run-????????_??????-{self._id}")]
        self.run, self.held = self._init(self._id, mode="offline"), -1

    @property
    def _id(self) -> str:
        if self.kept.is_file():
            return json.loads(self.kept.read_text(encoding="utf-8"))["id"]
        return self.about.attempt.folder.name

    def _init(self, identity: str, **how: str):
        about = self.about
        written = about.project if about.project != DEFAULTS["project"] else None
        project = written or wandb.setup().settings.project or DEFAULTS["project"]
        # Nothing but what is written here: neither the program's code and its output, nor the repository that it lies in.
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_save_requirements=False,
            init_timeout=PATIENCE,
            x_transaction_log_flush_interval=FLUSHED,
        )
        run = wandb.init(
            project=project,
            group=about.group,
            job_type=about.stage,
            name=about.name,
            id=identity,
            dir=str(self.folder),
            config=dict(about.config),
            settings=settings,
            **how,
        )
        self.described = {"id": identity, "project": project, "mode": how["mode"], "folder": run.settings.sync_dir}
        return run
