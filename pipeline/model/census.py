"""What the methods of tuning would train of a model: counted on its shape, without its weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.model.adapters import METHODS
from pipeline.model.adapters.method import Method
from pipeline.model.adapters.prompted import Prompted
from pipeline.model.base import Base
from pipeline.model.freezing import train_last
from pipeline.model.loader import hollow, loading
from pipeline.recipe.sections import Model

SMALL = 300_000_000  # parameters: what some methods make beside a larger model would fill the memory


@dataclass(frozen=True)
class Count:
    """Of one method on one model."""

    method: Method
    trained: int | None  # parameters; None where it does not fit the model
    saved: int | None  # bytes of what a stage keeps of it, in fp32
    why_not: str = ""


def counts(
    base: Base, wanted: Model, vocabulary: int, methods: Sequence[Method], own: Mapping[str, Mapping]
) -> tuple[int, Iterator[Count]]:
    """(the model's parameters, the count of each of the methods).

    `vocabulary` is that of a model from scratch; `own` are settings by method, where they are not the defaults.
    """
    config = _config(base, wanted, vocabulary)

    def shape() -> PreTrainedModel:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=wanted.trust_remote_code)

    whole = sum(one.numel() for one in shape().parameters())

    def each() -> Iterator[Count]:
        for method in methods:
            if method.whole:
                yield _of_its_own(method, shape(), own.get(method.name, method.numbers))
                continue
            fields = own.get(method.name, method.defaults)
            try:
                trained = _adapted(method, shape, fields, small=whole < SMALL)
                kept = trained
                if method.of(fields).converted:
                    left = dict(method.of(fields).left(fields))
                    kept = _adapted(METHODS[left.pop("method")], shape, left, small=whole < SMALL)
            except (ValueError, RuntimeError) as error:
                yield Count(method, None, None, str(error).strip().splitlines()[0])
            else:
                yield _counted(method, trained, kept)

    return whole, each()


def _config(base: Base, wanted: Model, vocabulary: int) -> PreTrainedConfig:
    if base.source is None:
        return AutoConfig.for_model(**{"vocab_size": vocabulary} | dict(wanted.config))
    with loading(base.source, "It has to be a causal language model."):
        return AutoConfig.from_pretrained(base.source, revision=base.commit, trust_remote_code=wanted.trust_remote_code)


def _adapted(method: Method, shape: Callable[[], PreTrainedModel], fields: Mapping, *, small: bool) -> PeftModel:
    """On `meta`; of a small model where PEFT has to look at what it makes, in memory."""
    settings = method.settings(fields, task_type="CAUSAL_LM")
    if hasattr(settings, "init_lora_weights"):
        settings.init_lora_weights = False  # there is nothing to start from
    try:
        with torch.device("meta"):
            return method.put_on(shape(), settings)
    except RuntimeError:
        if not small:
            raise
    return method.put_on(hollow(shape()), settings)


def _of_its_own(method: Method, model: PreTrainedModel, settings: Mapping) -> Count:
    """Of a method that trains the model's own weights: a stage keeps them all."""
    try:
        model = train_last(model, settings["layers"]) if method.numbers else model
    except PipelineError as error:
        return Count(method, None, None, str(error).splitlines()[0])
    whole = sum(one.numel() for one in model.parameters())
    return Count(method, sum(one.numel() for one in model.parameters() if one.requires_grad), 4 * whole)


def _counted(method: Method, model: PeftModel, kept: PeftModel) -> Count:
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    prompted = isinstance(kept, Prompted)
    tensors = kept.kept() if prompted else get_peft_model_state_dict(kept, save_embedding_layers=False)
    return Count(method, trained, sum(4 * one.numel() for one in tensors.values()))
