"""Subjects in memory: one base, and each subject an adapter on it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from pipeline.data.tokens.encoder import Encoder
from pipeline.data.tokens.stops import Stops
from pipeline.errors import PipelineError
from pipeline.model import tokenizer as tokenizers
from pipeline.model.adapter_tensors import load_adapter
from pipeline.model.adapters import method_of
from pipeline.model.loader import Loader
from pipeline.model.tokenizer import Prepared
from pipeline.use.subject import Subject

_FIRST = "default"  # what PEFT calls the adapter that a model was made with


@dataclass(frozen=True)
class Policy:
    """A subject that can be asked. Several of them may share `model`: each is used inside its own `acting`."""

    subject: Subject
    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerFast
    adapter: str | None  # its name in the model; None for a whole model

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(self.tokenizer)

    @property
    def transformer(self) -> PreTrainedModel:
        """The model of transformers, which may have adapters inside."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @cached_property
    def stops(self) -> frozenset[int]:
        """The tokens that end an answer: those that were trained to, and those that the base's generation config names."""
        named = self.transformer.generation_config.eos_token_id
        named = named if isinstance(named, list) else [] if named is None else [named]
        return frozenset((*self.tokenizer.convert_tokens_to_ids(sorted(self._template.every)), *named))

    @property
    def lead(self) -> str:
        """What the chat template writes before an answer, behind the invitation: it is no part of the answer."""
        return self._template.lead

    @cached_property
    def _template(self) -> Stops:
        return Stops(self.tokenizer)

    @property
    def context(self) -> int | None:
        """How many tokens prompt and answer may have together; None where the model sets no limit."""
        positions = getattr(self.transformer.config.get_text_config(), "max_position_embeddings", None)
        return positions and positions - getattr(self.model, "virtual_tokens", 0)

    @contextmanager
    def acting(self) -> Iterator[PreTrainedModel | PeftModel]:
        """The model, as this policy and in evaluation mode, without gradients."""
        with torch.no_grad():
            if self.adapter is None and isinstance(self.model, PeftModel):
                with self.model.disable_adapter():
                    yield self.model
                return
            if self.adapter and self.model.active_adapters != [self.adapter]:
                self.model.set_adapter(self.adapter)
            yield self.model


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def load(subjects: Sequence[Subject]) -> list[Policy]:
    """Each subject as a policy, on one base as far as they stand on the same.

    Raises PipelineError for what cannot be loaded or does not fit its base.
    """
    disable_progress_bar()
    found: dict[int, Policy] = {}
    for number, subject in sorted(enumerate(subjects), key=lambda one: not one[1].is_adapter):  # see _beside
        tokenizer = tokenizer_of(subject)
        beside = next((one for one in found.values() if one.adapter and _shares(one, subject, tokenizer)), None)
        found[number] = _beside(beside, subject, tokenizer) if beside else _alone(subject, tokenizer)
    return [found[number] for number in range(len(subjects))]


def _alone(subject: Subject, tokenizer: PreTrainedTokenizerFast) -> Policy:
    _check_device(subject)
    loader = Loader(subject.model, 0, subject.base, Prepared(tokenizer), subject.head)
    model = loader.model(subject.folder if subject.is_adapter else None, None)
    model = model if subject.model.bits else model.to(device())
    return Policy(subject, model.eval(), tokenizer, _FIRST if subject.is_adapter else None)


def _beside(other: Policy, subject: Subject, tokenizer: PreTrainedTokenizerFast) -> Policy:
    """A further adapter on the base that is in memory already, or that base without one."""
    if not subject.is_adapter:
        return Policy(subject, other.model, tokenizer, None)
    _check_device(subject)
    name = f"adapter{len(other.model.peft_config)}"
    other.model.add_adapter(name, PeftConfig.from_pretrained(str(subject.folder)))
    load_adapter(other.model, subject.folder, name)
    return Policy(subject, other.model.eval(), tokenizer, name)


def _check_device(subject: Subject) -> None:
    config = PeftConfig.from_pretrained(str(subject.folder)) if subject.is_adapter else None
    if config is None or device() == "cuda" or (method := method_of(config.peft_type)) is None:
        return
    if found := method.without_gpu(vars(config), subject.model.bits):
        raise PipelineError(f"{subject.name}: {found[0]}.", "Use it where there is a GPU.")


def _shares(one: Policy, subject: Subject, tokenizer: PreTrainedTokenizerFast) -> bool:
    if subject.is_adapter and PeftConfig.from_pretrained(str(subject.folder)).peft_type != one.model.peft_type:
        return False  # PEFT has adapters of one kind on a base
    same = one.subject.base == subject.base and one.subject.model == subject.model and one.subject.head == subject.head
    return same and len(one.tokenizer) == len(tokenizer)


def tokenizer_of(subject: Subject) -> PreTrainedTokenizerFast:
    """The one saved beside the weights; an adapter from elsewhere may have none of its own."""
    if (subject.folder / "tokenizer_config.json").is_file():
        return tokenizers.load(subject.folder, subject.model)
    return tokenizers.load(subject.base.source, subject.model, subject.base.commit)
