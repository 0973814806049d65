"""A prompt that is run once for both answers: the same losses, gradients and weights, or a reason why not."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import align, attempt, manifest
from datasets import Dataset
from stage_runs import adapter_of, without_clock
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from pipeline.errors import PipelineError
from pipeline.train.loop.shared_prompt import fit
from pipeline.train.loop.shared_prompt.forward import OneSequence, ScoredSequence, answers_alone
from pipeline.train.loop.shared_prompt.layout import SHARED, Collator, allowed, laid_out

ON = "stages.dpo.share_prompt=true"
LONG = {"prompt_ids": list(range(9, 20)), "chosen_ids": [30, 31, 32], "rejected_ids": [40, 41, 42, 43, 44, 45]}
SHORT = {"prompt_ids": [7, 8], "chosen_ids": [33, 34, 35, 36], "rejected_ids": [46]}
ARGUMENTS = SimpleNamespace(
    use_liger_kernel=False,
    torch_compile=False,
    max_length=None,
    router_aux_loss_coef=None,
    neftune_noise_alpha=None,
    disable_dropout=True,
    device=torch.device("cpu"),
)


def tiny(kind: str, attention: str = "sdpa", made_by=AutoModelForCausalLM, **more):
    names = {"gpt2": ("n_embd", "n_layer", "n_head"), "bloom": ("hidden_size", "n_layer", "n_head")}
    size, layers, heads = names.get(kind, ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    shape = {size: 32, layers: 2, heads: 4, "vocab_size": 96}
    torch.manual_seed(1)
    made = made_by.from_config(
        AutoConfig.for_model(kind, **shape | more), attn_implementation=attention, dtype=torch.float32
    )
    for parameter in made.parameters():  # else what stands far apart is hardly told apart
        parameter.data *= 4
    return made


def moved(model) -> None:
    """The policy, somewhere else than its reference."""
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)


def found(trainer, batch: dict) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.model.train().zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}


def test_answers_do_not_see_each_other_and_go_on_from_the_prompt():
    shared = laid_out([SHORT, LONG], 0, multiple=8)
    assert shared["input_ids"].shape == (2, 24)
    assert shared["input_ids"][0, :7].tolist() == [7, 8, 33, 34, 35, 36, 46]
    assert shared["position_ids"][0, :7].tolist() == [0, 1, 2, 3, 4, 5, 2]
    seen = allowed(shared["sides"])[0, 0]
    assert seen[6].nonzero().flatten().tolist() == [0, 1, 6]
    assert seen[5].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert seen.any(1).all()  # a row of nothing is no number
    # Row by row what the trainer asks of an answer: its tokens, and of which place each is foretold.
    assert shared["answer_ids"][2, :2].tolist() == [8, 46] and shared["places"][2, :2].tolist() == [1, 6]
    assert shared["answer_mask"].sum(1).tolist() == [4, 3, 1, 6]


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(
    "losses",
    [
        "train.loss_type=sigmoid",
        "train.loss_type=ipo",
        "train.loss_type=[sigmoid,sft,aot]",
        "train.loss_type=sigmoid_norm",
        "train.use_weighting=true",
        "train.ld_alpha=0.5",
    ],
)
def test_losses_and_gradients_are_those_of_two_rows(stage_of, losses, method):
    full = ("stages.dpo.policy=pretrain", "stages.dpo.adapter.method=full") if method == "full" else ()
    stage = stage_of("dpo", ON, f"stages.dpo.{losses}", *full)
    trainer = stage.trainer(stage.models.at_the_start())
    moved(trainer.model)
    rows = [dict(row) for row in trainer.train_dataset.select(range(3))]
    rows[0]["prompt_ids"] = rows[0]["prompt_ids"][-3:]
    rows[1]["chosen_ids"] = rows[1]["chosen_ids"][:-3]
    rows[2]["rejected_ids"] = rows[2]["rejected_ids"][-1:]
    batch = trainer.data_collator(rows)
    assert SHARED in batch
    loss, gradients = found(trainer, batch)
    expected, those = found(trainer, {name: value for name, value in batch.items() if name != SHARED})
    assert loss == pytest.approx(expected, abs=1e-5)
    assert gradients.keys() == those.keys() and gradients
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, those[name], atol=1e-5), name
    # The reference's sums are there, too, whichever way they are asked for.
    rows = [{k: v for k, v in row.items() if not k.startswith("ref_")} for row in rows]
    trainer.ref_model = trainer.model
    asked = trainer.data_collator(rows)
    with torch.no_grad():
        ours, plain = (
            torch.stack(trainer.compute_ref_log_probs(trainer.model, one))
            for one in (asked, {k: v for k, v in asked.items() if k != SHARED})
        )
    assert torch.allclose(ours, plain, atol=1e-4)
    figures = {name: said for name, said in trainer._metrics["train"].items() if name != "num_tokens"}  # a running sum
    for name, (ours, plain) in figures.items():
        assert ours == pytest.approx(plain, abs=1e-4), name


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", ["true", "false"])
def test_scores_and_gradients_are_those_of_two_rows(stage_of, method, checkpointing):
    full = ("stages.reward.policy=pretrain", "stages.reward.adapter.method=full") if method == "full" else ()
    checkpoints = f"stages.reward.train.gradient_checkpointing={checkpointing}"
    stage = stage_of("reward", "stages.reward.share_prompt=true", checkpoints, *full)
    trainer = stage.trainer(stage.models.at_the_start())
    plainly = stage_of("reward", "stages.reward.share_prompt=false", *full)
    plain = plainly.trainer(plainly.models.at_the_start())
    assert trainer.lengths == plain.lengths  # else the rows would come in another order
    moved(trainer.model)
    rows = [dict(row) for row in trainer.train_dataset.select(range(3))]
    rows[1]["chosen_ids"] = rows[1]["chosen_ids"][:-3]
    rows[2]["rejected_ids"] = rows[2]["rejected_ids"][: rows[2]["prompt_tokens"] + 1]
    batch = trainer.data_collator(rows)
    assert {name: value.tolist() for name, value in plain.data_collator(rows).items()} == {
        name: value.tolist() for name, value in batch.items() if name != SHARED
    }
    loss, gradients = found(trainer, dict(batch))
    expected, those = found(trainer, {name: value for name, value in batch.items() if name != SHARED})
    assert loss == pytest.approx(expected, abs=1e-6)
    assert gradients.keys() == those.keys() and gradients
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, those[name], atol=1e-5), name
    for name, said in trainer._metrics["train"].items():
        if name != "num_tokens":
            assert said[0] == pytest.approx(said[1], abs=1e-5), name


def test_a_stage_learns_the_same_by_either_way(built):
    """Weights, figures, counted tokens; and the reference's sums are kept for each way by itself."""
    runs = {}
    for way in ("true", "false"):
        sets = (f"share_prompt={way}", "train.gradient_checkpointing=true")
        sets = [word for one in sets for word in ("--set", f"stages.dpo.{one}")]
        align("run", "dpo", "-r", "micro.yaml", *sets, "--fresh", cwd=built)
        runs[way] = (manifest(built, "dpo"), adapter_of(built, "dpo"), log(built), said(built))
    (one, weights, lines, log_of_one), (two, others, plain, log_of_two) = runs["true"], runs["false"]
    assert one["fingerprint"] == two["fingerprint"] and one["tokens"] == two["tokens"]
    assert "share_prompt: yes: each prompt is run once: " in log_of_one
    assert "share_prompt" not in log_of_two
    for name, weight in weights.items():
        assert torch.allclose(weight, others[name], atol=1e-5), name
    for ours, theirs in zip(lines, plain, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert len(list(built.rglob("reference-*.safetensors"))) == 2


def log(folder) -> list[dict]:
    lines = (attempt(folder, "dpo") / "log.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in line.items() if isinstance(value, int | float)}
        for line in without_clock([json.loads(line) for line in lines])
    ]


def said(folder) -> str:
    return (attempt(folder, "dpo") / "stage.log").read_text()


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(("llama", "sdpa", {"num_key_value_heads": 2}), id="gqa"),
        pytest.param(("llama", "eager", {"num_key_value_heads": 4}), id="eager"),
        pytest.param(("gpt2", "sdpa", {}), id="learned-positions"),
        pytest.param(("gemma2", "eager", {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 64}), id="window"),
    ],
)
def test_models_answer_alike(model):
    kind, attention, more = model
    made = tiny(kind, attention, **more).eval()
    assert fit.obstacle(made, ARGUMENTS, longest=17) is None
    OneSequence.put_on(made)
    batch = Collator(lambda rows: {}, pad=0)([LONG, SHORT])
    inputs = answers_alone(batch)
    with torch.no_grad():
        logits = made(use_cache=False, **{SHARED: inputs[SHARED]}).logits
        for n, (row, side) in enumerate((r, s) for s in ("chosen_ids", "rejected_ids") for r in (LONG, SHORT)):
            alone = made(input_ids=torch.tensor([row["prompt_ids"] + row[side]]), use_cache=False).logits[0]
            answer = len(row[side]) + 1
            assert torch.allclose(logits[n, :answer], alone[-answer:], atol=1e-5)


@pytest.mark.parametrize("model", [("llama", {"num_key_value_heads": 2}), ("gpt2", {})], ids=lambda model: model[0])
def test_score_models_score_alike(model):
    kind, more = model
    made = tiny(kind, made_by=AutoModelForSequenceClassification, num_labels=1, pad_token_id=0, **more).eval()
    assert fit.obstacle(made, ARGUMENTS, longest=17) is None
    ScoredSequence.put_on(made)
    rows = [row["prompt_ids"] + row[side] for side in ("chosen_ids", "rejected_ids") for row in (LONG, SHORT)]
    padded = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, rows)), batch_first=True)
    shared = laid_out([LONG, SHORT], 0)
    with torch.no_grad():
        scores = made(input_ids=padded, **{SHARED: shared}).logits
        alone = torch.cat([made(input_ids=torch.tensor([row])).logits for row in rows])
    assert torch.allclose(scores, alone, atol=1e-5) and alone.std() > 0.01


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (("mistral", "sdpa", {"sliding_window": 12, "num_key_value_heads": 2}), "layers see 12 tokens at most"),
        (("mamba", "eager", {}), "pass on a state"),
        (("bloom", "eager", {}), "does not keep the answers apart|no mask and positions"),
    ],
)
def test_models_that_would_answer_otherwise_are_found(model, reason):
    kind, attention, more = model
    if kind == "mamba":
        more = {"state_size": 4}
    assert re.search(reason, fit.obstacle(tiny(kind, attention, **more), ARGUMENTS, longest=17))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_liger_kernel": True}, "use_liger_kernel"),
        ({"torch_compile": True}, "torch_compile"),
        ({"neftune_noise_alpha": 5.0}, "noise"),
        ({"max_length": 16}, "longer than"),
    ],
)
def test_arguments_that_would_change_it_are_found(changes, reason):
    arguments = SimpleNamespace(**vars(ARGUMENTS) | changes)
    assert reason in fit.obstacle(tiny("llama"), arguments, longest=17)


def test_attention_without_masks_and_dropout_are_found():
    model = tiny("llama")
    model.config._attn_implementation = "flash_attention_2"
    assert "takes no mask" in fit.obstacle(model, ARGUMENTS, longest=17)
    dropped = tiny("llama", attention_dropout=0.1)
    assert "dropout" in fit.obstacle(dropped, ARGUMENTS, longest=17)


def test_asked_for_it_is_done_or_refused_and_by_itself_only_where_it_pays(capsys):
    model = tiny("llama")
    little = Dataset.from_list([{"prompt_ids": [5], "chosen_ids": [6] * 30, "rejected_ids": [7] * 30}])
    much = Dataset.from_list([LONG])
    assert fit.choose("auto", model, ARGUMENTS, much).on
    assert "35% fewer tokens" in capsys.readouterr().out
    assert not fit.choose("auto", model, ARGUMENTS, little).on
    assert "it would not pay: about 99% of the arithmetic" in capsys.readouterr().out
    assert fit.choose(True, model, ARGUMENTS, little).on
    assert not fit.choose(False, model, ARGUMENTS, much).on
    liger = SimpleNamespace(**vars(ARGUMENTS) | {"use_liger_kernel": True})
    assert not fit.choose("auto", model, liger, much).on
    with pytest.raises(PipelineError, match=r"share_prompt: true cannot be done here: train\.use_liger_kernel"):
        fit.choose(True, model, liger, much)


def test_only_a_stage_that_can_takes_the_key(problems):
    from conftest import RECIPE

    text = RECIPE.replace("  sft: {data", "  sft: {share_prompt: true, data")
    assert any("share_prompt" in one and "dpo" in one for one in problems(text))
