"""The manifest of a stage: what was trained, on what, by which machine, and what it learned. Written last."""

import time
from collections.abc import Callable

from pipeline.artifact.digests import Digests, weights_sha256
from pipeline.artifact.manifest import MANIFEST, write_manifest
from pipeline.artifact.writing import write_json
from pipeline.evaluate.figures import Figures
from pipeline.evaluate.intervals import differences
from pipeline.model.saving import could_not_save
from pipeline.plan.memory.held import Held
from pipeline.plan.memory.reckoned import reckon_one
from pipeline.train.earlier import OWN
from pipeline.train.job import machine
from pipeline.train.job.checked_job import CheckedJob
from pipeline.train.measuring import Measuring
from pipeline.train.rows import StageRows
from pipeline.train.trackers.tracking import Tracking

OF_SOME_FIGURES = ("judge", "confusion", "how")  # what a manifest has where it has the figures that they are about


class Record:
    """Signs a stage: with its manifest it is finished."""

    def __init__(
        self,
        checked: CheckedJob,
        rows: StageRows,
        measuring: Measuring,
        tracking: Tracking,
        report: Callable[..., None],
    ):
        self.checked, self.rows, self.measuring, self.tracking = checked, rows, measuring, tracking
        self.report = report

    def sign(
        self,
        trainer,
        output: str,
        before: Figures,
        after: Figures,
        seconds: float,
        peak: dict[str, int],
        kept: dict | None = None,
    ) -> None:
        """Of what `trainer` has trained, in so many seconds and bytes of memory, and what is saved as `output`.

        `kept` is how its step was chosen, where that was not the last one.
        """
        checked = self.checked
        job, step = checked.job, checked.step
        weights = weights_sha256(checked.folder / output, Digests())
        manifest = {
            "stage": job.stage,
            "fingerprint": job.fingerprint,
            "inputs": step.inputs,
            "data": self._data_summary(),
            "parents": {
                role: {"stage": one.stage, "folder": str(one.folder), "sha256": one.sha256}
                for role, one in (("policy", step.parent), ("reward", step.reward))
                if one
            },
            "base": self._base_summary(output, weights),
            "head": checked.spec.head,
            "output": output,
            "weights_sha256": weights,
            "run": machine.described(checked.machine, job.backend_why, trainer.model)
            | ({"shrunk": checked.shrinking.history} if checked.shrinking.history else {}),
            "parameters": trainer.parameters,
            "steps": trainer.state.global_step,
            "tokens": trainer.tokens_of_all,
            **({"kept": kept} if kept else {}),
            "figures": getattr(trainer, "figures", dict)(),
            "seconds": {"training": round(seconds, 2)},
            "peak_bytes": peak,
            "memory": self._memory(peak),
            "versions": machine.versions(job.backend, job.strategy),
        }
        self._write(manifest, before, after, self.tracking.finish, trainer.before)

    def sign_again(self, before: Figures, after: Figures) -> None:
        """Other figures for the same weights: all else stays as the attempt's manifest has it."""
        anew = {"files", *OF_SOME_FIGURES}
        manifest = {key: value for key, value in self.checked.attempt.manifest.items() if key not in anew}
        self._write(manifest, before, after, self.tracking.again)

    def _write(
        self, manifest: dict, before: Figures, after: Figures, track: Callable[[dict], None], earlier: float = 0.0
    ) -> None:
        """`track` tells the trackers what the manifest says; `earlier` are the seconds that processes before this one trained."""
        checked, samples = self.checked, self.measuring.samples
        wanted = checked.settings.evaluation.samples
        pairs = samples.pairs(before, after) if wanted else []
        manifest |= {
            "metrics": {"before": before.metrics, "after": after.metrics | manifest.get("figures", {})},
            "differences": {name: one.to_json() for name, one in differences(before, after).items()},
            **({"judge": self.measuring.judging.summary} if self.measuring.judging.summary else {}),
            **({"confusion": {"before": before.confusion, "after": after.confusion}} if after.confusion else {}),
            **({"how": after.how} if after.how else {}),
            "earlier": self.measuring.earlier.summary(),
            "samples": pairs[:wanted],
            "evaluation": {
                "sha256": checked.planner.evaluations.sha256(checked.job.stage),
                "settings": checked.settings.evaluation.model_dump(),
            },
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        track(manifest)
        manifest |= {"trackers": self.tracking.summary()} if self.tracking.names else {}
        # Where it is only evaluated again, it keeps those of its training.
        manifest["seconds"].setdefault("in all", round(earlier + time.monotonic() - checked.started, 2))
        try:
            samples.finish(pairs)
            write_json(checked.folder / OWN, after.to_json())
            write_manifest(checked.folder, manifest)
        except OSError as error:
            raise could_not_save(checked.folder, error) from error
        self.report("finished", folder=str(checked.folder), manifest=str(checked.folder / MANIFEST))

    def _data_summary(self) -> dict:
        checked, prepared = self.checked, self.rows.prepared
        return {
            "files": checked.planner.contents.files(checked.job.stage, checked.step.inputs),
            "rows": prepared.account.summary(),
            "prepared": prepared.folder.name,
        }

    def _memory(self, peak: dict[str, int]) -> dict:
        """What the plan says it takes in tensors on a GPU, beside what was measured on one: on a CPU nothing is comparable. Of
        several processes, on the first one's.
        """
        job = self.checked.job
        held = Held(job.processes, job.strategy, job.offload is not None)
        found = reckon_one(self.checked.planner, self.checked.step, held=held)
        if found.need:
            phase = found.need.of_training(evaluates=found.setting.train["eval_strategy"] != "no")
            said = {"planned": phase.allocated, "in": phase.name}
        else:
            said = {"why_not": found.why_not}
        return said | ({"measured": peak["gpu"]} if "gpu" in peak else {"not_measured": "trained on a CPU"})

    def _base_summary(self, output: str, weights: str) -> dict:
        """The base of what comes after: a whole model is its own."""
        if output == "model":
            source = str(self.checked.folder.resolve() / output)
            return {"identity": {"sha256": weights}, "source": source, "commit": None}
        base = self.checked.step.base
        return {"identity": base.identity, "source": base.source, "commit": base.commit}
