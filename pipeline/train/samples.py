"""The model's answers to held-out prompts, as lines of samples.jsonl: before, in the middle of training, and after."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.artifact.writing import write_atomically
from pipeline.data.shapes.kinds import Kind
from pipeline.evaluate.figures import Figures

SAMPLES = "samples.jsonl"


class Samples:
    """The file in a stage's folder. `held_out` are the rows whose prompts are answered, in order."""

    def __init__(self, folder: Path, held_out: Sequence[Kind]):
        self.file, self.held_out = folder / SAMPLES, held_out

    def keep(self, step: int, completions: Sequence[str]) -> None:
        """The answers of the middle of training, beside those of earlier steps."""
        kept = [line for line in self._lines() if line.get("step", step) < step]  # a resumed run evaluates again
        kept += [
            {"step": step, "prompt": one.prompt, "completion": text}
            for one, text in zip(self.held_out, completions, strict=False)
        ]
        self._write(kept)

    def pairs(self, before: Figures, after: Figures) -> list[dict]:
        """As many as both evaluations answered."""
        return [
            {"prompt": one.prompt, "before": was, "after": now}
            | ({} if one.reference is None else {"reference": one.reference})
            for one, was, now in zip(self.held_out, before.completions, after.completions, strict=False)
        ]

    def finish(self, pairs: Sequence[dict]) -> None:
        """Put the answers before and after behind those of the middle, in place of any that were there."""
        self._write([*(line for line in self._lines() if "step" in line), *pairs])

    def _lines(self) -> list[dict]:
        if not self.file.is_file():
            return []
        return [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]

    def _write(self, lines: Sequence[dict]) -> None:
        write_atomically(self.file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
