"""From messages to a request: the prompt's tokens, room for the answer, and sampling where nobody says otherwise."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import GenerationConfig

from pipeline.data.shapes.fields import BadRow
from pipeline.data.tokens.template_files import named
from pipeline.errors import PipelineError
from pipeline.use.engine.request import Request, Sampling
from pipeline.use.loaded import Policy

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
# What a generation config may say that this program does in its own way.
_OTHERWISE = set(
    """
    do_sample eos_token_id bos_token_id pad_token_id max_new_tokens max_length use_cache cache_implementation
    transformers_version _from_model_config output_attentions output_hidden_states return_dict_in_generate
    """.split()
)


class TooLong(PipelineError):
    """A prompt that leaves no room for an answer."""

    def __init__(self, name: str, tokens: int, context: int):
        super().__init__(
            f"{name}: the prompt has {tokens:,} tokens and leaves no room for an answer: the model's context is "
            f"{context:,}.",
            "Ask something shorter.",
        )


class Unshowable(PipelineError):
    """Messages that the chat template cannot show as they are."""


@dataclass(frozen=True)
class Defaults:
    """What the model's generation config says of its answers."""

    sampling: Sampling
    most_tokens: int | None  # None: as many as the context has room for
    unused: tuple[str, ...]  # what it says and nothing here does

    @classmethod
    def of(cls, policy: Policy) -> "Defaults":
        return cls.told(policy.transformer.generation_config)

    @classmethod
    def told(cls, config: GenerationConfig) -> "Defaults":
        """Greedy where the config does not say `do_sample`, as transformers has it."""
        said = config.to_diff_dict()
        given = {key: said[key] for key in _SAMPLING if said.get(key) is not None}
        given["temperature"] = given.get("temperature", 1.0) if said.get("do_sample") else 0.0
        unused = sorted(key for key in said.keys() - _OTHERWISE - {*_SAMPLING} if said[key] not in (None, False))
        return cls(Sampling(**given), said.get("max_new_tokens"), tuple(unused))

    def changed(self, **said: object) -> Sampling:
        """The sampling with what is not None in its place."""
        return replace(self.sampling, **{key: value for key, value in said.items() if value is not None})


def give_template(policy: Policy) -> str | None:
    """A base that was never trained here may have no chat template; as in training, it gets the plain one. Returns the note."""
    if policy.tokenizer.chat_template:
        return None
    policy.tokenizer.chat_template = named("plain")
    return f"{policy.subject.name}: has no chat template; the plain one is used"


def chat_request(
    policy: Policy, messages: Sequence[dict], most_tokens: int | None, sampling: Sampling, **options
) -> Request:
    """What answers the messages, through the template that was trained; special tokens that somebody typed are text.

    Raises Unshowable and TooLong.
    """
    return request(policy, prompt_of(policy, messages), most_tokens, sampling, lead=policy.lead, **options)


def prompt_of(policy: Policy, messages: Sequence[dict]) -> list[int]:
    """Raises Unshowable."""
    check_characters(messages)
    try:
        return policy.encoder.prompt_ids(list(messages))
    except BadRow as reason:
        raise Unshowable(f"{policy.subject.name}: {reason}") from None


def check_characters(said: object) -> None:
    """Raises Unshowable for a lone surrogate: what JSON may escape, and what is read for bytes that are not UTF-8."""
    try:
        json.dumps(said, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise Unshowable(
            f"Half of a character ({half!a}) was asked, which no tokenizer can read.", "Write it as UTF-8."
        ) from None


def request(policy: Policy, ids: list[int], most_tokens: int | None, sampling: Sampling, **options) -> Request:
    """`most_tokens` at most, fewer where the context ends before. Raises TooLong."""
    room = (policy.context or 1 << 30) - len(ids)
    if room < (0 if most_tokens == 0 else 1):
        raise TooLong(policy.subject.name, len(ids), policy.context)
    most = room if most_tokens is None else min(most_tokens, room)
    return Request(policy.subject.name, ids, most, sampling, **options)
