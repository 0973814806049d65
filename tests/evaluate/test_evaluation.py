"""Held-out figures: the same rows and the same code before, in between and after, with their number beside them."""

import json
import math

import pytest
import torch
from conftest import ALL, align, manifest, write_micro
from stage_runs import adapter_of, trainer_of

from pipeline.data.tokens.encoded import IGNORED
from pipeline.errors import PipelineError
from pipeline.evaluate import forward


def test_a_row_whose_logits_are_many_is_judged_by_pieces_to_the_bit(stage_of, monkeypatch):
    model = stage_of("sft").models.at_the_start().eval()
    rows = [(list(range(3, 40)), [IGNORED] * 5 + list(range(8, 40))), (list(range(3, 12)), list(range(3, 12)))]
    with torch.no_grad():
        whole = forward.log_probabilities(model, rows, 3, 1)
        monkeypatch.setattr(forward, "LOGITS_BYTES", 1000)
        assert forward.log_probabilities(model, rows, 3, 1) == whole


def test_metrics_state_their_n_and_the_manifest_says_what_ran(chain):
    for stage in ("pretrain", "sft", "reward", "dpo"):
        said = manifest(chain, stage)
        assert said["metrics"]["before"]["n"] == said["metrics"]["after"]["n"] > 0
        assert said["run"]["backend"] == "transformers" and said["versions"]["trl"]
    assert manifest(chain, "dpo")["metrics"]["before"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert {"exact_match", "nearest_question"} <= set(manifest(chain, "sft")["metrics"]["after"])


@pytest.mark.parametrize("name", ["sft", "reward", "dpo"])
def test_held_out_figures_in_between_are_those_of_the_report_and_change_nothing(stage_of, chain, name, tmp_path):

    said = []
    often = f"stages.{name}.train={{eval_strategy: steps, eval_steps: 4}}"
    stage = stage_of(name, often, report=lambda kind, **fields: said.append((kind, fields)))
    trainer, _ = trainer_of(stage)
    before = stage.measuring.before(trainer.model)
    trainer.train()
    after = stage.measuring.evaluation.run(trainer.model, before).metrics
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = [{key: value for key, value in line.items() if key.startswith("eval_")} for line in lines]
    found = [one for one in found if one]
    assert found[-1] == {f"eval_{key}": value for key, value in after.items()} and len(found) == 3
    assert [fields["step"] for kind, fields in said if kind == "evaluated"] == [4, 8, 12]
    assert after == manifest(chain, name)["metrics"]["after"]
    weights = {n.replace(".default", ""): p for n, p in trainer.model.named_parameters()}
    assert all(torch.equal(weights[n], tensor) for n, tensor in adapter_of(chain, name).items() if n in weights)


def test_evaluating_without_held_out_rows_is_said_and_left_out(tmp_path):
    write_micro(tmp_path)
    said = align(
        *("run", "pretrain", "-r", "micro.yaml", "--set", "stages.pretrain.data.held_out=0"),
        *("--set", "train.eval_strategy=steps", "--set", "train.max_steps=2"),
        cwd=tmp_path,
    ).stdout
    assert "eval_strategy has nothing to do: no row is held out" in said and "trained to step 2" in said


def test_a_pattern_that_finds_no_answer_at_all_is_a_mistake_and_no_full_score(stage_of):
    stage = stage_of("sft", "evaluation.answer_pattern=<nowhere>(.*)")
    with pytest.raises(PipelineError, match="finds no answer in any of the 8 held-out rows"):
        stage.measuring.evaluation.run(stage.models.at_the_start())


def test_the_same_evaluation_again_finds_the_same_figures(built):
    before = {stage: manifest(built, stage)["metrics"] for stage in ALL}
    align("run", "-r", "micro.yaml", "--set", "evaluation.max_rows=4", cwd=built)
    align("run", "-r", "micro.yaml", cwd=built)
    for stage in ALL:
        for when in ("before", "after"):
            assert manifest(built, stage)["metrics"][when] == pytest.approx(before[stage][when], abs=1e-6)
