"""Packing: every row once and whole, and none sees another."""

import itertools

import pytest
import torch
from conftest import align, attempt, manifest, write_micro
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.errors import PipelineError
from pipeline.train.loop.packing import packed


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=100,
    )
    return LlamaForCausalLM(config)


def test_every_row_is_packed_once_and_whole(model):
    rows = [{"input_ids": list(range(5, 5 + n)), "labels": [n] * n} for n in (3, 9, 16, 1, 7, 12, 4)]
    packs = packed(Dataset.from_list(rows), 16, model)
    assert len(packs) < len(rows) and all(len(ids) <= 16 for ids in packs["input_ids"])
    found = []
    for pack in packs:
        at = 0
        for length in pack["seq_lengths"]:
            found.append((pack["input_ids"][at : at + length], pack["labels"][at : at + length]))
            at += length
    assert sorted(found) == sorted((row["input_ids"], row["labels"]) for row in rows)


def test_attention_that_lets_them_see_each_other_is_refused(model, monkeypatch):
    plain = model.forward

    def blind_to_positions(input_ids, position_ids=None, **options):
        return plain(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "forward", blind_to_positions)
    with pytest.raises(PipelineError, match="would see each other"):
        packed(Dataset.from_list([{"input_ids": [5, 6], "labels": [5, 6]}]), 16, model)


def test_a_packed_stage_sees_the_same_tokens_in_fewer_rows(chain, tmp_path):
    write_micro(tmp_path)
    once = ("--set", "stages.pretrain.train.max_steps=-1", "--set", "stages.pretrain.train.num_train_epochs=1")
    for runs, packing in (("plain", "false"), ("packed", "true")):
        switch = ("--set", f"stages.pretrain.train.packing={packing}")
        align("run", "pretrain", "-r", "micro.yaml", *once, *switch, "--runs", runs, cwd=tmp_path)
    plain, dense = manifest(tmp_path, "pretrain", "plain"), manifest(tmp_path, "pretrain", "packed")
    assert dense["tokens"] == plain["tokens"] and dense["steps"] < plain["steps"]
    assert dense["data"]["rows"] == plain["data"]["rows"]
    assert attempt(tmp_path, "pretrain", "plain").name != attempt(tmp_path, "pretrain", "packed").name
    assert dense["metrics"]["after"]["loss"] < dense["metrics"]["before"]["loss"]


def test_without_padding_the_same_is_learned(tmp_path):
    write_micro(tmp_path)
    for runs, free in (("padded", "false"), ("free", "true")):
        switch = ("--set", f"stages.sft.train.padding_free={free}")
        align("run", "sft", "-r", "micro.yaml", *switch, "--runs", runs, cwd=tmp_path)
    padded, free = manifest(tmp_path, "sft", "padded"), manifest(tmp_path, "sft", "free")
    assert free["tokens"] == padded["tokens"] and free["fingerprint"] == padded["fingerprint"]
    assert free["metrics"]["after"]["loss"] == pytest.approx(padded["metrics"]["after"]["loss"], abs=1e-5)
    assert free["metrics"]["after"]["loss"] < free["metrics"]["before"]["loss"]


@pytest.mark.parametrize("switch", ["packing", "padding_free"])
def test_the_log_says_what_was_found_and_not_what_might_be(stage_of, switch, capfd):
    """TRL suspects every attention but FlashAttention; here the model itself was asked."""
    stage = stage_of("sft", f"stages.sft.train.{switch}=true")
    trainer = stage.trainer(stage.models.at_the_start())
    said = "".join(capfd.readouterr())
    assert f"train.{switch}: looked into: rows in one sequence do not see each other" in said
    assert "Flash Attention" not in said
    batch = next(iter(trainer.get_train_dataloader()))
    ids, places = batch["input_ids"], batch["position_ids"]
    with torch.no_grad():
        together = trainer.model.eval()(input_ids=ids, position_ids=places, use_cache=False).logits[0]
        begins = [*(places[0] == 0).nonzero().flatten().tolist(), ids.shape[1]]
        assert len(begins) > 2
        for begin, end in itertools.pairwise(begins):
            alone = trainer.model(input_ids=ids[:, begin:end], use_cache=False).logits[0]
            assert torch.allclose(together[begin:end], alone, atol=1e-6)


def test_a_stage_that_cannot_do_without_padding_says_so(tmp_path):
    write_micro(tmp_path)
    done = align("plan", "-r", "micro.yaml", "--set", "stages.dpo.train.padding_free=true", cwd=tmp_path, check=False)
    assert done.returncode == 2 and "padding_free: unknown key; did you mean" in done.stderr + done.stdout
