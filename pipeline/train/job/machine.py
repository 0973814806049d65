"""The machine that a stage runs on: threads, device and backend, agreed on once and kept, and the memory it took."""

import json
import os
import resource
import sys
from pathlib import Path

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.digests import difference
from pipeline.artifact.writing import write_json
from pipeline.errors import PipelineError
from pipeline.model import attention, backend
from pipeline.model.backend import UNSLOTH
from pipeline.plan.step import EVALUATE
from pipeline.recipe.recipe import Recipe
from pipeline.train.job.job import Job


def before_imports(bitsandbytes: bool) -> None:
    """Set before the heavy imports: no progress bars, no telemetry, no threads that spin."""
    # Threads that spin for long while they wait halve the speed of a busy machine; waking them each time costs an
    # idle one a quarter. A few microseconds of spinning cost neither much.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    if not bitsandbytes and "transformers" not in sys.modules:
        sys.modules["bitsandbytes"] = None  # the libraries that would load it, for seconds, go without
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def agreed(job: Job, recipe: Recipe, attempt: Attempt) -> dict:
    """How this attempt is run, with the backend imported. An unfinished one goes on as it began, or not at all."""
    file = attempt.folder / "run.json"
    begun = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    if begun and job.mode != EVALUATE and not attempt.checkpoints():
        begun = None  # nothing is trained yet
    threads = begun["threads"] if begun else recipe.threads or min(available_cores(), 8)
    now = {"backend": job.backend, "device": _start(job, recipe, threads), "processes": 1, "threads": threads}
    attention.check(recipe.model.attn_implementation, now["device"])
    if begun is None:
        if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != now:
            (attempt.folder / "before.json").unlink(missing_ok=True)
        write_json(file, now)
    elif job.mode != EVALUATE and begun != now:
        changed = "; ".join(difference(begun, now))
        raise PipelineError(
            f"{job.stage}: {attempt.folder.name} was begun otherwise ({changed}) and cannot go on as exactly.",
            "Continue it where it was begun, or start another attempt with --fresh (FRESH=1).",
        )
    return now


def _start(job: Job, recipe: Recipe, threads: int) -> str:
    """Import the heavy libraries with so many threads; returns the device."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    before_imports(recipe.needs_bitsandbytes())
    backend.start(job.backend, Path(job.runs))
    import torch

    torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        return "cpu"
    if gib := os.environ.get("ALIGN_GPU_GIB"):  # as if the card were smaller
        whole = torch.cuda.get_device_properties(0).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(min(float(gib) / whole, 1.0))
    return "cuda"


def forget_peak(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> dict[str, int]:
    """The most memory in use, in bytes: the process's from its start, the GPU's while it trained."""
    import torch

    found = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if device == "cuda":
        found |= {"gpu": torch.cuda.max_memory_allocated(), "gpu_reserved": torch.cuda.max_memory_reserved()}
    return found


def described(agreed: dict, why: str, model) -> dict:
    """The machine and the backend, as the manifest tells of them."""
    import torch

    found = agreed | {"why": why, "attention": model.config._attn_implementation}
    if agreed["device"] == "cuda":
        driver = Path("/proc/driver/nvidia/version")
        found["gpu"] = torch.cuda.get_device_name()
        found["driver"] = driver.read_text().splitlines()[0].strip() if driver.is_file() else None
    return found


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(used: str) -> dict[str, str]:
    from importlib.metadata import version

    names = ["torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "tokenizers"]
    names += ["unsloth", "unsloth_zoo"] if used == UNSLOTH else []
    return {"python": sys.version.split()[0]} | {name: version(name) for name in names}
