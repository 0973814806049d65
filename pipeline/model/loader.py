"""The model of a stage: a frozen base with one adapter that is trained, or every weight of it."""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PreTrainedModel,
    set_seed,
)
from transformers.utils import logging

import pipeline.model.adapters.bias_tuner  # PEFT learns their types
import pipeline.model.adapters.bottleneck_tuner  # noqa: F401
from pipeline.errors import PipelineError
from pipeline.model import backend
from pipeline.model.adapter_tensors import load_adapter
from pipeline.model.adapters import METHODS, NAMED, method_of
from pipeline.model.adapters.absent import no_module, refuse_absent_layers
from pipeline.model.adapters.method import WITHOUT_NEW_TOKENS
from pipeline.model.base import Base
from pipeline.model.freezing import train_last
from pipeline.model.new_tokens import without_copies
from pipeline.model.quantization import keep_dtype, quantization
from pipeline.model.tokenizer import Prepared
from pipeline.recipe.sections import Model


@dataclass(frozen=True)
class Loader:
    """Builds what a stage trains. `head` is "causal" or "score"."""

    wanted: Model  # the recipe's section: dtype, bits, attention, or the config of a new one
    seed: int
    base: Base
    prepared: Prepared
    head: str = "causal"
    unsloth: dict | None = None  # what Unsloth's loader is told; None leaves it to transformers
    on_cpu: bool = False  # a quantized base, too: each of several processes will take its part of it from there
    empty: bool = False  # without weights of the base, which take no memory then: for who reads these one by one

    def model(self, parent_adapter: Path | None, adapter: dict | None) -> PreTrainedModel | PeftModel:
        """The base with a copy of the parent's adapter, with a new one, or bare.

        `adapter` holds the method of what is new and its fields, or those that the stage changes in the parent's.
        """
        set_seed(self.seed)  # the score head and a new adapter start from it
        base = self._base()
        if parent_adapter is not None:
            return self._continue(base, parent_adapter, adapter or {})
        if adapter is None:
            return base
        method, fields = METHODS[adapter["method"]], {key: value for key, value in adapter.items() if key != "method"}
        if not method.whole:
            _check_names(base, fields)
        tokens = self._trainable_tokens(base)
        if tokens and not method.new_tokens:
            raise PipelineError(
                f"The template's tokens {', '.join(self.prepared.new_tokens)} are new to the model, and method "
                f"{method.name} cannot train them beside itself.",
                WITHOUT_NEW_TOKENS,
            )
        if method.whole:
            return train_last(base, fields["layers"])
        with _fitting():
            config = method.settings(
                fields,
                task_type="SEQ_CLS" if self.head == "score" else "CAUSAL_LM",
                **({"trainable_token_indices": tokens} if method.new_tokens else {}),
            )
        model = self._adapted(base, config)
        with _fitting():
            method.begin(model, self.prepared.tokenizer)
        return model

    def _base(self) -> PreTrainedModel:
        tokenizer, wanted = self.prepared.tokenizer, self.wanted
        dtype = getattr(torch, wanted.dtype)
        factory = AutoModelForSequenceClassification if self.head == "score" else AutoModelForCausalLM
        if self.base.source is None:
            with loading("model.config", "Mend it."):
                config = AutoConfig.for_model(**self._config_from_scratch())
                model = factory.from_config(config, dtype=dtype, attn_implementation=wanted.attn_implementation)
        elif self.empty:
            model = self._empty(factory, dtype)
        elif self.unsloth:
            model = backend.load(self.base, wanted, dtype, self.unsloth)
        else:
            model = self._pretrained(factory, dtype)
        fit(model, tokenizer)
        return hollow(model) if self.empty else model

    def _config_from_scratch(self) -> dict:
        tokenizer = self.prepared.tokenizer
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        return {"vocab_size": len(tokenizer)} | ids | dict(self.wanted.config)

    def _empty(self, factory, dtype: torch.dtype) -> PreTrainedModel:
        """The model without its weights, and without the bits that it would be quantized to."""
        where = {"revision": self.base.commit, "trust_remote_code": self.wanted.trust_remote_code}
        config = AutoConfig.from_pretrained(self.base.source, **where)
        if self.head == "score":
            config.num_labels = 1
        with torch.device("meta"):
            model = factory.from_config(config, dtype=dtype, trust_remote_code=self.wanted.trust_remote_code)
        if model.can_generate():
            with suppress(OSError):  # few bases have none, and that of their config is then there already
                model.generation_config = GenerationConfig.from_pretrained(self.base.source, revision=self.base.commit)
        return model

    def _pretrained(self, factory, dtype: torch.dtype) -> PreTrainedModel:
        wanted, options = self.wanted, {}
        if self.head == "score":
            options["num_labels"] = 1
        if wanted.bits:
            options["quantization_config"] = quantization(wanted.bits, dtype)
            on_gpu = torch.cuda.is_available() and not self.on_cpu
            options["device_map"] = {"": torch.cuda.current_device() if on_gpu else "cpu"}
        if wanted.attn_implementation:
            options["attn_implementation"] = wanted.attn_implementation
        with loading(self.base.source, "It has to be a causal language model in safetensors form."):
            model = factory.from_pretrained(
                self.base.source,
                revision=self.base.commit,
                dtype=dtype,
                trust_remote_code=wanted.trust_remote_code,
                use_safetensors=True,  # a pickle from outside is never opened
                **options,
            )
        for module in model.modules():  # bitsandbytes would repack the weights on such a CPU, and spoil training
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        return model

    def _trainable_tokens(self, base: PreTrainedModel) -> dict[str, list[int]] | None:
        """The rows of the embeddings that are new and must be learned: the input's, and the output's where it is apart."""
        if not self.prepared.new_tokens:
            return None
        ids = self.prepared.tokenizer.convert_tokens_to_ids(list(self.prepared.new_tokens))
        inputs, outputs = base.get_input_embeddings(), base.get_output_embeddings()
        apart = outputs is not None and outputs.weight is not inputs.weight
        names = {module: name.rpartition(".")[2] for name, module in base.named_modules()}
        return {names[inputs]: ids} | ({names[outputs]: ids} if apart else {})

    def _continue(self, base: PreTrainedModel, folder: Path, changes: dict) -> PeftModel:
        config = PeftConfig.from_pretrained(str(folder))
        if method_of(config.peft_type) is None:
            known = ", ".join(name for name in NAMED if METHODS[name].config)
            raise PipelineError(f"{folder}: is a {config.peft_type} adapter; those that can go on are of {known}.")
        for key, value in changes.items():
            setattr(config, key, value)
        wants_head = self.head == "score" and config.task_type != "SEQ_CLS"
        if wants_head:
            config = copy.copy(config)
            trained = getattr(config, "trainable_token_indices", None)
            if isinstance(trained, dict):  # the score model has no output embeddings
                embeddings = self._names(base)
                config.trainable_token_indices = {
                    name: ids for name, ids in trained.items() if name in embeddings
                } or None
        config.task_type = "SEQ_CLS" if self.head == "score" else "CAUSAL_LM"
        model = self._adapted(base, config)
        load_adapter(model, folder, partly=wants_head)
        return model

    @staticmethod
    def _names(base: PreTrainedModel) -> set[str]:
        return {name.rpartition(".")[2] for name, _ in base.named_modules()}

    def _adapted(self, base: PreTrainedModel, config: PeftConfig) -> PeftModel:
        config.inference_mode = False
        if self.unsloth and getattr(config, "trainable_token_indices", None):
            raise PipelineError(
                "Unsloth's fused loss reads the bare embeddings and would not train the tokens that are new here.",
                backend.WITHOUT,
            )
        if self.head == "score":
            config.modules_to_save = ["score"]
        set_seed(self.seed)  # the same adapter to start from, whatever loading the base drew
        with _fitting():
            model = method_of(config.peft_type).of(vars(config)).put_on(base, config)
        without_copies(model)
        model.peft_config["default"].base_model_name_or_path = self.base.source
        model.peft_config["default"].revision = self.base.commit
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and ("modules_to_save" in name or "trainable_tokens" in name):
                parameter.data = parameter.data.float()  # like LoRA's own: small steps are lost in bf16
        if self.wanted.dtype != "float32":
            keep_dtype(model)
        return backend.finished(model, self.unsloth) if self.unsloth else model


def fit(model: PreTrainedModel, tokenizer) -> None:
    """Room for every token, and the tokenizer's padding and stop, beside the stops that the model has by itself."""
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:  # never shrunk: vocabularies come padded
        with _quiet():  # it explains at length how it begins rows that are learned, or loaded, next
            model.resize_token_embeddings(len(tokenizer), mean_resizing=model.device.type != "meta")
    model.config.pad_token_id = tokenizer.pad_token_id
    if model.can_generate():
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        stops = model.generation_config.eos_token_id
        stops = stops if isinstance(stops, list) else [stops] if stops is not None else []
        others = [stop for stop in stops if stop != tokenizer.eos_token_id]
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, *others]


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def hollow(model: PreTrainedModel) -> PreTrainedModel:
    """Every weight one zero that is seen in its whole shape. On `meta` the adapters that PEFT adds would be there too."""
    known: dict[int, torch.nn.Parameter] = {}  # what is tied stays tied
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            hollow = torch.zeros(1, dtype=weight.dtype).expand(weight.shape)
            known.setdefault(id(weight), torch.nn.Parameter(hollow, requires_grad=False))
            setattr(module, name, known[id(weight)])
    return model


@contextmanager
def loading(source: str, fix: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        said = str(error).strip().splitlines()[0]
        if "ttention" in said:
            fix = "Name another model.attn_implementation, or leave it out."
        raise PipelineError(f"{source}: the model cannot be loaded: {said}", fix) from None


@contextmanager
def _fitting() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise PipelineError(f"The adapter does not fit the base: {str(error).splitlines()[0]}") from None


def _check_names(base: PreTrainedModel, adapter: dict) -> None:
    """Refuse what the model has not: PEFT passes over it as long as anything is there."""
    modules = [name for name, _ in base.named_modules()]
    parameters = [name for name, _ in base.named_parameters()]
    for key in ("target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "target_parameters"):
        patterns, there = adapter.get(key) or [], parameters if key == "target_parameters" else modules
        if isinstance(patterns, str):  # of a whole path; where none is adapted PEFT itself says so
            patterns, beginning, literal = [patterns] if key == "exclude_modules" else [], "", False
        else:
            beginning, literal = r"(.*\.)?", not isinstance(patterns, dict)
        for pattern in patterns:
            wanted = beginning + (re.escape(pattern) if literal else pattern)
            if not any(re.fullmatch(wanted, name) for name in there):
                ends = sorted({name.rpartition(".")[2] for name in modules})
                what = "parameter" if there is parameters else "module"
                raise no_module(f"adapter.{key}", pattern, ends, what)
    refuse_absent_layers("adapter", adapter, base.config.get_text_config().num_hidden_layers)
