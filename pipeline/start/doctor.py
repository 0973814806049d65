"""What this machine has for training, told without importing torch: each finding with what to do about it."""

import os
import platform
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from pipeline import hub, installing
from pipeline.errors import PipelineError
from pipeline.model import attention
from pipeline.model.backend import has_gpu
from pipeline.plan import checks, methods
from pipeline.plan.memory import card as cards
from pipeline.plan.planner import Planner
from pipeline.plan.step import CONTINUE, EVALUATE, RUN
from pipeline.recipe.recipe import Recipe

OK, NOTE, MISSING = "ok", "note", "missing"
GIB = cards.GIB
HUB_SECONDS = 4.0
EXTRAS = {  # what each is for; `unsloth` is told apart
    "serve": "align serve",
    "compare": "pictures of align compare",
    "math": "the reward of that name",
    "gguf": "export to llama.cpp and Ollama",
    "onnx": "export to onnxruntime",
    "tasks": "benchmarks, align evaluate",
    "text": "BLEU, ROUGE and their like",
    "tensorboard": "train.report_to: tensorboard",
    "wandb": "train.report_to: wandb",
    "deepspeed": "--strategy zero1, zero2, zero3",
}
_ASK = ("--query-gpu=name,memory.total,memory.free,driver_version,compute_cap", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Finding:
    """`state` is ok, note (it goes on without) or missing (it does not). `do` is what would change it."""

    what: str
    state: str
    found: str
    do: str = ""

    def to_json(self) -> dict:
        return asdict(self)


def findings(runs: Path) -> Iterator[Finding]:
    """One after the other, each as soon as it is known."""
    yield _python()
    yield _packages()
    yield from _torch_and_card()
    yield _processors()
    yield _disk("disk at --runs", runs, 5, "Give another place with --runs, or remove what is not needed: align gc.")
    yield _disk("disk of the hub's cache", hub.cached_folder("a/b").parent, 20, "Set HF_HOME to a larger disk.")
    yield _hub()
    yield _compiler()
    yield from _extras()


def of_recipe(recipe: Recipe, runs: Path) -> Iterator[Finding]:
    """What a recipe needs of this machine: what the plan refuses is missing."""
    try:
        steps = Planner(recipe, runs).plan(list(recipe.stages))
    except PipelineError as error:
        yield Finding(f"{recipe.name}: the plan", MISSING, error.what, error.fix)
    else:
        yield Finding(f"{recipe.name}: the plan", OK, "data, functions and packages are there; see `align plan`")
        to_do = [step for step in steps if step.state in (RUN, CONTINUE, EVALUATE)]
        for found in dict.fromkeys(methods.not_here(recipe, step, gpu=has_gpu()) for step in to_do):
            if found:
                yield Finding(f"{recipe.name}: adapter", MISSING, *found)
        for what, do in dict.fromkeys(one for step in to_do for one in checks.trackers_missing(recipe, step)):
            yield Finding(f"{recipe.name}: tracker", MISSING, what.rstrip("."), do)
    if recipe.model.id and not Path(recipe.model.id).expanduser().is_dir():
        yield _base(recipe)
    if found := attention.obstacle(recipe.model.attn_implementation, gpu=has_gpu()):
        yield Finding(f"{recipe.name}: model.attn_implementation", MISSING, *found)
    if recipe.use_unsloth is True and not _version("unsloth"):
        yield Finding(f"{recipe.name}: use_unsloth", MISSING, "Unsloth is not installed", installing.goal("unsloth"))
    liger = [name for name in recipe.stages if recipe.stage(name).train.get("use_liger_kernel")]
    if liger and find_spec("liger_kernel") is None:
        what = f"{recipe.name}: use_liger_kernel"
        yield Finding(what, MISSING, "Liger's kernels are not installed", installing.package("liger-kernel"))


def _base(recipe: Recipe) -> Finding:
    what, name = f"{recipe.name}: model.id", str(recipe.model.id)
    snapshots = hub.cached_folder(name) / "snapshots"
    if any(snapshots.glob("*/*.safetensors")):
        return Finding(what, OK, f"{name} is in the hub's cache")
    if _hub().state == OK:
        return Finding(what, NOTE, f"{name} is not here yet", "It is downloaded when it is first used.")
    return Finding(
        what, MISSING, f"{name} is neither a folder nor in the hub's cache, and the hub is out of reach", _OFFLINE
    )


def _python() -> Finding:
    return Finding("Python", OK, f"{platform.python_version()} in {sys.prefix}")  # an older one could not install it


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> Finding:
    """The pinned ones: another version is one that nobody tried."""
    needed = installing.requirements()
    if not needed:
        return Finding(
            "packages", NOTE, "align is not installed here", "Run it from its own environment: make, or pip install."
        )
    found = {one.name: _version(one.name) for one in needed}
    gone = [name for name, version in found.items() if version is None]
    others = [
        one for one in needed if found[one.name] and not one.specifier.contains(found[one.name], prereleases=True)
    ]
    wrong = {*gone, *(one.name for one in others)}
    again = installing.package(*(f"{one.name}{one.specifier}" for one in needed if one.name in wrong))
    if gone:
        return Finding("packages", MISSING, f"not installed: {', '.join(gone)}", again)
    if others:
        said = [f"{one.name} {found[one.name]} ({one.specifier} was tried)" for one in others]
        return Finding("packages", NOTE, "; ".join(said), again)
    shown = ", ".join(f"{name} {found[name]}" for name in ("transformers", "trl", "peft") if name in found)
    return Finding("packages", OK, f"{len(found)} at their pinned versions ({shown})")


def _torch_and_card() -> Iterator[Finding]:
    version, cuda = _version("torch"), _cuda_of_torch()
    build = f"built for CUDA {cuda}" if cuda else "built for a CPU"
    seen = list(_cards())
    if version is None:
        yield Finding("torch", MISSING, "not installed", installing.package("torch==2.13.0"))
    elif seen and not cuda:
        yield Finding(
            "torch",
            NOTE,
            f"{version}, {build}: it does not use the card",
            installing.package("--force-reinstall torch==2.13.0"),
        )
    else:
        yield Finding("torch", OK, f"{version}, {build}")
    if not seen:
        yield Finding(
            "card",
            NOTE,
            "no NVIDIA card is seen (nvidia-smi); stages run on the CPU",
            "A small model trains there, too.",
        )
    yield from seen


def _cuda_of_torch() -> str | None:
    """What the installed torch was built for, read from its files: importing it takes seconds."""
    spec = find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    found = re.search(r"^cuda[^=]*=\s*'([\d.]+)'", file.read_text(), re.MULTILINE) if file and file.is_file() else None
    return found[1] if found else None


def _cards() -> Iterator[Finding]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return
    try:
        said = subprocess.run([program, *_ASK], capture_output=True, text=True, timeout=20, check=True).stdout
        rows = [[part.strip() for part in line.split(",")] for line in said.strip().splitlines()]
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding(
            "card", NOTE, f"nvidia-smi fails: {type(error).__name__}", "See whether the driver is loaded: nvidia-smi"
        )
        return
    for number, (name, whole, free, driver, capability) in enumerate(row for row in rows if len(row) == 5):
        found = f"{name}, {int(whole) / 1024:.1f} GiB ({int(free) / 1024:.1f} free), driver {driver}"
        old = cards.half_of(capability) != "bfloat16"
        do = "It has no bfloat16: set model.dtype: float16." if old else ""
        yield Finding(f"card {number}", NOTE if old else OK, found, do)


def _processors() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    named = os.environ.get("OMP_NUM_THREADS")
    memory = (
        f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.0f} GiB of memory"
        if hasattr(os, "sysconf")
        else ""
    )
    found = f"{cores} cores{memory}" + (
        f"; OMP_NUM_THREADS={named}, which stages do not read: set threads in the recipe" if named else ""
    )
    return Finding("CPU", OK, found)


def _disk(what: str, folder: Path, enough: float, do: str) -> Finding:
    there = next((one for one in (folder.absolute(), *folder.absolute().parents) if one.exists()), Path("/"))
    if not os.access(there, os.W_OK):
        return Finding(what, MISSING, f"{folder}: {there} cannot be written to", do)
    free = shutil.disk_usage(there).free / GIB
    found = f"{free:.0f} GiB free in {folder}"
    return Finding(what, OK, found) if free >= enough else Finding(what, NOTE, found, do)


_OFFLINE = "Name models and data by folders and files, or set HF_ENDPOINT to a mirror."


def _hub() -> Finding:
    """One small question with a short patience; being offline is no failure."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Finding("hub", NOTE, "HF_HUB_OFFLINE is set: only what is here is used", _OFFLINE)
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        asked = urllib.request.Request(f"{address}/api/models?limit=1", method="HEAD")
        with urllib.request.urlopen(asked, timeout=HUB_SECONDS):
            return Finding("hub", OK, f"{address} answers")
    except urllib.error.HTTPError as error:
        return Finding("hub", OK if error.code < 500 else NOTE, f"{address} answers ({error.code})")
    except (TimeoutError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding(
            "hub", NOTE, f"{address} is out of reach ({reason}): offline, only what is here is used", _OFFLINE
        )


def _compiler() -> Finding:
    """Triton, which Unsloth and Liger stand on, compiles what it runs on a card."""
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    needs = [name for name in ("unsloth", "liger-kernel") if _version(name)]
    if found:
        return Finding("C compiler", OK, f"{shutil.which(found)}")
    if needs and shutil.which("nvidia-smi"):
        return Finding("C compiler", NOTE, f"none, and {', '.join(needs)} needs one on a card", "Install gcc.")
    return Finding("C compiler", OK, "none, and nothing that is installed needs one")


def _extras() -> Iterator[Finding]:
    for name, what in EXTRAS.items():
        if needed := installing.requirements(name):
            gone = [one.name for one in needed if not _version(one.name)]
            found = f"not installed ({', '.join(gone)}); for {what}" if gone else f"installed; for {what}"
            yield Finding(f"extra {name}", NOTE if gone else OK, found, installing.extra(name) if gone else "")
    unsloth = _version("unsloth")
    found = f"unsloth {unsloth}" if unsloth else "not installed; use_unsloth: auto goes on without"
    do = "" if unsloth else "make unsloth, in a clone"
    yield Finding("extra unsloth", OK if unsloth else NOTE, found, do)
