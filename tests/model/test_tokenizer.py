"""The chain's tokenizer: its template, its pad token."""

import pytest
from small_models import tokenizer

from pipeline.errors import PipelineError
from pipeline.model.tokenizer import prepare


@pytest.mark.parametrize("wanted", ["<pad>", "PAD", None])
def test_a_pad_token_that_is_new_gets_a_row_of_its_own(read, wanted):
    """Not that of <unk>, which a tokenizer says for what it has not: padding is masked, and <unk> is learned."""
    said = f"  pad_token: '{wanted}'\n" if wanted else ""
    recipe = f"model:\n  id: m\n  template: plain\n{said}stages: {{sft: {{data: {{path: c}}}}}}\n"
    bare = tokenizer()
    before = len(bare)
    prepared = prepare(bare, read(recipe))
    pad = prepared.tokenizer.pad_token
    assert prepared.tokenizer.pad_token_id == prepared.tokenizer.convert_tokens_to_ids(pad)
    if pad in prepared.new_tokens:
        assert prepared.tokenizer.pad_token_id == before == len(prepared.tokenizer) - 1
    assert pad == wanted or (wanted is None and pad != prepared.tokenizer.eos_token)


def test_a_pad_token_that_ends_answers_is_told_with_its_line_and_what_would_be_taken(read):
    recipe = "model:\n  id: m\n  template: chatml\n  pad_token: '{}'\nstages: {{sft: {{data: {{path: c}}}}}}\n"
    with pytest.raises(PipelineError) as refused:
        prepare(tokenizer(), read(recipe.format("<|im_end|>")))
    assert refused.value.what.startswith("my.yaml:4: model.pad_token: <|im_end|> ends answers; as padding it would be")
    assert refused.value.fix == "Leave it out (<pad> is taken then), or name another token."
    assert prepare(tokenizer(), read(recipe.format("<unk>"))).tokenizer.pad_token == "<unk>"
