"""What a model is asked to write depends on the call alone, and not on what its base was published with."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from pipeline.evaluate.generate import as_told, greedy
from pipeline.ppo.rollout import answer

SHAPE = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}
TOKENIZER = SimpleNamespace(eos_token_id=2, pad_token_id=0)
SETTINGS = SimpleNamespace(max_new_tokens=12, batch_size=2)
PROMPTS = [[5, 6, 7], [9, 10, 11, 12]]


@pytest.fixture(params=["a base", "an adapter on it"])
def model(request):
    set_seed(0)
    made = LlamaForCausalLM(LlamaConfig(**SHAPE))
    return made if request.param == "a base" else get_peft_model(made, LoraConfig(target_modules="all-linear"))


def published_with(model, **settings):
    for name, value in settings.items():
        setattr(model.generation_config, name, value)


def test_held_out_answers_are_not_bent_by_the_published_generation_config(model):
    plain = greedy(model, TOKENIZER, PROMPTS, SETTINGS)[1]
    published_with(model, repetition_penalty=5.0, no_repeat_ngram_size=1, suppress_tokens=plain[0][:1])
    ids = torch.tensor(PROMPTS[:1])
    bent = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
    assert bent[0, 3:].tolist() != plain[0]  # as transformers does by itself
    assert greedy(model, TOKENIZER, PROMPTS, SETTINGS)[1] == plain
    assert model.generation_config.repetition_penalty == 5.0  # which goes with the model when it is saved


def test_rollouts_are_sampled_from_the_policy_itself(model):
    def sampled():
        torch.manual_seed(1)
        return answer(model, PROMPTS, length=12, temperature=1.0, eos=2, pad=0, batch_size=2)

    plain = sampled()
    published_with(model, repetition_penalty=5.0, no_repeat_ngram_size=1, min_p=0.5)
    assert sampled() == plain


def test_the_config_comes_back_after_an_error(model):
    published_with(model, repetition_penalty=5.0)
    with pytest.raises(ZeroDivisionError), as_told(model):
        assert model.generation_config.repetition_penalty is None
        raise ZeroDivisionError
    assert model.generation_config.repetition_penalty == 5.0
