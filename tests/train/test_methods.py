"""The methods beside DPO and PPO: their losses, their reference, their tokens, and their resume."""

import json
import math
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from conftest import align, attempt, manifest, write_micro, write_rows
from processes import start, wait_for, wait_until_gone
from stage_runs import silent, stage_run, without_clock
from torch.nn.functional import logsigmoid

from pipeline.data.prepare.table import tokens
from pipeline.data.tokens.encoder import IGNORED
from pipeline.errors import MachineError, PipelineError
from pipeline.evaluate.forward import log_probabilities, precision_of
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.reading import load_recipe

METHODS = ("kto", "orpo", "simpo")
STAGES = "".join(
    f"  {name}: {{data: {{path: {rows}.jsonl, held_out: 0.2}}}}\n"
    for name, rows in (("kto", "labeled"), ("orpo", "pairs"), ("simpo", "pairs"))
)


def write_methods(folder: Path, chain: Path) -> None:
    """The micro recipe with these stages, on the micro chain's SFT."""
    recipe = write_micro(folder)
    recipe.write_text(recipe.read_text().replace("  ppo:\n", f"{STAGES}  ppo:\n"))
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    labeled = [
        {"prompt": row["prompt"], "completion": row["chosen" if n % 3 else "rejected"], "label": bool(n % 3)}
        for n, row in enumerate(pairs)
    ]
    write_rows(folder / "labeled.jsonl", labeled)
    for parent in ("pretrain", "sft"):
        shutil.copytree(chain / "runs/micro" / parent, folder / "runs/micro" / parent, symlinks=True)


@pytest.fixture(scope="module")
def methods(chain, tmp_path_factory) -> Path:
    """A folder in which each of the methods has been run."""
    folder = tmp_path_factory.mktemp("methods")
    write_methods(folder, chain)
    align("run", *METHODS, "-r", "micro.yaml", cwd=folder)
    return folder


@pytest.fixture
def stage_of(methods, tmp_path, monkeypatch):
    """A stage as its process would set it up, without running it."""
    monkeypatch.chdir(methods)

    def prepare(name: str, *overrides: str, said: list | None = None):
        report = (lambda kind, **fields: said.append((kind, fields))) if said is not None else silent
        return stage_run("micro.yaml", name, *overrides, folder=tmp_path, report=report)

    return prepare


def first_batch(trainer, rows: int = 4) -> dict:
    return trainer.data_collator([trainer.train_dataset[number] for number in range(rows)])


def loss_of(trainer, batch: dict) -> float:
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, dict(batch)))


def sums(model, rows: list[dict], side: str, prompt: str = "prompt_ids") -> torch.Tensor:
    """Log-probabilities of the answers, by the evaluation's code and not the trainer's."""
    sequences = [(row[prompt] + row[side], [IGNORED] * len(row[prompt]) + row[side]) for row in rows]
    with torch.no_grad():
        return torch.tensor(log_probabilities(model, sequences, 3)[0], dtype=torch.float64)


# -- the reference ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "first"), [("dpo", math.log(2)), ("kto", 0.5)])
def test_training_starts_where_the_policy_is_its_reference(stage_of, stage, first):
    trainer = stage_of(stage).trainer(stage_of(stage).models.at_the_start())
    assert loss_of(trainer, first_batch(trainer)) == pytest.approx(first, abs=1e-6)


@pytest.mark.parametrize("tuned", ["adapter", "all weights"])
@pytest.mark.parametrize(
    ("stage", "columns"), [("dpo", {"chosen_ids": "ref_chosen_logps"}), ("kto", {"completion_ids": "ref_logps"})]
)
def test_what_the_reference_says_is_computed_once_and_kept(stage_of, methods, stage, columns, tuned):
    whole = (
        ()
        if tuned == "adapter"
        else (f"stages.{stage}.policy={attempt(methods, 'pretrain')}", "adapter={method: full}")
    )
    run = stage_of(stage, *whole)
    model = run.models.at_the_start()
    rows = list(tokens(run.rows.prepared.trained))
    expected = {name: sums(model.eval(), rows, side) for side, name in columns.items()}
    trainer = run.trainer(model.train())
    for name, values in expected.items():
        assert trainer.train_dataset[name] == pytest.approx(values.tolist(), abs=1e-4)
    assert trainer.ref_model is None and "ref" not in getattr(model, "peft_config", {})
    said = []
    again = stage_of(stage, *whole, f"stages.{stage}.train={{beta: 0.3, learning_rate: 1e-4}}", said=said)
    assert "what its reference says of the rows is kept" in again.step.why
    found = again.trainer(again.models.at_the_start()).train_dataset
    assert all(found[name] == trainer.train_dataset[name] for name in columns.values())
    assert not [fields for kind, fields in said if kind == "phase" and fields["name"] == "reference"]


@pytest.mark.parametrize(
    ("stage", "columns"), [("dpo", {"chosen_ids": "ref_chosen_logps"}), ("kto", {"completion_ids": "ref_logps"})]
)
def test_in_half_precision_what_it_says_is_no_coarser_than_what_is_trained(stage_of, methods, stage, columns):
    """Sums in bf16 would be in steps of a quarter of a nat at 40."""
    run = stage_of(stage, "model.dtype=bfloat16", f"stages.{stage}.policy={attempt(methods, 'sft')}")
    model = run.models.at_the_start()
    rows = list(tokens(run.rows.prepared.trained))
    with precision_of(model):
        expected = {name: sums(model.eval(), rows, side) for side, name in columns.items()}
    trainer = run.trainer(model.train())
    for name, values in expected.items():
        assert trainer.train_dataset[name] == pytest.approx(values.tolist(), abs=1e-2)


def test_kept_or_not_the_training_is_the_same(stage_of):
    ends = []
    for kept in (True, False):
        run = stage_of(
            "dpo", f"stages.dpo.train.precompute_ref_log_probs={str(kept).lower()}", "stages.dpo.train.max_steps=12"
        )
        trainer = run.trainer(run.models.at_the_start())
        trainer.args.output_dir = str(run.folder / str(kept))
        trainer.train()
        ends.append([p.clone() for n, p in trainer.model.named_parameters() if ".default." in n])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*ends, strict=True))


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_a_reference_that_is_not_the_parent_stops_the_stage_before_its_first_step(stage_of, stage):
    run = stage_of(stage, f"stages.{stage}.train.learning_rate=1e-5")
    trainer = run.trainer(run.models.at_the_start())
    before = [p.clone() for p in trainer.model.parameters() if p.requires_grad]
    with torch.no_grad():  # as if the reference had been another adapter
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter += 0.05
    moved = [p.clone() for p in trainer.model.parameters() if p.requires_grad]
    with pytest.raises(MachineError, match="reference is not the policy"):
        trainer.train()
    assert before and all(
        torch.equal(p, q)
        for p, q in zip(moved, (p for p in trainer.model.parameters() if p.requires_grad), strict=True)
    )


# -- the losses ------------------------------------------------------------------------------------------------------


def odds(mean: torch.Tensor) -> torch.Tensor:
    return mean - torch.log1p(-torch.exp(mean))


def test_orpo_is_the_likelihood_of_the_chosen_and_the_odds_ratio(stage_of):
    run = stage_of("orpo")
    model = run.models.at_the_start()
    trainer, rows = run.trainer(model), list(tokens(run.rows.prepared.trained))[:2]
    lengths = {side: torch.tensor([len(row[side]) for row in rows]) for side in ("chosen_ids", "rejected_ids")}
    means = {side: sums(model.eval(), rows, side) / count for side, count in lengths.items()}
    whole = [(row["prompt_ids"] + row["chosen_ids"],) * 2 for row in rows]
    with torch.no_grad():
        told, counts = log_probabilities(model, whole, 3)
    likelihood = -sum(told) / sum(counts)  # of prompt and answer, as in the paper
    expected = likelihood - 0.1 * logsigmoid(odds(means["chosen_ids"]) - odds(means["rejected_ids"])).mean()
    assert loss_of(trainer, first_batch(trainer, 2)) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("loss", ["simpo", "sigmoid"])
def test_simpo_and_cpo(stage_of, loss):
    run = stage_of(
        "simpo", *(() if loss == "simpo" else ("stages.simpo.train={loss_type: sigmoid, cpo_alpha: 1.0, beta: 0.1}",))
    )
    model = run.models.at_the_start()
    trainer, rows = run.trainer(model), list(tokens(run.rows.prepared.trained))[:2]
    chosen, rejected = (sums(model.eval(), rows, side) for side in ("chosen_ids", "rejected_ids"))
    lengths = [torch.tensor([len(row[side]) for row in rows]) for side in ("chosen_ids", "rejected_ids")]
    if loss == "simpo":
        expected = -logsigmoid(2.0 * (chosen / lengths[0] - rejected / lengths[1]) - 0.5).mean()
    else:
        expected = -logsigmoid(0.1 * (chosen - rejected)).mean() - chosen.sum() / lengths[0].sum()
    assert loss_of(trainer, first_batch(trainer, 2)) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("stage", METHODS)
def test_what_is_trained_are_the_tokens_of_the_account(stage_of, stage):
    run = stage_of(stage)
    trainer, rows = run.trainer(run.models.at_the_start()), list(tokens(run.rows.prepared.trained))[:4]
    batch = first_batch(trainer)
    sides = {"kto": {"": "completion_ids"}}.get(stage, {"chosen_": "chosen_ids", "rejected_": "rejected_ids"})
    for prefix, column in sides.items():
        for ids, mask, row in zip(batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"], rows, strict=True):
            assert ids[mask.bool()].tolist() == row["prompt_ids"] + row[column]


def test_kto_holds_each_answer_against_one_to_another_prompt(stage_of):
    run = stage_of("kto")
    trainer, rows = run.trainer(run.models.at_the_start()), list(tokens(run.rows.prepared.trained))
    found = trainer.train_dataset["KL_completion_ids"]
    assert [list(one) for one in found[:3]] == [rows[number]["completion_ids"] for number in (-1, 0, 1)]
    assert trainer.train_dataset["label"] == [row["label"] for row in rows]


# What each loss of DPO is for two pairs, from (policy - reference) of the chosen and the rejected answer, in nats.
def dpo_losses(chosen, rejected, lengths, beta=0.1, smoothing=0.1):
    margin = chosen - rejected
    means = [side / count for side, count in zip((chosen, rejected), lengths, strict=True)]
    h = beta * margin
    q = torch.sigmoid(h)
    target = torch.tensor([1 - smoothing, smoothing], dtype=torch.float64).log()
    ranked = beta * (chosen.sort()[0] - rejected.sort()[0])
    running = beta * torch.cat([chosen, rejected]).mean()
    log_ratio = beta * margin / 0.05
    gate = torch.sigmoid(log_ratio)
    return {
        "sigmoid": -(1 - smoothing) * logsigmoid(h) - smoothing * logsigmoid(-h),
        "hinge": torch.relu(1 - h),
        "ipo": (means[0] - means[1] - 1 / (2 * beta)) ** 2,
        "exo_pair": q * (logsigmoid(h) - target[0]) + (1 - q) * (logsigmoid(-h) - target[1]),
        "nca_pair": -logsigmoid(beta * chosen) - 0.5 * logsigmoid(-beta * chosen) - 0.5 * logsigmoid(-beta * rejected),
        "robust": ((1 - smoothing) * -logsigmoid(h) + smoothing * logsigmoid(-h)) / (1 - 2 * smoothing),
        "bco_pair": -logsigmoid(beta * chosen - running) - logsigmoid(-(beta * rejected - running)),
        "sppo_hard": (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2,
        "aot": -(1 - smoothing) * logsigmoid(beta * margin.sort()[0])
        - smoothing * logsigmoid(-beta * margin.sort()[0]),
        "aot_unpaired": -(1 - smoothing) * logsigmoid(ranked) - smoothing * logsigmoid(-ranked),
        "apo_zero": (1 - torch.sigmoid(beta * chosen)) + torch.sigmoid(beta * rejected),
        "apo_down": torch.sigmoid(beta * chosen) + (1 - torch.sigmoid(h)),
        "discopop": -logsigmoid(h) * (1 - gate) + torch.exp(-h) * gate,
        "sigmoid_norm": -logsigmoid(beta * (means[0] - means[1])),
    }


@pytest.mark.parametrize("loss", [*dpo_losses(*torch.ones(2, 2), torch.ones(2, 2)), "sft", "two"])
def test_every_loss_of_dpo_is_its_formula(stage_of, loss):
    smooth = "label_smoothing: 0.1, " if loss in ("exo_pair", "robust") else ""
    types = "loss_type: [hinge, sft], loss_weights: [0.5, 2.0]" if loss == "two" else f"loss_type: [{loss}]"
    run = stage_of("dpo", f"stages.dpo.train={{{smooth}{types}}}")
    model = run.models.at_the_start()
    trainer, rows = run.trainer(model), list(tokens(run.rows.prepared.trained))[:2]
    with torch.no_grad():  # away from the reference, where most losses are the same
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    sides = ("chosen_ids", "rejected_ids")
    kept = [torch.tensor(trainer.train_dataset[f"ref_{side[:-4]}_logps"][:2], dtype=torch.float64) for side in sides]
    now = [sums(model.eval(), rows, side) for side in sides]
    lengths = [torch.tensor([len(row[side]) for row in rows]) for side in sides]
    chosen, rejected = (one - other for one, other in zip(now, kept, strict=True))
    formulas = dpo_losses(chosen, rejected, lengths, smoothing=0.1 if smooth else 0.0)
    formulas["sft"] = -now[0].sum() / lengths[0].sum()
    formulas["two"] = 0.5 * formulas["hinge"].mean() + 2.0 * formulas["sft"]
    assert loss_of(trainer, first_batch(trainer, 2)) == pytest.approx(float(formulas[loss].mean()), abs=2e-4)


# -- the rows --------------------------------------------------------------------------------------------------------


def test_pairs_are_taken_apart_when_asked_and_else_refused(methods, stage_of):
    run = stage_of("kto", "stages.kto.data={path: pairs.jsonl, shape: pairs, held_out: 0}")
    made = run.rows.prepared
    pairs = [json.loads(line) for line in (methods / "pairs.jsonl").read_text().splitlines()]
    assert made.account.summary()["read"] == made.account.trained == 2 * len(pairs)
    found = [(one.prompt, one.answer["content"], one.label) for one in made.examples(made.trained)]
    assert found[:2] == [(pairs[0]["prompt"], pairs[0][side], side == "chosen") for side in ("chosen", "rejected")]
    with pytest.raises(PipelineError, match=r"two labeled answers with data\.shape: pairs"):
        stage_of("kto", "stages.kto.data.path=pairs.jsonl").rows.prepared  # noqa: B018


def test_labels_of_one_kind_and_rows_without_any_are_refused(methods, stage_of, tmp_path):
    rows = [json.loads(line) for line in (methods / "labeled.jsonl").read_text().splitlines()]
    write_rows(tmp_path / "good.jsonl", [row for row in rows if row["label"]])
    with pytest.raises(PipelineError, match="the label of every row to train on is True"):
        stage_of("kto", f"stages.kto.data.path={tmp_path / 'good.jsonl'}").rows.prepared  # noqa: B018
    with pytest.raises(PipelineError, match=r"chat.jsonl:1 has no label"):
        stage_of("kto", "stages.kto.data.path=chat.jsonl").rows.prepared  # noqa: B018


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (1.0, "33 answers are wanted and 12 not: train.desirable_weight 0.36 would weigh them alike"),
        (0.4, "33 answers are wanted and 12 not"),
    ],
)
def test_the_balance_of_labels_is_told_and_mended_where_it_is_off(stage_of, weight, words):
    said = []
    run = stage_of("kto", f"stages.kto.train.desirable_weight={weight}", said=said)
    run.trainer(run.models.at_the_start())
    assert words in [fields["text"] for kind, fields in said if kind == "note"]


def test_kto_needs_batches_in_which_there_is_another_answer():
    with pytest.raises(RecipeError, match="must be at least 2 in kto"):
        load_recipe("recipes/tiny.yaml", ["stages={kto: {data: {path: a}, train: {per_device_train_batch_size: 1}}}"])


# -- the chain -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", METHODS)
def test_each_moves_a_copy_of_the_adapter_before_it(methods, stage):
    said = manifest(methods, stage)
    assert said["parents"]["policy"]["sha256"] == manifest(methods, "sft")["weights_sha256"] != said["weights_sha256"]
    assert said["metrics"]["after"]["preference_accuracy"] >= 0 and said["tokens"] > 0


@pytest.mark.parametrize("stage", METHODS)
def test_killed_between_checkpoints(methods, chain, tmp_path, stage):
    write_methods(tmp_path, chain)
    process = start(tmp_path, stage)
    wait_for(tmp_path, f"{stage}/*/checkpoints/checkpoint-4", process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until_gone(tmp_path)
    assert "continue" in align("run", stage, "-r", "micro.yaml", cwd=tmp_path).stdout
    for key in ("tokens", "weights_sha256", "metrics"):
        assert manifest(tmp_path, stage)[key] == manifest(methods, stage)[key]


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", *METHODS])
def test_a_resumed_run_has_the_log_of_one_that_never_stopped(stage_of, tmp_path, stage):
    """From between two lines, the next of which is of all its steps; and from the last step, in the middle of a pass."""
    ends = []
    for step in (0, 8, 10):
        run = stage_of(stage, f"stages.{stage}.train={{logging_steps: 3, max_steps: 10, lr_scheduler_type: constant}}")
        trainer = run.trainer(run.models.at_the_start())
        trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoints/checkpoint-{step}") if step else None)
        lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
        weights = {name: one.clone() for name, one in trainer.model.named_parameters() if one.requires_grad}
        ends.append((without_clock(lines), weights, trainer.tokens))
    lines, weights, tokens = ends[0]
    assert [line["step"] for line in lines] == [3, 6, 9, 10, 10]
    assert "loss" in lines[2] and "train_loss" in lines[-1]
    for found in ends[1:]:
        assert found[0] == lines and found[2] == tokens
        assert all(torch.equal(found[1][name], weight) for name, weight in weights.items())
