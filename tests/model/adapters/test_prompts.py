"""Virtual tokens: the same answers however they are asked for, files that plain PEFT reads, and stages that are exact."""

import math

import pytest
import torch
from conftest import attempt, refused
from peft import PeftModel
from safetensors.torch import load_file, save_file
from stage_runs import trainer_of
from transformers import AutoModelForCausalLM as Auto
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen3NextConfig

from pipeline.errors import PipelineError
from pipeline.model.adapter_tensors import load_adapter
from pipeline.model.adapters import METHODS
from pipeline.model.saving import save, save_weights

SETTINGS = {
    "prefix": {"method": "prefix"},
    "projected": {"method": "prefix", "prefix_projection": True},
    "prompt": {"method": "prompt"},
    "p_tuning": {"method": "p_tuning", "encoder_hidden_size": 16},
    "p_tuning by LSTM": {"method": "p_tuning", "encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 16},
}
NAMES = list(SETTINGS)
SHORT = ("adapter={method: prefix}", "train.max_length=44")  # 64 positions, less a prefix of 20
LLAMA = LlamaConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)


def base(config=LLAMA):
    torch.manual_seed(0)
    return Auto.from_config(config).eval()


def put_on(model, name: str, seed: int = 1, **more):
    """The base with an adapter of five virtual tokens that matter."""
    fields = SETTINGS[name] | {"num_virtual_tokens": 5} | more
    method = METHODS[fields.pop("method")]
    torch.manual_seed(seed)
    made = method.put_on(model, method.settings(fields, task_type="CAUSAL_LM")).eval()
    for parameter in made.prompt_encoder.parameters():
        parameter.data.mul_(1.5)
    return made


def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(a row, it among longer ones with padding on its left, their mask)"""
    torch.manual_seed(2)
    ids, longer = torch.randint(3, 50, (1, 9)), torch.randint(3, 50, (1, 13))
    padded = torch.cat([torch.cat([torch.zeros(1, 4, dtype=torch.long), ids], 1), longer])
    return ids, padded, torch.cat([(torch.arange(13) >= 4).long()[None], torch.ones(1, 13, dtype=torch.long)])


def answer(model, ids, mask=None, **more):
    mask = torch.ones_like(ids) if mask is None else mask
    asked = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None} | more
    return model.generate(input_ids=ids, attention_mask=mask, **asked)[:, ids.shape[1] :]


@torch.no_grad()
def one_by_one(model, ids):
    for _ in range(12):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    return ids[:, -12:]


CONFIGS = {
    "llama": LLAMA,
    "sliding": MistralConfig(
        **{
            key: getattr(LLAMA, key)
            for key in (
                "vocab_size",
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
            )
        },
        sliding_window=8,
    ),
    "learned positions": GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64),
}


SERVED = [
    (name, kind)
    for name, settings in SETTINGS.items()
    for kind in CONFIGS
    if kind != "sliding" or settings["method"] != "prefix"
]


@pytest.mark.parametrize(("name", "kind"), SERVED)
def test_padding_on_the_left_changes_nothing(name, kind):
    model, (ids, padded, mask) = put_on(base(CONFIGS[kind]), name), rows()
    with torch.no_grad():
        alone, among = model(input_ids=ids).logits, model(input_ids=padded, attention_mask=mask).logits[:1, 4:]
    torch.testing.assert_close(among, alone, atol=1e-6, rtol=0)
    expected = one_by_one(model, ids)
    assert torch.equal(answer(model, ids), expected)
    assert torch.equal(answer(model, padded, mask)[:1], expected)
    assert torch.equal(answer(model, padded, mask, use_cache=False)[:1], expected)


@pytest.mark.parametrize("name", NAMES)
def test_plain_peft_answers_alike_from_the_saved_folder(name, tmp_path):
    model, (ids, _, _) = put_on(base(), name), rows()
    save_weights(model, tmp_path)
    plain, again = PeftModel.from_pretrained(base(), tmp_path).eval(), put_on(base(), name, seed=3)
    load_adapter(again, tmp_path)
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        assert torch.equal(again(input_ids=ids).logits, logits)
        bare = base()(input_ids=ids).logits
        with model.disable_adapter():
            assert torch.equal(model(input_ids=ids).logits, bare)
        shown = plain(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert (logits - bare).abs().max() > 0.05
    torch.testing.assert_close(shown[:, -9:], logits, atol=1e-6, rtol=0)
    assert torch.equal(answer(plain, ids), answer(model, ids))


@pytest.mark.parametrize("name", NAMES)
def test_recomputing_activations_gives_the_same_gradients(name):
    model, (_, padded, mask) = put_on(base(), name), rows()
    found = []
    for recomputed in (False, True):
        model.train().zero_grad()
        if recomputed:
            model.base_model.gradient_checkpointing_enable({"use_reentrant": False})
        loss = model(input_ids=padded, attention_mask=mask, labels=padded).loss
        with torch.no_grad():  # as a reference would be run, between a policy's forward and its backward pass
            model(input_ids=padded[:, :3])
        loss.backward()
        found.append([one.grad.clone() for one in model.prompt_encoder.parameters()])
    assert any(one.abs().sum() > 0 for one in found[0])
    assert all(map(torch.equal, *found))
    assert all(one.grad is None for one in model.base_model.parameters())


def test_a_damaged_or_foreign_adapter_is_refused(tmp_path):
    model = put_on(base(), "projected")
    save_weights(model, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({"prompt_embeddings": tensors["prompt_embeddings"]}, file)
    with pytest.raises(PipelineError, match="what its virtual tokens are computed from"):
        load_adapter(model, tmp_path)
    save_file(tensors | {"prompt_encoder.embedding.weight": torch.zeros(3, 4)}, file)
    with pytest.raises(PipelineError, match="another base"):
        load_adapter(model, tmp_path)


def test_a_prompt_begins_with_a_text_of_the_stages_own_tokenizer(stage_of):
    text = "Which colour has it?"
    adapter = f"adapter={{method: prompt, num_virtual_tokens: 30, prompt_tuning_init: TEXT, prompt_tuning_init_text: '{text}'}}"
    stage = stage_of("sft", adapter, "stages.sft.train.max_length=32")  # 64 positions, less 30
    model, tokenizer = stage.models.at_the_start(), stage.rows.tokenizer.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    words = model.get_input_embeddings().weight[(ids * 30)[:30]]
    assert len(ids) < 30 and torch.equal(model.prompt_encoder["default"].embedding.weight, words)


def test_a_prefix_needs_layers_that_keep_every_key():
    small = Qwen3NextConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    )
    with pytest.raises(ValueError, match="some do not"):
        put_on(base(small), "prefix")
    with pytest.raises(ValueError, match="some do not"):
        put_on(base(CONFIGS["sliding"]), "prefix")


# -- the stages ------------------------------------------------------------------------------------------------------


def said(name: str) -> str:
    return "adapter=" + str(SETTINGS[name] | {"num_virtual_tokens": 4}).replace("True", "true")


@pytest.mark.parametrize("name", ["projected", "p_tuning by LSTM"])  # the others are with all methods
def test_a_stage_is_exact_and_what_it_makes_goes_on(name, stage_of, chain, tmp_path):
    stage = stage_of("sft", said(name), "stages.sft.train.learning_rate=0.1")
    trainer, _ = trainer_of(stage)
    weights = {key: value.clone() for key, value in trainer.model.named_parameters()}
    trainer.train()
    whole = {key: value.clone() for key, value in trainer.model.named_parameters()}
    moved = {key for key in whole if not torch.equal(whole[key], weights[key])}
    assert moved == {key for key in whole if key.startswith("prompt_encoder.default.")}
    resumed, _ = trainer_of(stage)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoints" / "checkpoint-8"))
    assert all(torch.equal(value, whole[key]) for key, value in resumed.model.named_parameters())

    save(trainer.model, stage.rows.tokenizer.tokenizer, tmp_path)
    pairs = f"dpo: {{data: {{path: pairs.jsonl}}, policy: {tmp_path / 'adapter'}}}"
    alone = f"model={{id: {attempt(chain, 'pretrain') / 'model'}}}", "stages={" + pairs + "}"
    for kept in ("true", "false"):  # the reference's log-probabilities ahead, or the reference beside
        dpo, _ = trainer_of(stage_of("dpo", *alone, f"stages.dpo.train.precompute_ref_log_probs={kept}"))
        dpo.model.eval()
        batch = dpo.data_collator([dpo.train_dataset[number] for number in range(4)])
        with torch.no_grad():
            assert abs(float(dpo.compute_loss(dpo.model, batch)) - math.log(2)) < 1e-6


@pytest.mark.parametrize(
    ("stage", "overrides", "expected"),
    [
        ("reward", [], "reward: a score head does not go with adapter.method prefix"),
        (
            "ppo",
            [
                "stages={pretrain: {data: {path: text.jsonl}}, sft: {data: {path: chat.jsonl}}, ppo: {data: {path: "
                "chat.jsonl}, reward_function: rewards.py:f}}"
            ],
            "several roles on one base does not go with",
        ),
        ("sft", ["stages.sft.train.packing=true"], "train.packing does not go with adapter.method prefix"),
        ("sft", ["train.gradient_checkpointing_kwargs={use_reentrant: true}"], "would not be given its prefix"),
        (
            "dpo",
            ["stages={pretrain: {data: {path: text.jsonl}}, dpo: {data: {path: pairs.jsonl}}}"],
            "new virtual tokens make another policy of the model from the start; train them in sft",
        ),
    ],
)
def test_what_cannot_be_right_is_refused_before_anything_is_loaded(micro, stage, overrides, expected):
    (micro / "rewards.py").write_text("def f(completions):\n    return [0.0 for _ in completions]\n")
    options = [part for override in (*SHORT, *overrides) for part in ("--set", override)]
    assert expected in refused(micro, "plan", stage, "-r", "micro.yaml", *options)
