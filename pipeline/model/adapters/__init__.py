"""How is a model tuned? One file a family of methods; each method answers what recipe, plan, loader and trainer ask of it.

Nothing is loaded to ask: what a recipe may say stands here too, so this room lies below `recipe`. Stages are not known here.
"""

from pipeline.model.adapters.any_peft import BY_CLASS, NOT_HELD
from pipeline.model.adapters.bottleneck import BOTTLENECK
from pipeline.model.adapters.factored import LOHA, LOKR, MISS, VERA
from pipeline.model.adapters.lora import ADALORA, LORA
from pipeline.model.adapters.method import Method
from pipeline.model.adapters.prompts import P_TUNING, PREFIX, PROMPT
from pipeline.model.adapters.rotated import BOFT, HRA, OFT
from pipeline.model.adapters.scaled import BITFIT, IA3, LN_TUNING
from pipeline.model.adapters.whole import FREEZE, FULL

# By the names that recipes have for them. The first is the default.
_ADDED = (ADALORA, IA3, LN_TUNING, BITFIT, VERA, OFT, BOFT, HRA, MISS, LOHA, LOKR, BOTTLENECK)
_VIRTUAL_TOKENS = (PREFIX, PROMPT, P_TUNING)
METHODS: dict[str, Method] = {one.name: one for one in (LORA, FULL, FREEZE, *_ADDED, *_VIRTUAL_TOKENS, *BY_CLASS)}
NAMED = tuple(name for name, one in METHODS.items() if not one.by_class)
CONFIGS = {one.config: one for one in METHODS.values() if one.config}  # by PEFT's class
DEFAULT = LORA.name

# What is asked for elsewhere and is not here, with what comes nearest.
NOT_HERE = {
    "qlora": "qlora is method lora on a 4-bit base: set model.load_in_4bit: true",
    "dora": "dora is method lora with use_dora: true",
    "rslora": "rslora is method lora with use_rslora: true",
    "pissa": "pissa is method lora with init_lora_weights: pissa",
    "olora": "olora is method lora with init_lora_weights: olora",
    "loftq": "loftq is not there; method lora on a 4-bit base (model.load_in_4bit: true) comes nearest",
    "longlora": "longlora is not there; method lora takes rows as long as the model has positions",
    "bottleneck_adapter": "bottleneck adapters are method bottleneck",
    "llama-adapter": "llama-adapter is not there; prefix, keys and values in each layer, comes nearest",
    "prefix_tuning": "prefix tuning is method prefix",
    "prompt_tuning": "prompt tuning is method prompt",
    "ptuning": "P-tuning is method p_tuning",
    "p-tuning": "P-tuning is method p_tuning",
}
NOT_HERE |= dict.fromkeys(("lora+", "loraplus", "lora_plus"), "LoRA+ is method lora with loraplus_lr_ratio: 16, say")
NOT_HERE |= dict.fromkeys(("adapter", "adapters", "houlsby", "pfeiffer"), "bottleneck adapters are method bottleneck")
NOT_HERE |= dict.fromkeys(("fft", "full_finetune", "full_finetuning", "full_tuning"), "all weights are method full")
NOT_HERE |= {
    name: f"{name} is no method but an optimizer, and not taken: a stopped run could not go on exactly; method full with "
    "train.optim: adafactor takes little memory, too"
    for name in ("galore", "apollo")
}
NOT_HERE |= {one.peft_type.lower(): f"{one.peft_type} is method {one.name}" for one in BY_CLASS}
# By PEFT's class: those that have a name here, and those that are not taken.
NOT_HERE |= {config.lower(): f"{config} is method {one.name}" for config, one in CONFIGS.items() if not one.by_class}
NOT_HERE |= {config.lower(): f"{config} is not taken: {why}; take lora" for config, why in NOT_HELD.items()}


def method_on(model) -> Method | None:
    """The method of the adapter that a model trains; None where it trains its own weights."""
    config = getattr(model, "peft_config", {}).get("default")
    return method_of(config.peft_type).of(vars(config)) if config else None


def method_of(peft_type: str) -> Method | None:
    """The method of a saved adapter, by what PEFT calls its type (`LORA`); None for one that is not here."""
    return next((one for one in CONFIGS.values() if one.peft_type == peft_type), None)
