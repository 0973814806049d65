"""What a request may hold. Every field that is accepted takes effect; any other is refused by its name.

The fields are those of https://platform.openai.com/docs/api-reference, and three of vLLM's (top_k, min_p,
repetition_penalty).
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.wording import did_you_mean

# Said by many clients whatever they are set to: taken where it says what is done anyway.
NEUTRAL: Mapping[str, tuple] = {
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}
_SAMPLING = ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "seed")
SAYS_WHO_ASKS = ("user", "metadata", "safety_identifier")  # and nothing of the answer

Stop = Annotated[str, Field(min_length=1)]
Ids = Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)]


class BadRequest(Exception):
    """`status` and what OpenAI's error object holds."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400):
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Strict):
    include_usage: bool = False


class _Body(_Strict):
    model: str
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = 1

    @model_validator(mode="after")
    def _options_of_a_stream(self):
        if self.stream_options and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def sampling(self) -> dict[str, Any]:
        """Of Sampling's fields those that are said; a top_k of -1 is vLLM's word for none."""
        said = {key: getattr(self, key) for key in _SAMPLING}
        return said | {"top_k": self.top_k if self.top_k is None else max(self.top_k, 0)}

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatBody(_Body):
    messages: Annotated[list[dict], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _agreed(self):
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens do not agree; max_tokens is the older name")
        return self

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def likeliest(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(_Body):
    prompt: str | Ids | Annotated[list[str], Field(min_length=1)] | Annotated[list[Ids], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = False

    @model_validator(mode="after")
    def _says_something(self):
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 needs echo: true")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        single = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if single else self.prompt


def read(kind: type[_Body], body: object) -> Any:
    """Raises BadRequest that names the field."""
    if not isinstance(body, dict):
        raise BadRequest("The body has to be a JSON object.")
    said = {key: value for key, value in body.items() if not (value is None or key in SAYS_WHO_ASKS)}
    for key in [key for key in said if key in NEUTRAL and key not in kind.model_fields]:
        if said.pop(key) not in NEUTRAL[key]:
            raise BadRequest(
                f"{key} is not supported here, and would be ignored.", param=key, code="unsupported_parameter"
            )
    for key in said:
        if key not in kind.model_fields:
            nearest = did_you_mean(key, kind.model_fields)
            raise BadRequest(
                f"{key} is no parameter that has an effect here{nearest}", param=key, code="unknown_parameter"
            )
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(
            str(part) for part in first["loc"] if not str(part).startswith(("list[", "constrained", "function"))
        )
        param = str(first["loc"][0]) if first["loc"] else None
        why = first["msg"].removeprefix("Value error, ")
        raise BadRequest(f"{where}: {why}" if where else why, param=param) from None
