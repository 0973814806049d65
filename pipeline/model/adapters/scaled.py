"""Methods that train vectors alone: factors beside activations (IA3), or the norms or biases that are there already."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.model.adapters.method import ANY, BUT_ZERO3, NOT_ITSELF, Method

# What gives models of these types biases, which otherwise have none. Of other types the model itself tells.
_BIASES = {
    **dict.fromkeys(("llama", "granite"), ("attention_bias", "mlp_bias")),
    **dict.fromkeys(("qwen3", "gemma", "gemma2", "gemma3_text", "olmo2"), ("attention_bias",)),
    **dict.fromkeys(("mistral", "mixtral"), ()),
}


@dataclass(frozen=True)
class Biases(Method):
    """A method that trains biases; see `bias_tuner`, which is heavy."""

    def obstacle(self, config: Mapping[str, Any]) -> str | None:
        kind = config.get("model_type")
        if kind not in _BIASES or any(config.get(key) for key in _BIASES[kind]):
            return None
        return f"it trains biases, and a {kind} model has none; ln_tuning comes nearest"


@dataclass(frozen=True)
class Norms(Method):
    """A method that trains copies of the norms."""

    def put_on(self, base, config):
        """With the norms in float32: PEFT copies them in the base's dtype, and beside 1 a bfloat16 knows no step below 0.004."""
        from peft.tuners.ln_tuning.layer import LNTuningLayer

        model = super().put_on(base, config)
        for module in model.modules():
            if isinstance(module, LNTuningLayer):  # with the norm itself, which further adapters are copied from
                module.float()
        return model


IA3 = Method(
    name="ia3",
    when="the fewest parameters that still learn a task; wants ten times LoRA's learning rate",
    config="IA3Config",
    peft_type="IA3",
    refused={"init_ia3_weights": NOT_ITSELF},
    divided=BUT_ZERO3,
    in_4_bit=True,
    in_8_bit=True,
)
LN_TUNING = Norms(
    name="ln_tuning",
    when="only the norms: a small change of style or domain",
    config="LNTuningConfig",
    peft_type="LN_TUNING",
    divided=ANY,
    in_4_bit=True,
    in_8_bit=True,
)
BITFIT = Biases(
    name="bitfit",
    when="only the biases of a model that has some (Qwen2, GPT-2, Phi): few parameters, nothing new to compute",
    config="BitFitConfig",
    module="pipeline.model.adapters.bias_tuner",
    peft_type="BITFIT",
    in_4_bit=True,
    in_8_bit=True,
)
