"""Methods that train virtual tokens before the text and leave the weights alone; see pipeline.model.adapters.prompted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.model.adapters.method import BEGIN, ITS_OWN_DROPOUT, REENTRANT, ROLES, SCORE, Method

_OF_THE_MODEL = dict.fromkeys(
    ("token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"), "the model says it"
)
_FIRST_ROW = "rows in one sequence would have virtual tokens before the first alone"
_TEXT = "TEXT"
_CANNOT = {
    SCORE: "no score head on virtual tokens has been proven here; ia3 trains as little, and works there",
    ROLES: "its roles are layers' adapters, and virtual tokens stand outside the layers; ia3 trains as little, and works",
    BEGIN: "new virtual tokens make another policy of the model from the start; train them in sft, and they go on here, "
    "or take ia3 or lora",
    "packing": _FIRST_ROW,
    "padding_free": _FIRST_ROW,
    "use_liger_kernel": "its losses look for the model's head where an adapter in the layers has it",
}


@dataclass(frozen=True)
class Prompt(Method):
    """A method of virtual tokens: PEFT's configuration and files, and a model that takes them in wherever it is run."""

    in_4_bit: bool = True
    merged: bool = False
    keys: bool = False  # whether they are keys and values in each layer

    def put_on(self, base, config):
        from pipeline.model.adapters.prompted import Prompted, keeps_all_keys

        if self.keys and not keeps_all_keys(base):
            raise ValueError(
                f"{self.name} needs layers that keep all keys and values, and some do not; take prompt or lora"
            )
        return Prompted(base, config)

    def settings(self, fields: Mapping[str, Any], **fixed: object):
        if fields.get("prompt_tuning_init") == _TEXT:  # PEFT wants a name; see `begin`
            fixed["tokenizer_name_or_path"] = "the tokenizer beside the adapter"
        return super().settings(fields, **fixed)

    def begin(self, model, tokenizer) -> None:
        config = model.peft_config["default"]
        if getattr(config, "prompt_tuning_init", None) == _TEXT:
            if not (ids := tokenizer(config.prompt_tuning_init_text, add_special_tokens=False)["input_ids"]):
                raise ValueError("adapter.prompt_tuning_init_text has no tokens")
            model.begin_with(ids)

    def positions(self, fields: Mapping[str, Any]) -> int:
        return fields.get("num_virtual_tokens") or self.defaults["num_virtual_tokens"]


PREFIX = Prompt(
    name="prefix",
    when="a narrow task: keys and values that each layer reads before the text; wants a far higher learning rate than LoRA",
    config="PrefixTuningConfig",
    peft_type="PREFIX_TUNING",
    defaults={"num_virtual_tokens": 20},
    refused=_OF_THE_MODEL,
    cannot=_CANNOT | {REENTRANT: "a layer that is run again would not be given its prefix"},
    keys=True,
)
PROMPT = Prompt(
    name="prompt",
    when="the fewest parameters of all, for large models; begin with prompt_tuning_init: TEXT",
    config="PromptTuningConfig",
    peft_type="PROMPT_TUNING",
    defaults={"num_virtual_tokens": 20},
    refused=_OF_THE_MODEL
    | dict.fromkeys(("tokenizer_name_or_path", "tokenizer_kwargs"), "the stage's own tokenizer reads the text"),
    cannot=_CANNOT,
)
P_TUNING = Prompt(
    name="p_tuning",
    when="like prompt, its tokens computed by a small network: more parameters to train, as few to ask",
    config="PromptEncoderConfig",
    peft_type="P_TUNING",
    defaults={"num_virtual_tokens": 20},
    refused=_OF_THE_MODEL | {"encoder_dropout": ITS_OWN_DROPOUT},
    cannot=_CANNOT,
)
