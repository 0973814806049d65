"""A policy as lm-eval asks it: base and adapter as they are, tokenizer and template as they were trained."""

from collections.abc import Iterator
from contextlib import contextmanager

from lm_eval.models.huggingface import HFLM

from pipeline.evaluate.generate import as_told
from pipeline.use.loaded import Policy


class Asked(HFLM):
    """lm-eval's model of transformers. It is used inside the policy's `acting`.

    Answers are written by what the task says and by nothing else: a repetition penalty that the base publishes in its
    generation config is left out, as it is in every held-out figure, where lm-eval's own command would apply it. They end at
    the stops that `align chat` ends at, and at those of the task. `cut` counts the prompts that were too long.
    """

    def __init__(self, policy: Policy, batch_size: int):
        self.stops, self.cut = sorted(policy.stops), 0
        with _as_tied(policy.model):
            super().__init__(
                pretrained=policy.model,
                backend="causal",
                tokenizer=policy.tokenizer,
                max_length=policy.context,
                batch_size=batch_size,
            )

    def _model_generate(self, context, max_length: int, stop: list[str], **told):
        told.setdefault("eos_token_id", self.stops)
        with as_told(self.model):
            return super()._model_generate(context, max_length, stop, **told)

    def tok_batch_encode(self, strings, padding_side="left", left_truncate_len=None, truncation=False):
        if left_truncate_len:
            self.cut += sum(len(self.tok_encode(one)) > left_truncate_len for one in strings)
        return super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)

    def _loglikelihood_tokens(self, requests, *args, **options):
        self.cut += sum(len(context) + len(answer) > self.max_length + 1 for _, context, answer in requests)
        return super()._loglikelihood_tokens(requests, *args, **options)

    def get_model_info(self) -> dict:
        return {}  # lm-eval would ask the hub for the commit of a model that is in memory


@contextmanager
def _as_tied(model) -> Iterator[None]:
    """lm-eval ties embeddings anew. They are as loaded, and an adapter of theirs would be left out by it."""
    model.tie_weights = lambda *_, **__: None
    try:
        yield
    finally:
        del model.tie_weights
