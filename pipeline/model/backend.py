"""The library that loads and runs a stage's model: plain transformers, or Unsloth. Light: the plan asks it too."""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.hub import cached_folder
from pipeline.model.adapters.method import Method
from pipeline.model.base import Base
from pipeline.recipe.sections import Model
from pipeline.stage import Spec

TRANSFORMERS, UNSLOTH = "transformers", "unsloth"
OLDEST = "2026.10.8"  # the first that trains on a CPU
# Those that Unsloth has hand-written kernels for; for others it compiles transformers' own code.
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "granite", "cohere")
ASKED = "asked for"
WITHOUT = "Set use_unsloth: false, or give --no-unsloth (UNSLOTH=0)."
IMPORTED_BEFORE = ("trl", "transformers", "peft")


@dataclass(frozen=True)
class Backend:
    """One of the two, and why it was taken."""

    name: str
    why: str


def choose(
    stage: str,
    spec: Spec,
    wanted: bool | str,
    *,
    own: bool,
    method: Method,
    model_type: str | None,
    from_scratch: bool,
    bits: int | None = None,
    processes: int = 1,
    gpu: bool = False,
) -> Backend:
    """The backend of a stage for `wanted`: true, false or "auto".

    `bits` is what the base is quantized to, and `processes` how many train. `own` says that the stage itself asks for it;
    what a whole chain asks for leaves out the kinds of stage that Unsloth does not serve. `model_type` is None where it is
    not known yet. `gpu`: of a card that is asked about, whatever this machine has. Raises PipelineError where Unsloth is
    asked for and cannot serve.
    """
    if wanted is False:
        return Backend(TRANSFORMERS, ASKED)
    unserved = _kind(spec, from_scratch)
    if unserved and not (wanted is True and own):
        return Backend(TRANSFORMERS, unserved)
    reason, way_out = (unserved, "") if unserved else _obstacle(method, model_type, bits, processes)
    if wanted is True and reason:
        raise PipelineError(f"{stage}: Unsloth cannot serve it: {reason}.", f"{way_out} {WITHOUT}".strip())
    if wanted is True:
        return Backend(UNSLOTH, ASKED)
    if not (gpu or has_gpu()):
        return Backend(TRANSFORMERS, "no GPU: Unsloth gains nothing on a CPU")
    if reason:
        return Backend(TRANSFORMERS, reason)
    return Backend(UNSLOTH, "installed, for that card" if gpu else "installed, and there is a GPU")


def _kind(spec: Spec, from_scratch: bool) -> str | None:
    """Why no stage of this kind can use it."""
    if spec.head == "score":
        return "Unsloth's loader drops the score head"
    if spec.rewarded_by:
        return "Unsloth's fused forward serves one adapter, not several roles"
    return "a model made from a config; Unsloth only loads models" if from_scratch else None


def _obstacle(method: Method, model_type: str | None, bits: int | None, processes: int) -> tuple[str | None, str]:
    """Why it cannot be used here, and what to do about that."""
    if processes > 1:
        return (
            "it trains in one process, not in several",
            "Train in one process: --processes 1, or launch.processes: 1.",
        )
    installed = installed_version()
    if installed is None:
        return "Unsloth is not installed", "Install it with `make unsloth`."
    if _ordered(installed) < _ordered(OLDEST):
        return f"Unsloth {installed} is too old, {OLDEST} is the oldest that will do", "Run `make unsloth`."
    if not method.unsloth:
        return f"its fast path is for LoRA, not for {method.words}", ""
    if bits == 8:
        return "its fast path is for bases in 16 or 4 bits, not in 8", "Set model.load_in_4bit: true instead."
    if model_type and model_type not in MODEL_TYPES:
        return f"it has no fast path for {model_type} models (it has for {', '.join(MODEL_TYPES)})", ""
    return None, ""


@cache
def installed_version() -> str | None:
    try:
        found = [version(name) for name in ("unsloth", "unsloth_zoo")]
    except PackageNotFoundError:
        return None
    return min(found, key=_ordered)


def _ordered(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def has_gpu() -> bool:
    """Whether there is one, told without torch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/dxg"))


def model_config(base: Base | None, config: Mapping | None) -> Mapping:
    """The base's, as far as it can be read without a network."""
    if base is None or base.source is None:
        return config or {}
    try:
        return json.loads(_file_of(base, "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def without(base: Base, tokens: Iterable[str]) -> list[str]:
    """Those of the tokens that the base's tokenizer lacks, as far as that can be read without a network, and without loading it."""
    try:
        written = _file_of(base, "tokenizer.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    return [token for token in tokens if json.dumps(token, ensure_ascii=False) not in written]


def _file_of(base: Base, name: str) -> Path:
    """In the base's folder, or in the hub's cache."""
    file = Path(base.source) / name
    if file.is_file() or not base.commit:
        return file
    return cached_folder(base.source) / "snapshots" / base.commit / name


def start(name: str, runs: Path) -> None:
    """Import the backend, before anything that it rewrites. What Unsloth generates is kept under `runs`."""
    if name != UNSLOTH or UNSLOTH in sys.modules:
        return
    if early := [module for module in IMPORTED_BEFORE if module in sys.modules]:
        raise PipelineError(
            f"Unsloth has to be imported before {', '.join(early)}, which it rewrites, and they are imported already.",
            "Run the stage with `align run`, which gives it a process of its own, or import unsloth first.",
        )
    os.environ |= {
        "UNSLOTH_AUTO_INSTALL": "0",  # without it an export may run apt-get
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_COMPILE_LOCATION": str((runs / ".unsloth").absolute()),
    }
    import unsloth  # noqa: F401


def load(base: Base, wanted: Model, dtype, options: dict):
    """The base as Unsloth loads it: that very base, not the copy of it that Unsloth has on the hub."""
    from unsloth import FastLanguageModel

    attention = {"attn_implementation": wanted.attn_implementation} if wanted.attn_implementation else {}
    model, _ = FastLanguageModel.from_pretrained(
        model_name=base.source,
        revision=base.commit,
        dtype=dtype,
        load_in_4bit=wanted.load_in_4bit,
        trust_remote_code=wanted.trust_remote_code,
        use_exact_model_name=True,
        use_safetensors=True,  # a pickle from outside is never opened
        **attention,
        **options,
    )
    got = {"load_in_4bit": bool(getattr(model, "is_loaded_in_4bit", False)), "dtype": model.dtype}
    expected = {"load_in_4bit": wanted.load_in_4bit, "dtype": dtype}
    if got != expected:  # it prints that it takes something else, and goes on
        raise PipelineError(
            f"Unsloth loaded the base otherwise than asked: {got}, not {expected}.",
            WITHOUT,
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def finished(model, options: dict):
    """A PEFT model on a base of Unsloth's, with its kernels put in place where there are any (on a GPU)."""
    from unsloth import FastLanguageModel

    if not hasattr(FastLanguageModel, "patch_peft_model"):
        return model
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    model = FastLanguageModel.patch_peft_model(model, options["use_gradient_checkpointing"])
    now = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if now != trained:
        raise PipelineError(f"Unsloth trains other weights than the recipe: {sorted({*now} ^ {*trained})[:3]}.")
    return model
