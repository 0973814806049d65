"""Memory that runs out in a stage's process: it continues with fewer rows at a time, and learns the same."""

import json
from pathlib import Path

import pytest
import torch
from conftest import align, attempt, manifest, refused
from rollouts import write_rollouts
from stage_runs import adapter_of

from pipeline.recipe.sections import Evaluation
from pipeline.stage import specs
from pipeline.train.job.shrinking import Shrinking

# What each process of the run does first: a forward pass of too many rows fails as on a full GPU.
FULL = """
import torch
from transformers.models.llama.modeling_llama import LlamaModel

passes, forward = 0, LlamaModel.forward

def on_a_full_card(self, input_ids=None, **named):
    global passes
    learning = torch.is_grad_enabled()
    passes += learning
    fits = LEARNED if learning and passes > 6 else ROWS
    if input_ids.shape[0] > fits:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    return forward(self, input_ids=input_ids, **named)

LlamaModel.forward = on_a_full_card
"""


def card(learned: int, rows: int = 99) -> str:
    """Of a card on which so many rows fit: after a few passes of a process's training, and at all."""
    return f"LEARNED, ROWS = {learned}, {rows}\n{FULL}"


def run(folder: Path, *arguments: str, first: str) -> str:
    return " ".join(align("run", "-r", "micro.yaml", *arguments, "--fresh", cwd=folder, first=first).stdout.split())


def same(one: dict, other: dict) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-5) for name in other)


def test_training_goes_on_with_fewer_rows_at_a_time_and_learns_the_same(built):
    there = adapter_of(built, "sft")
    said = run(built, "sft", first=card(learned=2))
    assert "memory ran out (training): train.per_device_train_batch_size 4 -> 2, in as many passes" in said
    shrunk = manifest(built, "sft")["run"]["shrunk"]
    assert shrunk == [{"key": "train.per_device_train_batch_size", "from": 4, "to": 2, "while": "training"}]
    assert manifest(built, "sft")["steps"] == 12
    assert same(adapter_of(built, "sft"), there)
    lines = [json.loads(line) for line in (attempt(built, "sft") / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [4, 8, 12]


def test_evaluation_takes_fewer_rows_at_a_time(built):
    before = manifest(built, "sft")["metrics"]
    said = run(built, "sft", "--set", "evaluation.batch_size=2", first=card(learned=4, rows=4))
    assert "memory ran out (evaluation before): evaluation.batch_size 2 -> 1; it continues in a fresh process" in said
    after = manifest(built, "sft")["metrics"]
    assert after["after"]["loss"] == pytest.approx(before["after"]["loss"], abs=1e-5)
    assert manifest(built, "sft")["evaluation"]["settings"]["batch_size"] == 2


def test_a_single_row_that_does_not_fit_stops_it(built):
    said = refused(built, "run", "-r", "micro.yaml", "sft", "--fresh", code=1, first=card(learned=0))
    assert "4 -> 2" in said and "2 -> 1" in said
    assert "sft: memory ran out (training). Lower train.per_device_train_batch_size" in said


def test_stop_is_heard(built):
    wanted = ("--set", "on_out_of_memory=stop")
    said = refused(built, "run", "-r", "micro.yaml", "sft", "--fresh", *wanted, code=1, first=card(learned=2))
    assert "4 -> 2" not in said and "sft: memory ran out (training)." in said


def test_a_rollout_is_cut_anew(chain, tmp_path):
    write_rollouts(tmp_path, chain)
    align("run", "grpo", "-r", "micro.yaml", cwd=tmp_path)
    there = adapter_of(tmp_path, "grpo")
    said = run(tmp_path, "grpo", first=card(learned=2))
    assert "memory ran out (training): train.per_device_train_batch_size" in said
    assert same(adapter_of(tmp_path, "grpo"), there)


@pytest.mark.parametrize(
    ("config", "given"),
    [
        ("ORPOConfig", {}),
        ("DPOConfig", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.1]}),
        ("GRPOConfig", {"loss_type": "bnpo"}),
        ("SFTConfig", {"dataloader_drop_last": True}),
        ("KTOConfig", {}),
    ],
)
def test_a_step_whose_cut_counts_is_not_cut_anew(tmp_path, config, given):
    spec = next(one for one in specs().values() if one.config == config)
    shrinking = Shrinking(tmp_path, spec, {"per_device_train_batch_size": 8} | given, Evaluation())
    assert shrinking.shrink("training") is None
    assert "counts in this stage" in shrinking.advice("training")
    assert "evaluation.batch_size 32 -> 16" in shrinking.shrink("evaluation after")
