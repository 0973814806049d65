"""A training file of Axolotl, key by key. Compared with its sources at 067b021c (2026-07-24)."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.recipe import foreign
from pipeline.recipe.sections import ATTENTIONS
from pipeline.start import axolotl_data, strategy
from pipeline.start.translation import Translation

NAME = foreign.AXOLOTL
_STAGES = {"dpo": "dpo", "ipo": "dpo", "kto": "kto", "orpo": "orpo", "simpo": "simpo"}
_TEMPLATES = {name: name for name in ("chatml", "llama3", "qwen3", "gemma")} | {
    "qwen_25": "qwen",
    "gemma3": "gemma",
    **dict.fromkeys(("mistral_v1", "mistral_v2v3", "mistral_v3_tekken", "mistral_v7_tekken"), "mistral"),
}
_ATTENTION = {
    "flash_attention": "flash_attention_2",
    "sdp_attention": "sdpa",
    "eager_attention": "eager",
    "flex_attention": "flex_attention",
    "xformers_attention": "sdpa",
}
_LIGER = (
    "liger_rope liger_rms_norm liger_rms_norm_gated liger_layer_norm liger_glu_activation liger_swiglu "
    "liger_cross_entropy liger_fused_linear_cross_entropy"
).split()


def is_its(given: Mapping) -> bool:
    return foreign.tool_of(given) == NAME


def translate(t: Translation, path: Path) -> None:
    t.begin(_stage(t), "rl", "reward_model")
    t.put("model.id", t.given["base_model"], "base_model")
    axolotl_data.translate(t)
    _numbers(t)
    _tuning(t)
    _precision(t)
    t.each(_handlers(t))
    _often(t)
    _meanings(t)


def _stage(t: Translation) -> str:
    word = t.value("rl")
    if t.value("reward_model"):
        return "reward"
    if t.value("process_reward_model") or (word and word not in _STAGES):
        key = "rl" if word else "process_reward_model"
        raise PipelineError(
            f"{t.source.place([key])}: {key}: {t.given[key]} is not translated.",
            f"Those that are: {', '.join(_STAGES)}. Chains with rollouts begin best from a recipe: see `align init`.",
        )
    if word:
        return _STAGES[str(word)]
    return "pretrain" if axolotl_data.is_plain_text(t) else "sft"


def _numbers(t: Translation) -> None:
    """What it does unasked, where that is something else here; a key of the file overwrites it."""
    for key, value in {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1.0,
        "lr_scheduler_type": "cosine",
        "max_length": 512,
    }.items():
        t.put(f"train.{key}", value)
    if t.stage in ("dpo", "kto"):
        t.put("train.beta", 0.1)
    if t.value("rl") == "ipo":
        t.put("train.loss_type", "ipo", "rl")


def _tuning(t: Translation) -> None:
    adapter = t.value("adapter")
    if adapter not in (None, "lora", "qlora"):
        raise PipelineError(
            f"{t.source.place(['adapter'])}: adapter: {adapter} is not translated.",
            "Choose one with `align methods`, and write the recipe with `align init`.",
        )
    t.put("adapter.method", "lora" if adapter else "full", "adapter" if "adapter" in t.given else None)
    if adapter and t.value("load_in_4bit"):
        t.put("model.load_in_4bit", True, "load_in_4bit")
    elif adapter == "qlora":
        t.put("model.load_in_4bit", True, "adapter")
        if t.value("load_in_8bit"):
            t.drop("load_in_8bit", "adapter: qlora is of 4 bits", lost=True)
        t.means.append(
            "adapter: qlora: Axolotl refuses it without load_in_4bit: true; here the base is kept in 4 bits."
        )
    elif adapter and t.value("load_in_8bit"):
        t.put("model.load_in_8bit", True, "load_in_8bit")
    for key in ("load_in_4bit", "load_in_8bit") if not adapter else ():
        if t.value(key):
            t.drop(
                key, "full tuning has no use for a quantized base; write adapter: {method: lora} beside it for QLoRA"
            )
    if adapter:
        t.put("adapter.r", 8)
        t.put("adapter.lora_alpha", 16)
    if t.value("lora_target_linear"):
        t.put("adapter.target_modules", "all-linear", "lora_target_linear")


def _precision(t: Translation) -> None:
    keys = ("bf16", "bfloat16", "fp16", "float16")
    key = next((one for one in keys if t.value(one) not in (None, False)), None)
    if key is None and (off := next((one for one in keys[:2] if one in t.given), None)):
        t.put("model.dtype", "float32", off)
    elif key is None:
        t.put("model.dtype", "bfloat16")  # bf16: auto, which is on where the card has it
    else:
        t.put("model.dtype", "float16" if key in ("fp16", "float16") else "bfloat16", key)


def _handlers(t: Translation) -> dict:
    rename = {
        "sequence_len": "train.max_length",
        "micro_batch_size": "train.per_device_train_batch_size",
        "eval_batch_size": "evaluation.batch_size",
        "num_epochs": "train.num_train_epochs",
        "optimizer": "train.optim",
        "lr_scheduler": "train.lr_scheduler_type",
        "seed": "seed",
        "trust_remote_code": "model.trust_remote_code",
        "revision_of_model": "model.revision",
        "gradient_clipping": "train.max_grad_norm",
        "noisy_embedding_alpha": "train.neftune_noise_alpha",
    }
    if t.value("adapter"):
        rename |= {"lora_r": "adapter.r", "lora_alpha": "adapter.lora_alpha", "lora_dropout": "adapter.lora_dropout"}
        rename |= {"peft_use_dora": "adapter.use_dora", "peft_use_rslora": "adapter.use_rslora"}
        rename |= {"loraplus_lr_ratio": "adapter.loraplus_lr_ratio", "lora_target_modules": "adapter.target_modules"}
        rename |= {"lora_target_parameters": "adapter.target_parameters"}
    rename |= {
        "kto": {"kto_desirable_weight": "train.desirable_weight", "kto_undesirable_weight": "train.undesirable_weight"},
        "orpo": {"orpo_alpha": "train.beta"},
    }.get(t.stage, {})
    if t.has("beta"):
        rename["rl_beta"] = "train.beta"
    if t.stage == "dpo":
        rename |= {"dpo_loss_type": "train.loss_type", "dpo_loss_weights": "train.loss_weights"}
        rename |= {"dpo_use_weighting": "train.use_weighting", "dpo_label_smoothing": "train.label_smoothing"}
    handlers = {key: partial(t.renamed, key, place) for key, place in rename.items()}
    done = "base_model rl reward_model adapter load_in_4bit load_in_8bit lora_target_linear bf16 bfloat16 fp16 float16"
    often = "evals_per_epoch saves_per_epoch excess_length_strategy"
    handlers |= {key: partial(t.looked_at, key) for key in (*done.split(), *often.split(), *axolotl_data.KEYS)}
    if t.value("cosine_min_lr_ratio") is not None:
        handlers["lr_scheduler"] = partial(t.looked_at, "lr_scheduler")  # whichever of them comes first
    handlers |= {key: partial(_kernel, t, key) for key in _LIGER}
    handlers |= {key: partial(_attention, t, key) for key in _ATTENTION}
    return handlers | {
        **strategy.handlers(t),
        "chat_template": partial(_template, t),
        "lora_model_dir": partial(t.policy, "lora_model_dir"),
        "attn_implementation": partial(_named_attention, t),
        "sample_packing": partial(_packing, t),
        "special_tokens": partial(_tokens, t),
        "warmup_ratio": t.warmup,
        "gradient_checkpointing": partial(_checkpointing, t),
        "rpo_alpha": partial(_rpo, t),
        "cosine_min_lr_ratio": partial(_least_rate, t),
        "adam_epsilon2": lambda value: t.drop("adam_epsilon2", "no optimizer that can be chosen here reads it"),
    }


def _kernel(t: Translation, key: str, value: object) -> None:
    if value:
        t.put("train.use_liger_kernel", True, key)
    else:
        t.off.append(key)


def _attention(t: Translation, key: str, value: object) -> None:
    if value:
        t.put("model.attn_implementation", _ATTENTION[key], key)
    else:
        t.off.append(key)


def _named_attention(t: Translation, value: object) -> None:
    if value == "xformers" or (value not in ATTENTIONS and "/" not in str(value)):
        t.drop(
            "attn_implementation", "no such one here; transformers chooses, as with model.attn_implementation left out"
        )
    else:
        t.put("model.attn_implementation", value, "attn_implementation")


def _template(t: Translation, value: object) -> None:
    if value in _TEMPLATES:
        t.put("model.template", _TEMPLATES[value], "chat_template")
    elif value == "tokenizer_default":
        t.drop("chat_template", "the model's own template is used unless model.template names another")
    else:
        t.drop("chat_template", "no such template is shipped; the model's own is used")
        t.to_do.append(
            f"chat_template: {value}: the model's own chat template is used. If it has none, name one of model.template's, "
            "or a .jinja file (chat_template_jinja, written to a file)."
        )


def _packing(t: Translation, value: object) -> None:
    if t.has("packing"):
        t.put("train.packing", bool(value), "sample_packing")
    elif value:
        t.drop("sample_packing", "this stage packs no rows")
    else:
        t.off.append("sample_packing")


def _tokens(t: Translation, value: object) -> None:
    given = {key: token for key, token in value.items() if token} if isinstance(value, dict) else {}
    if "pad_token" in given:
        t.put("model.pad_token", given.pop("pad_token"), "special_tokens")
    if given:
        t.drop("special_tokens", f"{', '.join(given)}: the tokenizer's own, and the template's, are used")


def _checkpointing(t: Translation, value: object) -> None:
    t.put("train.gradient_checkpointing", value is not False, "gradient_checkpointing")
    if not isinstance(value, bool):
        t.means.append(f"gradient_checkpointing: {value}: nothing is moved to the CPU here; it is on, and no more.")


def _rpo(t: Translation, value: Any) -> None:
    if t.stage != "dpo":
        t.drop("rpo_alpha", "no term of this stage's loss")
        return
    t.put("train.loss_type", ["sigmoid", "sft"], "rpo_alpha")
    t.put("train.loss_weights", [1.0, float(value)], "rpo_alpha")


def _least_rate(t: Translation, value: object) -> None:
    if (named := t.value("lr_scheduler", "cosine")) != "cosine":
        t.means.append(f"lr_scheduler: {named}: gave way to cosine_with_min_lr, for cosine_min_lr_ratio.")
    t.put("train.lr_scheduler_type", "cosine_with_min_lr", "cosine_min_lr_ratio")
    t.put("train.lr_scheduler_kwargs", {"min_lr_rate": value}, "cosine_min_lr_ratio")


def _often(t: Translation) -> None:
    """How often within an epoch, as a share of all steps."""
    epochs = float(t.value("num_epochs", 1))
    for key, what in (("evals_per_epoch", "eval"), ("saves_per_epoch", "save")):
        times = t.value(key)
        if not times:
            continue
        if what == "eval" and not t.value("val_set_size") and not t.value("test_datasets"):
            t.drop(key, "no rows are held out there; train.eval_strategy says it here")
        elif times == 1:
            t.put(f"train.{what}_strategy", "epoch", key)
        elif t.value("max_steps"):
            t.drop(key, f"beside max_steps; give {what}_steps instead")
        else:
            t.put(f"train.{what}_strategy", "steps", key)
            t.put(f"train.{what}_steps", round(1 / (times * epochs), 6), key)
    if t.value("eval_steps") and "eval_strategy" not in t.given:
        t.put("train.eval_strategy", "steps", "eval_steps")


def _meanings(t: Translation) -> None:
    """What has the same name and is another thing."""
    train = t.tree["stages"][t.stage]["train"]
    if t.stage == "dpo" and t.value("adapter") and t.value("lora_model_dir"):
        t.means.append(
            "The reference: here it is the incoming policy (lora_model_dir), frozen, and never the bare base."
        )
    if t.stage == "kto" and train["per_device_train_batch_size"] == 1:
        steps = max(1, int(train["gradient_accumulation_steps"]) // 2)
        t.put("train.per_device_train_batch_size", 2, "micro_batch_size")
        t.put("train.gradient_accumulation_steps", steps, "gradient_accumulation_steps")
        t.means.append(
            "micro_batch_size: 1 became 2, with half as many steps of accumulation: KTO estimates its KL within a batch, "
            "which takes two rows at least."
        )
    if t.value("adapter") and not ({"lora_target_linear", "lora_target_modules"} & t.given.keys()):
        t.to_do.append("Neither lora_target_linear nor lora_target_modules is given: see adapter.target_modules.")
    if t.stage != "pretrain":
        key = "excess_length_strategy"
        t.put("data.on_too_long", {"truncate": "truncate", "raise": "error"}.get(str(t.value(key)), "drop"), key)
    if not t.value("val_set_size") and not t.value("test_datasets"):
        t.means.append(
            "No rows were held out there; here 5% are, so that a stage can show what it learned. data.held_out: 0 trains "
            "on all of them."
        )
