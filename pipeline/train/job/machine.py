"""The machine that a stage runs on: threads, device and backend, agreed on once and kept, and the memory it took."""

import gc
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path

from pipeline.artifact.attempt import HOW, Attempt
from pipeline.artifact.digests import difference
from pipeline.artifact.writing import write_json
from pipeline.errors import PipelineError
from pipeline.model import attention, backend
from pipeline.model.backend import UNSLOTH
from pipeline.plan.step import EVALUATE
from pipeline.ranks import ALONE, Ranks, joined
from pipeline.recipe.launch import SHARDING, ZERO, can_go_on
from pipeline.recipe.recipe import Recipe
from pipeline.stage import specs
from pipeline.train.job.job import Job

PLACES = ("nodes", "earlier")  # what is kept of how an attempt is run, and may change
# What transformers and TRL import wherever it is installed, a fifth of the time of all imports, and a stage runs nothing of:
# scikit-learn for assisted generation, SciPy for the loss of models that find objects in pictures, wandb for tables that are never
# sent (pipeline.train.trackers has its own).
LEFT_OUT = ("sklearn", "scipy", "wandb")
SHARED_LATE = 60  # seconds that a shared folder may take to show a file on another machine


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


@contextmanager
def importing() -> Iterator[None]:
    """Imports in a quarter less time: they leave hardly any garbage (489 objects of 440,000), for which Python looks again
    and again. What they made stays, so later looks pass over it, too (`gc.freeze`). And what is installed is looked through once:
    transformers and TRL each ask for it, half a second a time.
    """
    was_on, asked = gc.isenabled(), metadata.packages_distributions
    gc.disable()
    metadata.packages_distributions = cache(asked)
    try:
        yield
    finally:
        metadata.packages_distributions = asked
        gc.freeze()
        if was_on:
            gc.enable()


@contextmanager
def leaving_out(names: Iterable[str] = LEFT_OUT) -> Iterator[None]:
    """Imports that find none of these packages installed. Afterwards they are there for who wants them: a function of the user's,
    a tracker.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)


def agreed(job: Job, recipe: Recipe, attempt: Attempt, ranks: Ranks = ALONE) -> tuple[Ranks, dict, str | None]:
    """(the processes, joined; how this attempt is run, with the backend imported; what is to be said of that, if anything).

    An unfinished one goes on as it began, or with another number of processes, or not at all.
    """
    begun = attempt.how
    if begun and job.mode != EVALUATE and not attempt.checkpoints():
        begun = None  # nothing is trained yet
    threads = begun["threads"] if begun and begun["processes"] == ranks.size else _threads(recipe, ranks)
    device = _start(job, recipe, threads, ranks)
    ranks = joined(ranks, device, sharded=job.strategy in SHARDING)
    _same_everywhere(job, ranks)
    if job.offload and device != "cuda":
        said = "launch.deepspeed: offload_*" if job.deepspeed else "launch.offload"
        raise PipelineError(f"{job.stage}: {said}: there is no GPU here to spare.", "Leave it out.")
    now = {"backend": job.backend, "device": device, "processes": ranks.size, "threads": threads}
    if not ranks.alone:
        now["strategy"] = job.strategy
    if job.deepspeed:
        now["deepspeed"] = job.deepspeed
    if job.nodes > 1:
        now["nodes"] = job.nodes
    if begun and job.mode != EVALUATE and (earlier := shares(begun, now, attempt.checkpoints()[0][0])):
        now["earlier"] = earlier
    attention.check(recipe.model.attn_implementation, now["device"])
    note = _settle(job, attempt, begun, now) if ranks.first else None
    ranks.wait()
    if not _comes(file := attempt.folder / HOW):
        raise PipelineError(
            f"{job.stage}: {file} is not on this machine ({ranks.name}).",
            "Have all machines share one runs folder, and name it with --runs (RUNS=).",
        )
    return ranks, now, note


def _comes(file: Path) -> bool:
    """What another machine has written may be seen here a little later."""
    until = time.monotonic() + SHARED_LATE
    while not file.is_file() and time.monotonic() < until:
        os.listdir(file.parent)
        time.sleep(0.2)
    return file.is_file()


def _same_everywhere(job: Job, ranks: Ranks) -> None:
    """Refuse where a machine has another recipe, other data or other versions than the first."""
    if ranks.alone:
        return
    said = ranks.of_all(
        {"inputs": job.fingerprint, "attempt": Path(job.folder).name, "file for DeepSpeed": job.deepspeed}
        | versions(job.backend, job.strategy)
    )
    for rank, other in enumerate(said):
        if unlike := [key for key in other if other[key] != said[0][key]]:
            raise PipelineError(
                f"{job.stage}: process {rank + 1} of {ranks.size} has other {', '.join(unlike)} than the first.",
                "Bring recipe, data and packages of all machines to the same state, and run it again.",
            )


def _threads(recipe: Recipe, ranks: Ranks) -> int:
    """Of each process: those of this machine share its cores."""
    return max((recipe.threads or min(available_cores(), 8 * ranks.on_this_machine)) // ranks.on_this_machine, 1)


def _take_gpu(job: Job, ranks: Ranks) -> None:
    """Each process of this machine has one of its own."""
    import torch

    there = torch.cuda.device_count()
    if there < ranks.on_this_machine:
        gpus = f"{there} GPU{'s' if there > 1 else ''}"
        raise PipelineError(
            f"{job.stage}: {ranks.on_this_machine} processes were asked for, and there {'are' if there > 1 else 'is'} {gpus} here.",
            f"Set launch.processes: {there} or auto, or give --processes {there} (PROCESSES={there}).",
        )
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def _settle(job: Job, attempt: Attempt, begun: dict | None, now: dict) -> str | None:
    """Keep how it is run, or refuse where it was begun otherwise. Returns what is to be said of it."""
    file = attempt.folder / HOW
    if begun is None:
        if attempt.how not in (None, now):
            (attempt.folder / "before.json").unlink(missing_ok=True)
        write_json(file, now)
    elif job.mode != EVALUATE and _processes_alone(job, begun, now):
        write_json(file, now)
        return (
            f"begun with {begun['processes']} process{'es' * (begun['processes'] > 1)}, continued with {now['processes']}: "
            "the same steps, equal to rounding and no longer to the bit"
        )
    elif job.mode != EVALUATE and (changed := "; ".join(difference(_without_places(begun), _without_places(now)))):
        raise PipelineError(
            f"{job.stage}: {attempt.folder.name} was begun otherwise ({changed}) and cannot go on as exactly.",
            "Continue it where it was begun, or start another attempt with --fresh (FRESH=1).",
        )
    elif job.mode != EVALUATE and begun != now:
        write_json(file, now)
    return None


def _processes_alone(job: Job, begun: dict, now: dict) -> bool:
    """Whether it is only by its processes that it is run otherwise, and it can go on: a rollout in its middle cannot."""
    if begun["processes"] == now["processes"] or specs()[job.stage].response:
        return False
    if not can_go_on(begun, now["processes"], now.get("strategy", "ddp")):
        return False
    of_them = ("processes", "threads", "strategy", *PLACES)
    return all(begun.get(key) == now.get(key) for key in begun | now if key not in of_them)


def _without_places(how: dict) -> dict:
    return {key: value for key, value in how.items() if key not in PLACES}


def shares(begun: dict, now: dict, step: int) -> list[dict]:
    """By how many processes, on how many machines, the steps up to `step` were trained, where that was otherwise than now:
    each entry is of the steps from the one before it `until` its own. Steps that were made and lost count for nobody.
    """
    found: list[dict] = []
    for one in (*begun.get("earlier", ()), {"until": step} | _share(begun)):
        if (until := min(one["until"], step)) > (found[-1]["until"] if found else 0):
            found.append(one | {"until": until})
    while found and _share(found[-1]) == _share(now):
        found.pop()
    return found


def _share(how: dict) -> dict:
    told = {"processes": how["processes"], "nodes": how.get("nodes", 1)}
    return told | ({"strategy": how["strategy"]} if "strategy" in how else {})


def _start(job: Job, recipe: Recipe, threads: int, ranks: Ranks) -> str:
    """Import the heavy libraries with so many threads; returns the device."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    before_imports(recipe.needs_bitsandbytes())
    backend.start(job.backend, Path(job.runs))
    import torch

    torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        return "cpu"
    if not ranks.alone:
        _take_gpu(job, ranks)
    if gib := os.environ.get("ALIGN_GPU_GIB"):  # as if the card were smaller
        whole = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2**30
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


def versions(used: str, strategy: str = "ddp") -> dict[str, str]:
    names = ["torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "tokenizers"]
    names += ["unsloth", "unsloth_zoo"] if used == UNSLOTH else []
    names += ["deepspeed"] if strategy in ZERO else []
    return {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in names}
