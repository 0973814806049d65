"""The arguments of TRL's command line, one by one, from a saved command or from the YAML of its --config. Of TRL 1.14.2."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.recipe import foreign
from pipeline.recipe.fields import fields_of
from pipeline.start import strategy, trl_data, trl_launched, trl_rewards
from pipeline.start.translation import Dropped, Translation
from pipeline.start.trl_command import COMMANDS, ENVIRONMENT, SCRIPT, TRL, arguments

NAME = foreign.TRL


def is_its(given: Mapping) -> bool:
    return bool({TRL, SCRIPT} & given.keys()) or foreign.tool_of(given) == NAME


def translate(t: Translation, path: Path, named: str | None = None) -> None:
    """`named` is the command where the file does not say it."""
    command = _command(t, path, named)
    key = next((one for one in (TRL, SCRIPT) if one in t.given), None)
    text = command == "sft" and trl_data.is_plain_text(t)
    t.begin("pretrain" if text else command, *([key] if key else []))
    if not t.value("model_name_or_path"):
        raise PipelineError(
            f"{t.source.file}: model_name_or_path is missing: there is nothing to train.",
            "Name it there, or save the whole command in a file and translate that.",
        )
    t.put("model.id", t.given["model_name_or_path"], "model_name_or_path")
    trl_data.translate(t)
    rewarded = command in ("grpo", "rloo")
    if rewarded:
        trl_rewards.translate(t)
    tuned = bool(t.value("use_peft"))
    _numbers(t)
    _tuning(t, tuned)
    _precision(t, tuned)
    t.each(_handlers(t, tuned, rewarded))
    trl_launched.share(t)
    if not text:
        _template(t)
    _meanings(t, command, text)


def _command(t: Translation, path: Path, named: str | None) -> str:
    said = t.value(TRL) or str(t.value(SCRIPT, "")).removesuffix(".py")
    if said in COMMANDS and (named is None or named == said):
        return said
    if said in COMMANDS:
        raise PipelineError(f"{t.source.place([TRL])}: is {said}, not {named}.", "Leave --stage out.")
    if named is not None:
        if named not in COMMANDS:
            raise PipelineError(f"--stage {named}: is none of TRL's commands.", f"There are {', '.join(COMMANDS)}.")
        return named
    if said:
        key = TRL if t.value(TRL) else SCRIPT
        raise PipelineError(
            f"{t.source.place([key])}: {t.given[key]} is none of TRL's commands that are translated: {', '.join(COMMANDS)}.",
            "If it does one of them, name that with --stage."
            if key == SCRIPT
            else "Write its recipe by hand; see `align recipes`.",
        )
    known = {key for name in COMMANDS for key in arguments(name)} & t.given.keys()
    fitting = [name for name in COMMANDS if known <= arguments(name).keys()]
    by_name = [name for name in COMMANDS if name in path.stem.lower()]
    found = [name for name in by_name if name in fitting] or fitting
    if len(found) != 1:
        raise PipelineError(
            f"{path}: does not say which of TRL's commands it is for"
            + (f"; its keys are those of {', '.join(found)}." if found else "; no one of them has all of its keys."),
            f"Say it: align init --from {path.name} --stage {(found or COMMANDS)[0]}.",
        )
    return found[0]


def _template(t: Translation) -> None:
    """There a row of plain strings is trained on as it is written, and one of messages in the model's own template."""
    strings = trl_data.are_strings(t)
    if strings:
        t.put("model.template", "raw")
        t.means.append(
            "Rows of plain strings are trained on as they are written, without a template, as there: model.template: raw. To train "
            "a chat model with them, leave model.template out."
        )
    elif strings is None:
        t.means.append(
            "Rows whose prompts are plain strings, not messages, were trained on as they are written; if yours are such, set "
            "model.template: raw."
        )


def _numbers(t: Translation) -> None:
    """What it does unasked, where that is something else here; a key of the file overwrites it."""
    t.put("train.learning_rate", fields_of(t.config)["learning_rate"].default)
    if t.stage in ("grpo", "rloo"):
        t.put("train.disable_dropout", False)


def _tuning(t: Translation, tuned: bool) -> None:
    t.put("adapter.method", "lora" if tuned else "full", "use_peft" if "use_peft" in t.given else None)
    if not tuned:
        return
    for key, value in {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05}.items():
        t.put(f"adapter.{key}", value)
    if not t.value("lora_target_modules"):
        t.put("adapter.target_modules", None)  # PEFT's own choice for the architecture
        if not t.value("lora_target_parameters"):
            t.means.append(
                "lora_target_modules is not given: PEFT adapts few layers then, as there (of a Llama q_proj and v_proj). "
                "adapter.target_modules: all-linear learns more."
            )


def _precision(t: Translation, tuned: bool) -> None:
    """There weights are of `dtype`, and arithmetic is 16-bit unless both of its switches are off; here model.dtype says both."""
    half = "float16" if t.value("fp16") else "bfloat16" if t.value("bf16", True) else "float32"
    key = next((one for one in ("fp16", "bf16") if one in t.given), None)
    dtype = t.value("dtype", "float32")
    if dtype == "auto":
        t.put("model.dtype", "bfloat16", "dtype")
        t.means.append("dtype: auto was what the model's files have, mostly bfloat16; model.dtype says it here.")
    elif dtype in ("bfloat16", "float16"):
        t.put("model.dtype", dtype, "dtype")
    elif tuned:
        t.put("model.dtype", half, key)
        bits = next((bits for bits in (4, 8) if t.value(f"load_in_{bits}bit")), None)
        if half != "float32" and bits:
            t.means.append(
                f"dtype: what of the base is not kept in {bits} bits was kept in {dtype} there, with {half} arithmetic; here "
                f"it is kept in {half}. The adapter is float32 in both."
            )
        elif half != "float32":
            t.means.append(
                f"dtype: the frozen base was kept in {dtype} there, with {half} arithmetic; here it is kept in {half}, at "
                "half the memory. The adapter is float32 in both."
            )
    else:
        t.put("model.dtype", "float32", "dtype" if "dtype" in t.given else key)
        if half != "float32":
            t.means.append(
                f"dtype: {dtype} weights were trained with {half} arithmetic there; here model.dtype is both. float32 is as "
                "exact and slower; bfloat16 is faster, takes half the memory, and loses small updates."
            )


def _handlers(t: Translation, tuned: bool, rewarded: bool) -> dict[str, Callable[[object], None]]:
    rename = {
        "model_revision": "model.revision",
        "attn_implementation": "model.attn_implementation",
        "trust_remote_code": "model.trust_remote_code",
        "pad_token": "model.pad_token",
        "seed": "seed",
        "per_device_eval_batch_size": "evaluation.batch_size",
    }
    lora = {
        "lora_r": "adapter.r",
        **{key: f"adapter.{key}" for key in "lora_alpha lora_dropout use_rslora use_dora".split()},
        "lora_target_parameters": "adapter.target_parameters",
    }
    rename |= lora if tuned else {}
    handlers: dict[str, Callable[[object], None]] = {
        key: partial(t.renamed, key, place) for key, place in rename.items()
    }
    done = [TRL, SCRIPT, "model_name_or_path", "use_peft", "dtype", *trl_data.KEYS]
    handlers |= {key: partial(t.looked_at, key) for key in [*done, *(trl_rewards.KEYS if rewarded else [])]}
    if not tuned:
        unused = [
            *lora,
            "lora_target_modules",
            "lora_modules_to_save",
            "lora_task_type",
            "load_in_4bit",
            "load_in_8bit",
        ]
        handlers |= {key: partial(_without_lora, t, key) for key in unused}
    else:
        handlers |= {f"load_in_{bits}bit": partial(_bits, t, bits) for bits in (4, 8)}
        handlers["lora_target_modules"] = partial(_modules, t)
        handlers["lora_task_type"] = lambda value: t.drop("lora_task_type", "the stage says it")
    handlers |= strategy.handlers(t) | trl_launched.handlers(t)
    return handlers | {
        "bf16": partial(_half, t, "bf16"),
        "fp16": partial(_half, t, "fp16"),
        "warmup_ratio": t.warmup,
        ENVIRONMENT: partial(_environment, t),
        "completion_only_loss": partial(_completion, t),
        "assistant_only_loss": partial(_assistant, t),
        "use_bnb_nested_quant": lambda value: t.drop("use_bnb_nested_quant", "4 bits are quantized twice here, always"),
        "bnb_4bit_quant_type": partial(_quantization, t),
        "ignore_bias_buffers": lambda value: t.drop("ignore_bias_buffers", "is for debugging their launcher"),
    }


def _half(t: Translation, key: str, value: object) -> None:
    if not any(origin.startswith(f"{key} (") for origin in t.origins.values()):
        t.drop(key, "model.dtype says it")


def _without_lora(t: Translation, key: str, value: object) -> None:
    if value is False:
        t.off.append(key)
    elif key.startswith("load_in"):
        t.drop(key, "full tuning has no use for a quantized base; add use_peft there for QLoRA")
    else:
        t.drop(key, "no LoRA is trained without use_peft")


def _bits(t: Translation, bits: int, value: object) -> None:
    if value:
        t.put(f"model.load_in_{bits}bit", True, f"load_in_{bits}bit")
    else:
        t.off.append(f"load_in_{bits}bit")


def _modules(t: Translation, value: object) -> None:
    names = value if isinstance(value, list) else [value]
    t.put("adapter.target_modules", "all-linear" if names == ["all-linear"] else names, "lora_target_modules")


def _environment(t: Translation, value: object) -> None:
    """Its values are not told: a key to some service may be among them."""
    names = ", ".join(map(str, value)) if isinstance(value, Mapping | list) else str(value)
    t.to_do.append(f"env: a recipe sets no environment: set {names} in the shell, as it was.")
    t.dropped.append(Dropped(t.source.line([ENVIRONMENT]), ENVIRONMENT, names, "see above"))


def _completion(t: Translation, value: object) -> None:
    if value is False and t.stage == "sft":
        t.put("data.learn", "everything", "completion_only_loss")
    else:
        t.drop("completion_only_loss", "only answers are learned, unless data.learn says otherwise")


def _assistant(t: Translation, value: object) -> None:
    if value:
        t.drop("assistant_only_loss", "only answers are learned, unless data.learn says otherwise")
    else:
        t.off.append("assistant_only_loss")


def _quantization(t: Translation, value: object) -> None:
    if value != "nf4":
        t.means.append(f"bnb_4bit_quant_type: {value}: 4 bits are NF4 here.")
    t.drop("bnb_4bit_quant_type", "4 bits are NF4")


def _meanings(t: Translation, command: str, text: bool) -> None:
    """What has the same name and is another thing."""
    if text:
        t.means.append("Plain texts: `trl sft` trains on them, too; here that is the stage pretrain.")
    elif command == "sft":
        if not t.value("assistant_only_loss") and t.value("completion_only_loss") is not False:
            t.means.append(
                "Rows with messages: `trl sft` learns every token of them unless assistant_only_loss is given (of a prompt and "
                "its completion only the latter); here only the answers. data.learn: everything learns all of it."
            )
        if any(one.startswith("hub:") for one in trl_data.paths(t)):
            t.means.append("Rows that have only a text: if yours are such, rename stages.sft to stages.pretrain.")
    if command in ("sft", "dpo", "kto"):
        t.means.append(
            "A row longer than max_length loses its end there; here the prompt is cut first, and the row is listed."
        )
    if command == "reward":
        t.means.append("A row longer than max_length is left out there, unsaid; here it is left out and listed.")
