"""Subjects in memory: one base, and each subject an adapter on it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pipeline.data.tokens.encoder import Encoder
from pipeline.model import tokenizer as tokenizers
from pipeline.model.loader import Loader, load_adapter
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

    @property
    def encoder(self) -> Encoder:
        return Encoder(self.tokenizer)

    @contextmanager
    def acting(self) -> Iterator[PreTrainedModel | PeftModel]:
        """The model, as this policy and in evaluation mode, without gradients."""
        if self.adapter:
            self.model.set_adapter(self.adapter)
        with torch.no_grad():
            yield self.model


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def load(subjects: Sequence[Subject]) -> list[Policy]:
    """Each subject as a policy, on one base as far as they stand on the same.

    Raises PipelineError for what cannot be loaded or does not fit its base.
    """
    found: list[Policy] = []
    for subject in subjects:
        tokenizer = _tokenizer_of(subject)
        beside = next((one for one in found if one.adapter and _shares(one, subject, tokenizer)), None)
        found.append(_beside(beside, subject, tokenizer) if beside else _alone(subject, tokenizer))
    return found


def _alone(subject: Subject, tokenizer: PreTrainedTokenizerFast) -> Policy:
    loader = Loader(subject.model, 0, subject.base, Prepared(tokenizer), subject.head)
    model = loader.model(subject.folder if subject.is_adapter else None, None)
    model = model if subject.model.load_in_4bit else model.to(device())
    return Policy(subject, model.eval(), tokenizer, _FIRST if subject.is_adapter else None)


def _beside(other: Policy, subject: Subject, tokenizer: PreTrainedTokenizerFast) -> Policy:
    """A further adapter on the base that is in memory already."""
    name = f"adapter{len(other.model.peft_config)}"
    other.model.add_adapter(name, PeftConfig.from_pretrained(str(subject.folder)))
    load_adapter(other.model, subject.folder, name)
    return Policy(subject, other.model.eval(), tokenizer, name)


def _shares(one: Policy, subject: Subject, tokenizer: PreTrainedTokenizerFast) -> bool:
    same = one.subject.base == subject.base and one.subject.model == subject.model and one.subject.head == subject.head
    return subject.is_adapter and same and len(one.tokenizer) == len(tokenizer)


def _tokenizer_of(subject: Subject) -> PreTrainedTokenizerFast:
    """The one saved beside the weights; an adapter from elsewhere may have none of its own."""
    if (subject.folder / "tokenizer_config.json").is_file():
        return tokenizers.load(subject.folder, subject.model)
    return tokenizers.load(subject.base.source, subject.model, subject.base.commit)
