"""Where a field takes effect: what the recipe's tables say of it is what the pinned libraries do."""

import importlib.metadata
import inspect
import json
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import write_rows
from rollouts import write_rollouts
from stage_runs import stage_run
from transformers import Trainer, get_scheduler, trainer_optimizer
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
from transformers.trainer_callback import DefaultFlowCallback, TrainerControl

from pipeline.data.prepare.table import tokens
from pipeline.data.tokens.encoder import IGNORED
from pipeline.errors import PipelineError
from pipeline.recipe.clashes import OPTIM_ARGS, SCHEDULE_ARGS
from pipeline.recipe.effect import NEVER, idle
from pipeline.recipe.fields import COMMON, HOW, effective, fields_of
from pipeline.recipe.owned import ACCEPTED_ONCE, OWNED
from pipeline.stage import specs
from pipeline.train.loop import arguments
from pipeline.train.loop.context import Context

LOSSES = fields_of("DPOConfig")["loss_type"].choices
# A value of each field that says what is trained and is read by every stage that has it, and what has to stand beside it.
OTHERS = {
    "num_train_epochs": (1, {"max_steps": -1, "per_device_train_batch_size": 32}),
    "max_steps": (2, {}),
    "learning_rate": (1e-3, {}),
    "lr_scheduler_type": ("cosine", {}),
    "lr_scheduler_kwargs": ({"num_cycles": 3}, {"lr_scheduler_type": "cosine"}),
    "warmup_steps": (2, {}),
    "optim": ("sgd", {}),
    "optim_args": ("momentum=0.9", {"optim": "sgd"}),
    "weight_decay": (0.5, {}),
    "adam_beta1": (0.5, {}),
    "adam_beta2": (0.5, {}),
    "adam_epsilon": (0.1, {}),
    "max_grad_norm": (1e-4, {}),
    "label_smoothing_factor": (0.3, {}),
    "neftune_noise_alpha": (5, {}),
    "dataloader_drop_last": (True, {"max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 32}),
    "train_sampling_strategy": ("sequential", {}),
    "max_length": (20, {}),
    "packing": (True, {}),
    "center_rewards_coefficient": (0.5, {}),
    "loss_weights": ([1.0, 0.1], {"loss_type": ["sigmoid", "hinge"]}),
    "ld_alpha": (0.5, {}),
    "f_divergence_type": ("forward_kl", {}),
    "f_alpha_divergence_coef": (0.9, {"f_divergence_type": "alpha_divergence"}),
    "label_smoothing": (0.2, {"loss_type": ["robust"]}),
    "beta": (0.3, {}),
    "use_weighting": (True, {}),
    "discopop_tau": (0.5, {"loss_type": ["discopop"]}),
    "value_learning_rate": (1e-4, {}),
    "response_length": (4, {}),
    "temperature": (0.5, {}),
    "total_episodes": (16, {"max_steps": -1}),
    "num_ppo_epochs": (1, {}),
    "num_mini_batches": (1, {}),
    "local_rollout_forward_batch_size": (2, {}),
    "kl_coef": (0.9, {}),
    "kl_estimator": ("k3", {}),
    "kl_target": (0.001, {}),
    "kl_horizon": (10, {"kl_target": 0.001}),
    "gamma": (0.5, {}),
    "lam": (0.5, {}),
    "cliprange": (1e-4, {}),
    "cliprange_value": (1e-4, {}),
    "vf_coef": (0.9, {}),
    "value_warmup_steps": (1, {}),
    "whiten_rewards": (True, {}),
    "whiten_advantages": (False, {}),
    "missing_eos_penalty": (1.0, {}),
    "reward_clip": (0.01, {}),
    "normalize_reward": (True, {}),
    "desirable_weight": (1.5, {}),
    "undesirable_weight": (1.5, {}),
    "cpo_alpha": (0.5, {}),
    "simpo_gamma": (1.0, {}),
    "alpha": (0.5, {}),
    "num_generations": (4, {"num_generations": 2}),
    "max_completion_length": (4, {}),
    "shuffle_dataset": (False, {}),
    "steps_per_generation": (4, {"steps_per_generation": None}),
    "generation_batch_size": (16, {"steps_per_generation": None}),
    "top_p": (0.5, {}),
    "top_k": (3, {}),
    "min_p": (0.9, {}),
    "repetition_penalty": (5.0, {}),
    "num_iterations": (3, {"num_iterations": 1}),
    "epsilon": (0.001, {"num_iterations": 3}),
    "epsilon_high": (0.001, {"num_iterations": 3}),
    "delta": (1.0001, {"num_iterations": 3}),
    "off_policy_mask_threshold": (1e-4, {"num_iterations": 3}),
    "importance_sampling_level": ("sequence", {"num_iterations": 3}),
    "sapo_temperature_neg": (3.0, {"loss_type": "sapo", "num_iterations": 3}),
    "sapo_temperature_pos": (3.0, {"loss_type": "sapo", "num_iterations": 3}),
    "vespo_k_pos": (1.0, {"loss_type": "vespo", "num_iterations": 3}),
    "vespo_lambda_pos": (1.0, {"loss_type": "vespo", "num_iterations": 3}),
    "vespo_k_neg": (1.0, {"loss_type": "vespo", "num_iterations": 3}),
    "vespo_lambda_neg": (1.0, {"loss_type": "vespo", "num_iterations": 3}),
    "multi_objective_aggregation": ("normalize_then_sum", {}),
    "scale_rewards": ("none", {}),
    "mask_truncated_completions": (True, {}),
    "top_entropy_quantile": (0.5, {}),
    "entropy_coef": (0.3, {}),
    "use_bias_correction_kl": (False, {"num_iterations": 3, "beta": 0.1}),
    "normalize_advantages": (True, {}),
    "reward_clip_range": ([-0.01, 0.01], {}),
}
SIMPO = {"label_smoothing": (0.2, {})}  # whose own loss reads it
ELSEWHERE = {
    "loss_type",  # its words are looked at one by one
    "disable_dropout",  # tests/train/test_chain.py
    "router_aux_loss_coef",  # of models with experts; for others it is refused by the trainer
    "kl_limit",  # when a warning is given
    "use_adaptive_entropy",  # seen in the logs: the coefficient moves a little with every rollout
    *"entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target".split(),
    *(name for name in fields_of("GRPOConfig") if name.startswith("vllm_")),  # of a package that needs a GPU
}


def takes_effect(config: str, key: str, **written: object) -> bool:
    """Whether the tables say so."""
    return idle(config, key, effective(config, written), written) is None


def choices_of(field: str) -> list[str]:
    """Those that a recipe may name."""
    known = fields_of("SFTConfig")[field]
    return [choice for choice in known.choices if not known.complaint(choice)]


def trained(stage, **given: object) -> tuple[list[float], torch.Tensor]:
    """(the losses, all trained weights) after three steps, or as many as `given` says."""
    stage.step.given.update({"max_steps": 3, "logging_steps": 1, "save_strategy": "no", "eval_strategy": "no"} | given)
    trainer = stage.trainer(stage.models.at_the_start())
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return losses, torch.cat([p.flatten() for p in trainer.model.parameters() if p.requires_grad])


@pytest.fixture(scope="module")
def folder(chain, tmp_path_factory) -> Path:
    """The micro recipe with every stage there is, on the micro chain's, and rewards that differ."""
    made = tmp_path_factory.mktemp("every")
    recipe = write_rollouts(made, chain)
    others = {"kto": "labeled", "orpo": "pairs", "simpo": "pairs"}
    text = re.sub(r"reward_functions: {.*}}", "reward_functions: {mine: score.py:score}", recipe.read_text())
    text += "".join(f"  {name}: {{data: {{path: {rows}.jsonl, held_out: 0.2}}}}\n" for name, rows in others.items())
    recipe.write_text(text)
    (made / "score.py").write_text(
        "def score(completions, **_): return [float(sum(map(ord, one)) % 7) for one in completions]\n"
    )
    asked = [json.loads(line) for line in (made / "chat.jsonl").read_text().splitlines()]
    write_rows(made / "labeled.jsonl", [row | {"label": number % 2 == 0} for number, row in enumerate(asked)])
    return made


@pytest.fixture
def stage_of(folder, tmp_path, monkeypatch):
    """A stage as its process would set it up, without running it."""
    monkeypatch.chdir(folder)
    return partial(stage_run, "micro.yaml", folder=tmp_path)


def apart(model) -> None:
    """Make of the policy another one than its reference."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".default." in name:
            parameter.data += 0.1 * torch.randn_like(parameter)


@pytest.fixture
def dpo(stage_of):
    """A DPO trainer whose policy has left its reference, and a batch."""
    stage = stage_of("dpo")
    stage.step.given["precompute_ref_log_probs"] = False
    trainer = stage.trainer(stage.models.at_the_start())
    apart(trainer.model)
    rows = [dict(row) for row in list(tokens(stage.rows.prepared.trained))[:4]]
    for number, row in enumerate(rows):  # of unequal lengths, for ld_alpha
        row["chosen_ids"] = row["chosen_ids"][: 2 + number]
    return trainer, trainer.data_collator(rows)


KEYS = {"beta": 0.3, "label_smoothing": 0.2, "discopop_tau": 0.5, "ld_alpha": 0.5, "f_alpha_divergence_coef": 0.8}


def test_what_a_loss_reads_is_what_the_table_says(dpo):
    trainer, batch = dpo

    def loss(names: list[str], **values: object) -> float:
        held = {"loss_types": names, "loss_weights": [1.0] * len(names), "label_smoothing": 0.1} | values
        for key, value in held.items():
            setattr(trainer.args if key == "discopop_tau" else trainer, key, value)
        with torch.no_grad():
            found = float(trainer.compute_loss(trainer.model, dict(batch)))
        for key, default in effective("DPOConfig", {}).items():  # for the next one
            if key in KEYS or key == "f_divergence_type":
                setattr(trainer.args if key == "discopop_tau" else trainer, key, default)
        return found

    wrong = []
    for name in LOSSES:
        for key, value in KEYS.items():
            read = loss([name], **{key: value}) != loss([name])
            if read != takes_effect("DPOConfig", key, loss_type=[name]):
                wrong.append(f"{key} with {name}: {'read' if read else 'not read'}")
    assert not wrong
    alpha = {"f_divergence_type": "alpha_divergence"}
    assert loss(["sigmoid"], **alpha, f_alpha_divergence_coef=0.8) != loss(["sigmoid"], **alpha)
    assert takes_effect("DPOConfig", "f_alpha_divergence_coef", **alpha)
    assert loss(["sigmoid", "hinge"], loss_weights=[1.0, 0.5]) != loss(["sigmoid", "hinge"])
    assert loss(["sigmoid"], loss_weights=[0.5]) == pytest.approx(loss(["sigmoid"]) / 2)  # that is a learning rate
    assert takes_effect("DPOConfig", "loss_weights", loss_type=["sigmoid", "hinge"])
    assert not takes_effect("DPOConfig", "loss_weights", loss_type=["sigmoid"])


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("simpo", {"beta": 0.3, "label_smoothing": 0.2, "simpo_gamma": 1.0, "cpo_alpha": 0.5, "alpha": 0.1}),
        ("kto", {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 1.5}),
    ],
)
def test_what_a_loss_of_another_method_reads_is_what_the_table_says(stage_of, name, keys):
    stage, config = stage_of(name), specs()[name].config
    if "precompute_ref_log_probs" in fields_of(config):
        stage.step.given["precompute_ref_log_probs"] = False
    trainer = stage.trainer(stage.models.at_the_start())
    apart(trainer.model)
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(4)])
    # The pairs the other way: a margin as wide as theirs is where the hinge is flat, and nothing moves it.
    sides = {"chosen": "rejected", "rejected": "chosen"}
    batch = {key.replace(side := key.partition("_")[0], sides.get(side, side)): value for key, value in batch.items()}
    plain, wrong = {key: getattr(trainer, key) for key in keys}, []

    def loss(**values: object) -> float:
        for key, value in (plain | values).items():
            setattr(trainer, key, value)
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model, dict(batch)))

    for word in fields_of(config)["loss_type"].choices:
        if word == "alphapo":  # SimPO's with cpo_alpha 0, as the config itself says
            made = arguments.built(
                specs()[name],
                {"loss_type": word, "cpo_alpha": 0.5},
                seed=0,
                dtype="float32",
                folder=stage.folder,
                config={},
            )
            assert (made.loss_type, made.cpo_alpha) == ("simpo", 0.0)
            assert not takes_effect(config, "cpo_alpha", loss_type=word)
            continue
        trainer.loss_type = word
        for key, value in keys.items():
            read = loss(**{key: value}) != loss()
            if read != takes_effect(config, key, loss_type=word):
                wrong.append(f"{key} with {word}: {'read' if read else 'not read'}")
    assert not wrong


@pytest.mark.parametrize("key, value", [("f_divergence_type", "forward_kl"), ("use_weighting", True)])
def test_what_a_loss_refuses_is_what_the_table_says(stage_of, key, value):
    stage = stage_of("dpo")
    for name in ("sigmoid", "hinge", "ipo", "nca_pair", "aot", "aot_unpaired", "apo_zero", "sppo_hard"):
        stage.step.given.update({"loss_type": [name], key: value})
        if takes_effect("DPOConfig", key, loss_type=[name]):
            assert stage.trainer(stage.models.at_the_start())
        else:
            with pytest.raises(PipelineError, match="train: DPOTrainer refuses it: "):
                stage.trainer(stage.models.at_the_start())


def test_a_smoothed_loss_is_the_formulas_and_needs_no_other_key(stage_of):
    stage = stage_of("sft", "stages.sft.train.label_smoothing_factor=0.3")
    trainer = stage.trainer(stage.models.at_the_start())
    batch = trainer.data_collator(list(tokens(stage.rows.prepared.trained))[:4])
    with torch.no_grad():
        found = float(trainer.compute_loss(trainer.model, dict(batch)))
        logits = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    chances, learned = logits.log_softmax(-1), labels != IGNORED
    right = chances.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    assert found == pytest.approx(float(-(0.7 * right + 0.3 * chances.mean(-1))[learned].mean()), abs=1e-5)
    assert takes_effect("SFTConfig", "label_smoothing_factor")
    assert not takes_effect("SFTConfig", "label_smoothing_factor", loss_type="dft")
    stage.step.given["loss_type"] = "dft"
    smoothed, plain = trained(stage), stage.step.given.pop("label_smoothing_factor") and trained(stage)
    assert smoothed[0] == plain[0]


def test_the_loss_is_one_that_reads_what_is_trained_whatever_the_recipe_says_of_it(stage_of, monkeypatch):
    stage = stage_of("sft")
    stage.step.given["loss_type"] = None  # as `recipe show` prints it
    monkeypatch.setattr(Context, "_head_is_adapted", lambda context: True)
    assert stage.trainer(stage.models.at_the_start()).args.loss_type == "nll"
    stage.step.given["loss_type"] = "chunked_nll"
    with pytest.raises(PipelineError, match=r"train\.loss_type: chunked_nll goes round"):
        stage.trainer(stage.models.at_the_start())


def test_a_warm_up_longer_than_the_run_is_said(stage_of):
    said = []
    stage = stage_of("sft", report=lambda kind, **fields: said.append(fields.get("text")))
    trained(stage, warmup_steps=10, max_steps=-1, num_train_epochs=0.25)  # of max_steps the plan says it
    assert "train.warmup_steps: 10, and there are 3 steps: learning_rate is not reached" in said
    said.clear()
    trained(stage, warmup_steps=2)
    assert not any("warmup_steps" in text for text in said if text)


def other(field, value: object) -> object:
    """Another value than its default, one that would be seen if it were read."""
    special = {
        "train_sampling_strategy": "sequential",
        "dataloader_multiprocessing_context": "spawn",
        "label_smoothing_factor": 0.3,
        "optim_target_modules": ["q_proj"],
    }
    if field in special:
        return special[field]
    return not value if isinstance(value, bool) else 2


def test_what_a_policy_reads_only_when_it_has_moved_on_from_its_responses(stage_of):
    """In a rollout's first step the ratio of new and old probabilities is 1, wherever it is bounded.

    A temperature that is no power of two would be read by the rounding alone.
    """
    once = {"num_iterations": 1, "steps_per_generation": None}

    def weights(**given: object) -> torch.Tensor:
        return trained(stage_of("grpo"), **once, **given)[1]

    plain = {"dapo": weights(), "sapo": weights(loss_type="sapo"), "cispo": weights(loss_type="cispo")}
    for key, value, loss in (
        ("epsilon", 0.001, "dapo"),
        ("epsilon_high", 0.001, "dapo"),
        ("delta", 1.0001, "dapo"),
        ("off_policy_mask_threshold", 1e-4, "dapo"),
        ("sapo_temperature_neg", 4.0, "sapo"),
        ("epsilon_high", 0.5, "cispo"),
    ):
        read = not torch.equal(weights(loss_type=loss, **{key: value}), plain[loss])
        assert read == takes_effect("GRPOConfig", key, loss_type=loss, **once), (key, loss)
    assert takes_effect("GRPOConfig", "epsilon", num_iterations=2)
    assert takes_effect("GRPOConfig", "epsilon", steps_per_generation=4)


SPOILING = {"neftune_noise_alpha"}  # it does take effect, which is why it is refused


@pytest.mark.parametrize(
    "name", [name for name, spec in specs().items() if NEVER.get(spec.config, {}).keys() - SPOILING]
)
def test_what_never_takes_effect_in_a_stage_changes_nothing(stage_of, name):
    config = specs()[name].config
    plain, stage = trained(stage_of(name)), stage_of(name)
    given = {key: other(key, fields_of(config)[key].default) for key in NEVER[config].keys() - SPOILING}
    stage.step.given.update(given)
    losses, weights = trained(stage)
    assert losses == plain[0] and torch.equal(weights, plain[1])


def test_what_no_stage_reads_changes_nothing(stage_of):
    plain, stage = trained(stage_of("sft")), stage_of("sft")
    names = "dataset_num_proc use_cache log_on_each_node log_level_replica save_on_each_node".split()
    names += [name for name in ACCEPTED_ONCE if name in fields_of("SFTConfig")]
    assert {*names} <= OWNED.keys()
    given = {name: other(name, fields_of("SFTConfig")[name].default) for name in names}
    stage.step.given.update(given | {"log_level_replica": "info"})
    losses, weights = trained(stage)
    assert losses == plain[0] and torch.equal(weights, plain[1])


def what_is_trained(config: str) -> list[str]:
    """The fields that say it, as far as a recipe may set them."""
    return [name for name in fields_of(config) if name not in HOW and name not in OWNED | NEVER.get(config, {})]


def test_every_field_that_says_what_is_trained_was_looked_at():
    for config in dict.fromkeys(spec.config for spec in specs().values()):
        missing = {*what_is_trained(config)} - OTHERS.keys() - ELSEWHERE
        assert not missing, (
            f"{config}: does its trainer read {missing}? Then give them a value in OTHERS; else see effect.py"
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, spec in specs().items() if spec.after])
def test_what_is_accepted_changes_what_is_trained(stage_of, name):
    config, ignored, found = specs()[name].config, [], {}
    steps = {"max_steps": 9} if name == "ppo" else {}  # in the first rollout the KL is 0
    for key in [key for key in what_is_trained(config) if key in OTHERS]:
        value, beside = (OTHERS | (SIMPO if config == "CPOConfig" else {}))[key]
        given = [f"stages.{name}.train.{one}={json.dumps(other)}" for one, other in (beside | {key: value}).items()]
        stage = stage_of(name, *given)
        if str(beside) not in found:
            found[str(beside)] = trained(stage_of(name), **steps | beside)[1]
        stage.rows.prepare()
        if torch.equal(trained(stage, **steps | beside | {key: value})[1], found[str(beside)]):
            ignored.append(key)
    assert ignored == []


@pytest.mark.parametrize("schedule", choices_of("lr_scheduler_type"))
def test_what_a_schedule_reads_is_what_the_table_says(schedule):
    needed = {"cosine_with_min_lr": {"min_lr": 0.0}, "cosine_warmup_with_min_lr": {"min_lr": 0.0}}
    needed["warmup_stable_decay"] = {"num_decay_steps": 2}

    def rates(warm_up: int, **more: object) -> list[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        given = (needed.get(schedule, {}) | more) or None
        found = get_scheduler(schedule, optimizer, warm_up, 10, scheduler_specific_kwargs=given)
        steps = []
        for _ in range(10):
            optimizer.step()
            found.step()
            steps.append(found.get_last_lr()[0])
        return steps

    assert (rates(5) != rates(1)) == takes_effect(COMMON, "warmup_steps", lr_scheduler_type=schedule)
    try:
        ignored = rates(1, no_such_argument=1) == rates(1)
    except TypeError:
        ignored = False
    assert ignored != takes_effect(COMMON, "lr_scheduler_kwargs", lr_scheduler_type=schedule)


def names_of_arguments() -> set[str]:
    """All that any optimizer of transformers' looks for in optim_args."""
    source = Path(trainer_optimizer.__file__).read_text()
    looked_for = r'optim_args\.(?:get|pop)\("(\w+)"|"(\w+)" in ctx\.optim_args'
    names = {name for found in re.findall(looked_for, source) for name in found if name}
    return names | {
        name for listed in re.findall(r"for key in \((.*?)\)", source) for name in re.findall(r"\w+", listed)
    }


ARGUMENTS = names_of_arguments()


@pytest.fixture
def every_optimizer(monkeypatch):
    """Stands for the packages of optimizers, whether they are installed or not: a class for each name."""

    class Any(SimpleNamespace):
        def __getattr__(self, name):
            return name

    for name in ("bitsandbytes.optim", "torchao.optim", "optimi"):
        monkeypatch.setitem(sys.modules, name, Any())
    for name in ("bitsandbytes", "torchao", "torch_optimi"):
        monkeypatch.setattr(trainer_optimizer, f"is_{name}_available", lambda: True)
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.18" if name == "torchao" else real(name))


@pytest.mark.parametrize("optimizer", choices_of("optim"))
def test_what_an_optimizer_reads_is_what_the_table_says(every_optimizer, tmp_path, optimizer):
    def chosen(**given: object) -> tuple:
        given = {"optim": optimizer, **given}
        made = arguments.built(specs()["sft"], given, seed=0, dtype="float32", folder=tmp_path, config={})
        return Trainer.get_optimizer_cls_and_kwargs(made)

    for key in ("adam_beta1", "adam_beta2", "adam_epsilon"):
        assert (chosen(**{key: 0.5}) != chosen()) == takes_effect(COMMON, key, optim=optimizer), key
    readable = {one.partition("=")[0] for one in OPTIM_ARGS.get(optimizer, "").split()}
    passed_through = optimizer.startswith("rmsprop_bnb")  # as text, on which bitsandbytes fails
    found = {name for name in ARGUMENTS if not passed_through and chosen(optim_args=f"{name}=1") != chosen()}
    assert found - {"weight_decay"} == readable  # which goes before it: every group of weights has train.weight_decay


@pytest.mark.parametrize("strategy", choices_of("save_strategy"))
def test_when_something_is_logged_measured_or_saved_is_what_the_table_says(strategy):
    """The steps of each are read under the strategy `steps` alone."""
    for what in ("logging", "eval", "save"):
        each = {f"{one}_strategy": "no" for one in ("logging", "eval", "save")} | {f"{what}_strategy": strategy}
        args = SimpleNamespace(logging_first_step=False, eval_delay=0, **each)
        state = SimpleNamespace(global_step=2, max_steps=9, logging_steps=2, eval_steps=2, save_steps=2, epoch=1)
        now = DefaultFlowCallback().on_step_end(args, state, TrainerControl())
        done = {"logging": now.should_log, "eval": now.should_evaluate, "save": now.should_save}[what]
        said = takes_effect("SFTConfig", f"{what}_steps", **{f"{what}_strategy": strategy})
        assert done == (strategy == "steps")
        assert said == done or strategy == "no"  # what is switched off on purpose is not argued with


def test_schedules_read_what_the_list_says():
    beside = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch", "kwargs"}
    for kind, schedule in TYPE_TO_SCHEDULER_FUNCTION.items():
        read = set(inspect.signature(schedule).parameters) - beside
        assert set(SCHEDULE_ARGS.get(kind.value, "").split()) == read, kind
