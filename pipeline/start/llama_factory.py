"""A training file of LLaMA-Factory, key by key. Compared with its sources at ff6d4d12 (2026-08-18)."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.recipe import foreign
from pipeline.start import llama_factory_data, strategy
from pipeline.start.translation import Translation
from pipeline.wording import did_you_mean

NAME = foreign.LLAMA_FACTORY
_STAGES = {"pt": "pretrain", "sft": "sft", "rm": "reward", "dpo": "dpo", "kto": "kto"}
_LOSSES = {"sigmoid": "dpo", "hinge": "dpo", "ipo": "dpo", "orpo": "orpo", "simpo": "simpo"}
_TEMPLATES = {
    **{name: name for name in ("qwen", "qwen3", "chatml", "llama3", "gemma", "mistral")},
    "gemma2": "gemma",
    "gemma3": "gemma",
    "qwen3_nothink": "qwen",
    "empty": "raw",
}
_ATTENTION = {"fa2": "flash_attention_2", "fa3": "flash_attention_3", "sdpa": "sdpa", "disabled": "eager"}


def is_its(given: Mapping) -> bool:
    return foreign.tool_of(given) == NAME


def translate(t: Translation, path: Path) -> None:
    t.begin(_stage(t), "stage", "pref_loss")
    tuning = str(t.value("finetuning_type", "lora"))
    t.put("model.id", t.given["model_name_or_path"], "model_name_or_path")
    llama_factory_data.translate(t, path)
    _numbers(t)
    _tuning(t, tuning)
    _precision(t, tuning)
    t.each(_handlers(t, tuning))
    _meanings(t, tuning)


def _stage(t: Translation) -> str:
    word, loss = str(t.value("stage", "sft")), str(t.value("pref_loss", "sigmoid"))
    if word not in _STAGES:
        raise PipelineError(
            f"{t.source.place(['stage'])}: stage: {word} is not translated.",
            "Write its recipe by hand: its reward model is trained here as a stage of the chain; see recipes/tiny.yaml."
            if word == "ppo"
            else f"Those that are: {', '.join(_STAGES)}.",
        )
    if word == "dpo" and loss not in _LOSSES:
        raise PipelineError(
            f"{t.source.place(['pref_loss'])}: no stage has the loss {loss}.", f"Those there are: {', '.join(_LOSSES)}."
        )
    return _LOSSES[loss] if word == "dpo" else _STAGES[word]


def _numbers(t: Translation) -> None:
    """What it does unasked, where that is something else here; a key of the file overwrites it."""
    for key, value in {
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "learning_rate": 5e-5,
        "num_train_epochs": 3.0,
        "lr_scheduler_type": "linear",
        "max_length": 2048,
    }.items():
        t.put(f"train.{key}", value)
    if t.stage in ("dpo", "kto", "orpo", "simpo"):
        t.put("train.beta", 0.1)
    if t.stage == "simpo":
        t.put("train.simpo_gamma", 0.5)
    if t.stage == "dpo" and t.value("pref_loss", "sigmoid") != "sigmoid":
        t.put("train.loss_type", t.given["pref_loss"], "pref_loss")
    if t.stage == "pretrain":
        t.put("train.packing", True)


def _tuning(t: Translation, tuning: str) -> None:
    if tuning not in ("lora", "full", "freeze", "oft"):
        raise PipelineError(
            f"{t.source.place(['finetuning_type'])}: finetuning_type: {tuning} is not translated.",
            "Choose one with `align methods`, and write the recipe with `align init`.",
        )
    t.put("adapter.method", tuning, "finetuning_type" if "finetuning_type" in t.given else None)
    if tuning == "lora":
        rank = t.value("lora_rank", 8)
        t.put("adapter.r", 8)
        t.put("adapter.lora_alpha", rank * 2 if isinstance(rank, int) and rank > 0 else 16)
        t.put("adapter.target_modules", "all-linear")
    if tuning == "lora" and t.value("pissa_init"):
        steps = t.value("pissa_iter", 16)
        fast = f"pissa_niter_{steps}" if isinstance(steps, int) and steps > 0 else "pissa"
        for key in ("pissa_init", "pissa_iter"):
            if key in t.given:
                t.put("adapter.init_lora_weights", fast, key)
    if tuning == "oft":
        t.put("adapter.target_modules", "all-linear")
    if tuning == "freeze":
        t.put("adapter.layers", 2)


def _precision(t: Translation, tuning: str) -> None:
    key = next((one for one in ("bf16", "pure_bf16", "fp16") if t.value(one)), None)
    half = "float16" if key == "fp16" else "bfloat16"
    if tuning in ("full", "freeze") and key != "pure_bf16":
        t.put("model.dtype", "float32", key)
        t.means.append(
            f"{tuning}: LLaMA-Factory trains float32 weights with {half} arithmetic; here model.dtype is both. float32 is as "
            "exact and slower; bfloat16 is faster, takes half the memory, and loses small updates."
        )
    else:
        t.put("model.dtype", half, key)


def _handlers(t: Translation, tuning: str) -> dict:
    rename = {
        "cutoff_len": "train.max_length",
        "per_device_eval_batch_size": "evaluation.batch_size",
        "seed": "seed",
        "trust_remote_code": "model.trust_remote_code",
        "model_revision": "model.revision",
        "use_unsloth": "use_unsloth",
        "enable_liger_kernel": "train.use_liger_kernel",
    }
    if tuning == "lora":
        rename |= {f"lora_{key}": f"adapter.{to}" for key, to in (("rank", "r"), ("alpha", "lora_alpha"))}
        rename |= {key: f"adapter.{key}" for key in ("lora_dropout", "use_dora", "use_rslora", "loraplus_lr_ratio")}
    if tuning == "freeze":
        rename["freeze_trainable_layers"] = "adapter.layers"
    if tuning == "oft":
        rename["oft_block_size"] = "adapter.oft_block_size"
    if t.stage in ("dpo", "kto", "orpo", "simpo"):
        rename["pref_beta"] = "train.beta"
    if t.stage == "kto":
        rename |= {"kto_chosen_weight": "train.desirable_weight", "kto_rejected_weight": "train.undesirable_weight"}
    handlers: dict[str, Callable] = {key: partial(t.renamed, key, place) for key, place in rename.items()}
    done: tuple[str, ...] = ("model_name_or_path", "stage", "finetuning_type", "pref_loss", "bf16", "fp16", "pure_bf16")
    done += ("pissa_init", "pissa_iter") if t.value("pissa_init") else ()
    handlers |= {key: partial(t.looked_at, key) for key in (*done, *llama_factory_data.KEYS)}
    if tuning != "lora":
        unused = [key for key in t.given if str(key).startswith("lora_")]
        handlers |= {
            key: lambda value, key=key: t.drop(key, f"no LoRA is trained with finetuning_type: {tuning}")
            for key in unused
        }
    if tuning in ("lora", "oft"):
        target = f"{tuning}_target"
        handlers[target] = lambda value: t.put("adapter.target_modules", _modules(value), target)
    return handlers | {
        **strategy.handlers(t),
        "template": partial(_template, t),
        "adapter_name_or_path": partial(_policy, t),
        "flash_attn": partial(_attention, t),
        "quantization_bit": partial(_bits, t),
        "warmup_ratio": t.warmup,
        "disable_gradient_checkpointing": lambda value: t.put(
            "train.gradient_checkpointing", not value, "disable_gradient_checkpointing"
        ),
        "pref_ftx": partial(_ftx, t),
        "use_dft_loss": lambda value: t.put("train.loss_type", "dft", "use_dft_loss") if value else None,
        "packing": partial(_packing, t, "packing"),
        "neat_packing": partial(_packing, t, "neat_packing"),
        "preprocessing_num_workers": lambda value: t.drop(
            "preprocessing_num_workers",
            "rows are prepared with as many threads as the recipe's threads, else the cores",
        ),
        "create_new_adapter": lambda value: t.drop(
            "create_new_adapter", "a stage always trains a copy of the incoming adapter"
        ),
    }


def _policy(t: Translation, value: object) -> None:
    if "," in str(value):
        t.to_do.append(
            "adapter_name_or_path names several adapters, which were merged there; merge them, and name one."
        )
        t.drop("adapter_name_or_path", "several adapters; a stage begins from one")
    else:
        t.policy("adapter_name_or_path", value)


def _modules(value: object) -> object:
    names = value if isinstance(value, list) else [name.strip() for name in str(value).split(",")]
    return "all-linear" if names == ["all"] else names


def _template(t: Translation, value: object) -> None:
    if t.stage == "pretrain":
        t.drop("template", "plain texts have no template")
    elif value in _TEMPLATES:
        t.put("model.template", _TEMPLATES[value], "template")
        if value == "qwen":
            t.means.append(
                "template: qwen adds LLaMA-Factory's default system prompt (You are Qwen, ...) to rows without one; here a "
                "row has the system prompt that it says, or none."
            )
        if value == "qwen3_nothink":
            t.means.append(
                "template: qwen3_nothink is called qwen here: the same turns, without thinking. To use the model's own template "
                "instead, leave model.template out."
            )
    else:
        t.drop("template", "no such template is shipped; the model's own is used")
        t.to_do.append(
            f"template: {value}{did_you_mean(str(value), _TEMPLATES) or ':'} The model's own chat template is used. If it has none, "
            "name one of model.template's, or a .jinja file."
        )


def _attention(t: Translation, value: object) -> None:
    if value in _ATTENTION:
        t.put("model.attn_implementation", _ATTENTION[value], "flash_attn")
    else:
        t.drop("flash_attn", "transformers chooses, as with model.attn_implementation left out")


def _bits(t: Translation, value: object) -> None:
    if value in (4, 8):
        t.put(f"model.load_in_{value}bit", True, "quantization_bit")
    else:
        t.drop("quantization_bit", "a base is loaded whole, in 4 bit or in 8")
        t.to_do.append(f"quantization_bit: {value}: choose model.load_in_4bit: true, or a larger card.")


def _ftx(t: Translation, value: Any) -> None:
    if not value:
        t.off.append("pref_ftx")
        return
    if t.stage == "simpo":
        t.put("train.cpo_alpha", float(value), "pref_ftx")
        return
    if t.stage != "dpo":
        t.drop("pref_ftx", f"{t.stage} learns the chosen answer beside its loss there, and cannot here", lost=True)
        return
    t.put("train.loss_type", [t.value("pref_loss", "sigmoid"), "sft"], "pref_ftx")
    t.put("train.loss_weights", [1.0, float(value)], "pref_ftx")


def _packing(t: Translation, key: str, value: object) -> None:
    if not t.has("packing"):
        t.drop(key, "this stage packs no rows")
        return
    t.put("train.packing", bool(t.value("packing") or t.value("neat_packing")), key)  # the latter brings the former
    if value and key == "packing" and not t.value("neat_packing"):
        t.means.append(
            "packing: rows in one sequence saw each other there; here they are kept apart (as neat_packing)."
        )


def _meanings(t: Translation, tuning: str) -> None:
    """What has the same name and is another thing."""
    if t.stage == "dpo" and tuning == "lora" and t.value("adapter_name_or_path") and not t.value("create_new_adapter"):
        t.means.append(
            "The reference: LLaMA-Factory's was the base with the adapter switched off, also where adapter_name_or_path "
            "brought an SFT adapter; here it is the incoming policy, frozen. Losses and margins are not comparable."
        )
    if t.stage == "kto" and t.tree["stages"]["kto"]["train"]["per_device_train_batch_size"] == 1:
        train = t.tree["stages"]["kto"]["train"]
        steps = int(train["gradient_accumulation_steps"])
        t.put("train.per_device_train_batch_size", 2, "per_device_train_batch_size")
        t.put("train.gradient_accumulation_steps", max(1, steps // 2), "gradient_accumulation_steps")
        t.means.append(
            "per_device_train_batch_size: 1 became 2, with half as many steps of accumulation: KTO estimates its KL "
            "within a batch, which takes two rows at least."
        )
    if t.stage == "orpo":
        t.means.append("ORPO's first term: there the answer alone is learned, in TRL's trainer also the question.")
    if t.stage == "pretrain" and t.given.get("packing") is not False:
        t.means.append(
            "Pretraining: LLaMA-Factory glues all texts together and cuts blocks of cutoff_len; here texts are packed "
            "whole and apart, and only what is longer is cut."
        )
    elif t.stage == "sft":
        t.means.append("A row longer than cutoff_len is cut on both sides in proportion there; here the prompt first.")
    if not t.value("val_size") and not t.value("eval_dataset"):
        t.means.append(
            "No rows were held out there; here 5% are, so that a stage can show what it learned. data.held_out: 0 trains "
            "on all of them."
        )
