"""What a finished stage leaves beside its weights: the samples, and the manifest, written last."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifact.digests import Digests, weights_sha256
from pipeline.artifact.manifest import MANIFEST, write_manifest
from pipeline.artifact.writing import write_atomically
from pipeline.train import machine
from pipeline.train.saving import could_not_save

if TYPE_CHECKING:
    from pipeline.train.stage_run import StageRun

SAMPLES = "samples.jsonl"


class Record:
    """The manifest of a stage and its samples."""

    def __init__(self, run: "StageRun"):
        self.run = run

    def finish(self, trainer, output: str, before, after, trained_seconds: float, peak: dict[str, int]) -> None:
        run = self.run
        weights = weights_sha256(run.folder / output, Digests())
        self.write(
            {
                "stage": run.job.stage,
                "fingerprint": run.job.fingerprint,
                "inputs": run.step.inputs,
                "data": self._data_summary(),
                "parents": {
                    role: {"stage": one.stage, "folder": str(one.folder), "sha256": one.sha256}
                    for role, one in (("policy", run.parent), ("reward", run.step.reward))
                    if one
                },
                "base": self._base_summary(output, weights),
                "head": run.spec.head,
                "output": output,
                "weights_sha256": weights,
                "run": machine.described(run.machine, run.job.backend_why, trainer.model),
                "steps": trainer.state.global_step,
                "tokens": trainer.tokens,
                "figures": getattr(trainer, "figures", dict)(),
                "seconds": {"training": round(trained_seconds, 2)},
                "peak_bytes": peak,
                "versions": machine.versions(run.job.backend),
            },
            before,
            after,
        )

    def write(self, manifest: dict, before, after) -> None:
        run = self.run
        samples = self._samples(before, after)
        evaluation = {
            "sha256": run.planner.inputs.evaluation_sha256(run.job.stage),
            "settings": run.settings.evaluation.model_dump(),
        }
        manifest |= {
            "metrics": {"before": before.metrics, "after": after.metrics | manifest.get("figures", {})},
            "samples": samples,
            "evaluation": evaluation,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        # Where it is only evaluated again, it keeps those of its training.
        manifest["seconds"].setdefault("in all", round(time.monotonic() - run.started, 2))
        try:
            kept = [line for line in _lines(run.folder / SAMPLES) if "step" in line]
            _write_lines(run.folder / SAMPLES, [*kept, *samples])
            write_manifest(run.folder, manifest)
        except OSError as error:
            raise could_not_save(run.folder, error) from error
        run.report("finished", folder=str(run.folder), manifest=str(run.folder / MANIFEST))

    def _samples(self, before, after) -> list[dict]:
        run = self.run
        return [
            {"prompt": one.prompt, "before": was, "after": now}
            for one, was, now in zip(run.evaluation.held_out, before.completions, after.completions, strict=False)
        ][: run.settings.evaluation.samples]

    def _data_summary(self) -> dict:
        run = self.run
        return {
            "files": run.planner.inputs.files(run.job.stage, run.step.inputs),
            "rows": run.rows.prepared.account.summary(),
            "prepared": run.rows.prepared.folder.name,
        }

    def _base_summary(self, output: str, weights: str) -> dict:
        """The base of what comes after: a whole model is its own."""
        run = self.run
        if output == "model":
            return {
                "identity": {"sha256": weights},
                "source": str(run.folder.resolve() / output),
                "commit": None,
            }
        return {"identity": run.base.identity, "source": run.base.source, "commit": run.base.commit}

    def keep_answers(self, step: int, completions: list[str]) -> None:
        """The answers of the middle of training, beside those of earlier steps."""
        file = self.run.folder / SAMPLES
        kept = [line for line in _lines(file) if line.get("step", step) < step]  # a resumed run evaluates again
        kept += [
            {"step": step, "prompt": one.prompt, "completion": text}
            for one, text in zip(self.run.evaluation.held_out, completions, strict=False)
        ]
        _write_lines(file, kept)


def _lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def _write_lines(file: Path, lines: list[dict]) -> None:
    write_atomically(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
