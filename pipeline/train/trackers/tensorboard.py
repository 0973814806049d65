"""TensorBoard: a folder of an attempt's curves, written anew from what the attempt has kept whenever its stage goes on."""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from torch.utils.tensorboard import SummaryWriter

from pipeline.train.trackers.tracker import About

EVENTS = "events.out.tfevents.*"
LONGEST = 2000  # characters of an answer that are shown


class TensorBoard:
    held = -1

    def __init__(self, about: About, note: Callable[[str], None]):
        self.about, self.folder = about, about.attempt.curves
        self.described = {"folder": str(self.folder)}
        self._last = 0

    def open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._earlier = sorted(self.folder.glob(EVENTS))
        self._times = _times(self._earlier)
        # Told that a run begins at step 0, TensorBoard forgets what it has read of the earlier files.
        self.writer = SummaryWriter(str(self.folder), purge_step=0)
        recipe = yaml.safe_dump(dict(self.about.config), sort_keys=False, allow_unicode=True)
        self.writer.add_text("recipe", f"```yaml\n{recipe}```", 0)
        self.writer.flush()

    def row(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step, walltime=self._times.get(step))
        self.writer.flush()
        self._last = step

    def caught_up(self) -> None:
        for file in self._earlier:
            file.unlink()
        self._earlier, self._times = [], {}

    def finish(self, manifest: Mapping) -> None:
        before, after = manifest["metrics"]["before"], manifest["metrics"]["after"]
        names = dict.fromkeys([*before, *after])
        figures = [(name, _number(before.get(name)), _number(after.get(name))) for name in names]
        self._table("figures", ("held-out rows", "before", "after"), figures)
        if samples := manifest["samples"]:
            keys = dict.fromkeys(key for sample in samples for key in sample)
            self._table("samples", tuple(keys), [[sample.get(key, "") for key in keys] for sample in samples])

    def close(self, finished: bool) -> None:
        self.writer.close()

    def _table(self, tag: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        lines = [head, ["---"] * len(head), *([_cell(one) for one in row] for row in rows)]
        self.writer.add_text(tag, "\n".join(f"| {' | '.join(line)} |" for line in lines), self._last)
        self.writer.flush()


def _number(value: object) -> str:
    return "" if value is None else f"{value:.6g}"


def _cell(value: object) -> str:
    """A text as it is, in a cell of Markdown's table."""
    text = str(value)
    shown = html.escape(text[:LONGEST], quote=False) + ("…" if len(text) > LONGEST else "")
    return shown.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>")


def _times(files: Iterable[Path]) -> dict[int, float]:
    """When each step was logged first, in seconds since 1970, as far as it can be read: a killed process leaves half a record."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    found: dict[int, float] = {}
    for file in files:
        for event in LegacyEventFileLoader(str(file)).Load():
            if event.HasField("summary"):
                found.setdefault(event.step, event.wall_time)
    return found
