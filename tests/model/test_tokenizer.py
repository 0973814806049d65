"""The chain's tokenizer: its template, its pad token."""

import pytest
from small_models import tokenizer

from pipeline.errors import PipelineError
from pipeline.model.tokenizer import prepare


def test_a_pad_token_that_ends_answers_is_told_with_its_line_and_what_would_be_taken(read):
    recipe = "model:\n  id: m\n  template: chatml\n  pad_token: '{}'\nstages: {{sft: {{data: {{path: c}}}}}}\n"
    with pytest.raises(PipelineError) as refused:
        prepare(tokenizer(), read(recipe.format("<|im_end|>")))
    assert refused.value.what.startswith("my.yaml:4: model.pad_token: <|im_end|> ends answers; as padding it would be")
    assert refused.value.fix == "Leave it out (<pad> is taken then), or name another token."
    assert prepare(tokenizer(), read(recipe.format("<unk>"))).tokenizer.pad_token == "<unk>"
