"""A model in one of its forms, as a proof asks it; here those that PyTorch runs."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import numpy
import torch
from peft import PeftModel
from transformers import GenerationConfig

from pipeline.data.tokens.template import Template
from pipeline.errors import PipelineError
from pipeline.evaluate import forward
from pipeline.evaluate.generate import as_told
from pipeline.use.loaded import device

BATCH = 16


class Form(Protocol):
    """What was trained, or an export of it. Every form has tokens, template and stop of its own."""

    runtime: str  # what runs it: "transformers 5.17.0"
    has_adapter: bool  # which can be left out

    @property
    def stops(self) -> set[int]:
        """The tokens at which it ends an answer by itself."""

    def render(self, messages: list[dict], tools: list[dict] | None) -> str | None:
        """The messages as its own template writes them, through the invitation; None where it has none."""

    def tokens(self, text: str) -> list[int]:
        """The text, whose special tokens are written out, as tokens."""

    def token(self, number: int) -> str:
        """The name of a token."""

    def text(self, ids: Sequence[int]) -> str:
        """Tokens as text, without the special ones."""

    def answers(self, prompts: Sequence[list[int]], count: int) -> list[list[int]]:
        """Greedy answers of at most `count` tokens, each through the stop at which it ends."""

    def log_probabilities(self, prompt: list[int], answer: list[int], *, adapter: bool = True) -> numpy.ndarray:
        """(tokens of the answer, vocabulary) float32: of the next token, before each of the answer's.

        Without its adapter where this is left out. NaN where the form does not say: its likeliest tokens are then known, and the rest only together.
        """

    def scores(self, rows: Sequence[list[int]]) -> list[float]:
        """Of a reward model: the score of each token sequence."""

    def close(self) -> None:
        """Give its memory back."""


class Words:
    """Template, tokens and stops of what has its tokenizer and its generation config beside its weights."""

    def __init__(self, tokenizer, generation_config: GenerationConfig | None):
        self.tokenizer, self._generation_config = tokenizer, generation_config

    @property
    def stops(self) -> set[int]:
        said = self._generation_config.eos_token_id if self._generation_config else None
        return set(said if isinstance(said, list) else [said]) - {None}

    def render(self, messages: list[dict], tools: list[dict] | None) -> str | None:
        if not self.tokenizer.chat_template:
            return None
        return Template(self.tokenizer).render(messages, ask=True, tools=tools)

    def tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def token(self, number: int) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(number))

    def text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


class TorchForm(Words):
    """A model of transformers with its tokenizer."""

    def __init__(self, model, tokenizer, stops: Collection[int] | None = None):
        """`stops` of what is trained: those at which `align chat` and `serve` end an answer."""
        import transformers

        super().__init__(tokenizer, model.generation_config if model.can_generate() else None)
        self._stops = stops
        self.model, self.has_adapter = model, isinstance(model, PeftModel)
        self.runtime = f"transformers {transformers.__version__} on {next(model.parameters()).device.type}"

    @property
    def stops(self) -> set[int]:
        return super().stops if self._stops is None else set(self._stops)

    def answers(self, prompts: Sequence[list[int]], count: int) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in prompts]
        pad = self.tokenizer.pad_token_id or 0
        greedy = GenerationConfig(
            do_sample=False, max_new_tokens=count, eos_token_id=sorted(self.stops) or None, pad_token_id=pad
        )
        for batch in _alike(prompts):
            inputs = torch.tensor([prompts[number] for number in batch], device=self.model.device)
            with torch.no_grad(), as_told(self.model):
                output = self.model.generate(
                    input_ids=inputs, attention_mask=torch.ones_like(inputs), generation_config=greedy
                )
            for number, tokens in zip(batch, output[:, inputs.shape[1] :].tolist(), strict=True):
                found[number] = through_stop(tokens, self.stops)
        return found

    def log_probabilities(self, prompt: list[int], answer: list[int], *, adapter: bool = True) -> numpy.ndarray:
        ids = torch.tensor([[*prompt, *answer]], device=self.model.device)
        with torch.no_grad(), nullcontext() if adapter else self.model.disable_adapter():
            logits = self.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        return logits.float().log_softmax(-1).cpu().numpy()

    def scores(self, rows: Sequence[list[int]]) -> list[float]:
        with torch.no_grad():
            return forward.scores(self.model, rows, self.tokenizer.pad_token_id)

    def close(self) -> None:
        self.model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _alike(prompts: Sequence[list[int]]) -> Iterator[list[int]]:
    """Numbers of prompts of one length: padding moves numbers about, and with a sliding window more than these."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, ids in enumerate(prompts):
        by_length[len(ids)].append(number)
    for numbers in by_length.values():
        yield from (numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH))


def through_stop(tokens: list[int], stops: set[int]) -> list[int]:
    """Up to and with the first stop."""
    end = next((number for number, token in enumerate(tokens) if token in stops), len(tokens))
    return tokens[: end + 1]


def merged_form(folder: Path, head: str, dtype: str) -> TorchForm:
    """A plain folder as whoever is given it loads it. Raises PipelineError where tensors are missing or have no place."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    factory = AutoModelForSequenceClassification if head == "score" else AutoModelForCausalLM
    model, found = factory.from_pretrained(
        folder, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True
    )
    wrong = [*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]]
    if wrong:
        raise PipelineError(f"{folder}: {len(wrong)} tensors are missing or have no place, the first: {wrong[0]}.")
    return TorchForm(model.to(device()).eval(), AutoTokenizer.from_pretrained(folder))
