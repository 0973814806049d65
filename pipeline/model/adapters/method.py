"""What every method of tuning answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

# What `divided` says of most: DeepSpeed follows the order in which weights are used, and the reference of some is used in another.
BUT_ZERO3 = ("fsdp", "zero1", "zero2")
ANY = (*BUT_ZERO3, "zero3")
# Where tokens of the template are new to the model, and a method cannot train them.
WITHOUT_NEW_TOKENS = "Set adapter.method: lora, or a model.template without new tokens, as plain and raw are."
IN_4_BITS = "fsdp in 4 bits"  # where the base is


@dataclass(frozen=True)
class Method:
    """A way to tune a model, as a recipe names it. Light: only `settings` and `config_class` load PEFT."""

    name: str
    when: str  # one line: when to use it
    # PEFT's class of its settings, whose fields are the recipe's keys; None: it has no adapter.
    config: str | None = None
    module: str = "peft"  # where that class is; a module of our own teaches PEFT a type that it lacks
    peft_type: str = ""  # what PEFT writes into adapter_config.json
    # Keys of a method that is no config of PEFT's, whole numbers of at least 1, with their defaults.
    numbers: Mapping[str, int] = field(default_factory=dict)
    # Keys beside those of PEFT's config that say how a stage trains it, numbers of at least 1, with their defaults.
    learning: Mapping[str, float] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)  # where the pipeline departs from PEFT's
    refused: Mapping[str, str] = field(default_factory=dict)  # fields that a recipe may not set here, and why
    changeable: tuple[str, ...] = ()  # fields that a later stage may set on an adapter that goes on
    beside: bool = True  # whether several stand on one base: reference, reward and value beside the policy
    in_4_bit: bool = False  # whether it is right on a 4-bit base
    in_8_bit: bool = False  # whether it is on an 8-bit one, whose weights some methods would read as they stand
    # The strategies that divide a model, with which it was seen to train what one process does.
    divided: tuple[str, ...] = ()
    new_tokens: bool = False  # whether it trains rows of the embeddings beside
    unsloth: bool = False  # whether Unsloth's fast path serves it
    merged: bool = True  # whether it can be merged into the base, as exports need it
    converted: bool = False  # whether it is kept as another adapter than it is trained as; see `finished`
    cannot: Mapping[str, str] = field(default_factory=dict)  # what a stage may need or set in `train`, and why not
    key: str = "method"  # the key of an adapter that makes it this one
    by_class: bool = False  # whether recipes name it by PEFT's class; it is not told of where nobody asks
    called: str = ""  # in messages, where the name does not tell it

    @property
    def whole(self) -> bool:
        """Whether the model's own weights are trained, so that a stage yields a model and no adapter."""
        return self.config is None

    @property
    def config_name(self) -> str:
        """PEFT's class of its settings. Raises ValueError where it has no adapter."""
        if self.config is None:
            raise ValueError(f"{self.words} has no adapter")
        return self.config

    def fits(self, bits: int) -> bool:
        """Whether it goes onto a base of 4 or 8 bits."""
        return {4: self.in_4_bit, 8: self.in_8_bit}[bits]

    def why_not(self, need: str) -> str | None:
        """Why it cannot give what a stage needs; None where it can."""
        alone = {} if self.beside else {ROLES: "one adapter of it alone stands on a base; take lora"}
        return (alone | dict(self.cannot)).get(need)

    @property
    def words(self) -> str:
        """What messages call it."""
        return self.called or f"method {self.name}"

    def of(self, fields: Mapping[str, Any]) -> "Method":
        """The method that these settings, of a recipe or a saved adapter, make of it."""
        return self

    def obstacle(self, config: Mapping[str, Any]) -> str | None:
        """Why it cannot be put onto a model of this config.json, as far as that tells."""
        return None

    def without_gpu(self, fields: Mapping[str, Any], bits: int | None) -> tuple[str, str] | None:
        """(why it cannot run on a CPU, on a base of so many bits where it is quantized, what to do), or None."""

    def settings(self, fields: Mapping[str, Any], **fixed: object):
        """A PEFT config of this method. Raises ValueError for values that PEFT does not take together."""
        return self.config_class()(**{key: fields[key] for key in fields if key not in self.learning}, **fixed)

    def config_class(self) -> type:
        """The class of its settings."""
        return getattr(import_module(self.module), self.config_name)

    def put_on(self, base, config):
        """The base with an adapter of this config, `default`. Raises ValueError where it does not fit."""
        import peft

        return peft.get_peft_model(base, config)

    def begin(self, model, tokenizer) -> None:
        """Give a new adapter what it starts from, where that is more than its config says."""

    def too_short(self, fields: Mapping[str, Any], steps: int) -> str | None:
        """Why it cannot be trained for so few steps; None where it can."""
        return None

    def alongside(self, model, steps: int):
        """What acts beside the optimizer in each of so many steps, see `lora_forms.Allocation`; None where nothing does."""

    def finished(self, model):
        """The model with its adapter as a stage keeps it: on the base as it was, and what any stage can go on from."""
        return model

    def spread(self, optimizer, model, learning: Mapping[str, float]) -> None:
        """Give parameters the learning rates that `learning` says; it holds what is not at its default."""

    def left(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The adapter that a stage leaves to those after it, as far as its own settings tell."""
        return {"method": self.name} | {key: value for key, value in fields.items() if key not in self.learning}

    def positions(self, fields: Mapping[str, Any]) -> int:
        """How many of the model's positions it takes from the text."""
        return 0


ALL_LINEAR = {"target_modules": "all-linear"}
# What a stage may need of its method.
SCORE = "a score head"
ROLES = "several roles on one base"
SEVERAL = "launch.processes"
BEGIN = "a reference that is the policy at first"
REENTRANT = "gradient_checkpointing_kwargs: {use_reentrant: true}"
KEEP = "keep"
# Reasons to refuse fields that several of PEFT's configs have.
NOT_ITSELF = "it would start as another policy than the one that training starts from"
ITS_OWN_DROPOUT = "TRL could not switch it off where the policy has to be its reference at first"
NO_CONVOLUTION = "it is for convolutions, and no model here has any"
