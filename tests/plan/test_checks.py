"""What a plan looks at before anything is trained: files, options on them, trackers."""

from pathlib import Path

import pytest
from conftest import refused, write_micro

from pipeline.errors import PipelineError
from pipeline.plan import checks, trackers
from pipeline.plan.planner import Planner
from pipeline.plan.step import UP_TO_DATE
from pipeline.recipe import effect
from pipeline.recipe.fields import effective
from pipeline.recipe.reading import load_recipe
from pipeline.use.subject import find, last_policy


def test_a_tracker_that_is_not_installed_is_noted_in_the_plan_and_stops_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = load_recipe(write_micro(tmp_path), ["train.report_to=clearml"])
    steps = Planner(loaded, tmp_path / "runs").plan(["sft"])
    assert "train.report_to: clearml is not installed, and a run stops there" in steps[-1].notes
    with pytest.raises(PipelineError, match=r"(?s)sft: train.report_to: clearml is not installed.*pip install clearml"):
        checks.trackers_ready(loaded, steps)
    assert "clearml is not installed" in refused(
        tmp_path, "run", "sft", "-r", "micro.yaml", "--set", "train.report_to=clearml"
    )
    assert not list((tmp_path / "runs").glob("*/sft"))


def test_what_trains_nothing_needs_no_tracker(chain, monkeypatch):
    """A stage is out of date, and the recipe's tracker cannot log: what is finished can still be asked for."""
    monkeypatch.chdir(chain)
    loaded = load_recipe("micro.yaml", ["train.report_to=clearml", "stages.dpo.train.beta=0.9"])
    steps = {step.stage: step.state for step in Planner(loaded, chain / "runs").plan(list(loaded.stages))}
    assert steps["dpo"] == "run" and find("sft", loaded, chain / "runs").name == "sft"
    assert last_policy(loaded, chain / "runs") != "dpo"


def test_packages_that_are_not_installed_are_noted_together(micro, monkeypatch):
    monkeypatch.chdir(micro)
    monkeypatch.setattr(checks, "find_spec", lambda module: None)
    recipe = load_recipe("micro.yaml", ["stages.sft.train.use_liger_kernel=true"])
    (step,) = Planner(recipe, Path("runs")).plan(["sft"])[-1:]
    assert "train.use_liger_kernel: the package liger-kernel is not installed, and the run needs it" in step.notes


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (
            "adapter={target_modules: [q_proj, q_porj]}",
            "adapter.target_modules: q_porj is no module of the model; did you mean",
        ),
        (
            "adapter={target_modules: [q_proj], layers_to_transform: [0, 2]}",
            "layers_to_transform: the model has no layer 2",
        ),
        ("adapter={method: freeze, layers: 99}", "adapter.layers: the model has no 99 layers"),
    ],
)
def test_what_the_model_has_not_is_told_before_it_is_loaded(micro, monkeypatch, own, said):
    monkeypatch.chdir(micro)
    with pytest.raises(PipelineError, match=said):
        Planner(load_recipe("micro.yaml", [own]), Path("runs")).plan(["sft"])


def test_weights_of_float16_are_not_trained_themselves(micro, monkeypatch):
    monkeypatch.chdir(micro)
    Planner(load_recipe("micro.yaml", ["model.dtype=bfloat16"]), Path("runs")).plan(["pretrain"])
    with pytest.raises(PipelineError, match="float16 is too coarse for that"):
        Planner(load_recipe("micro.yaml", ["model.dtype=float16"]), Path("runs")).plan(["pretrain"])


def test_a_tracker_is_no_matter_where_nothing_is_to_be_trained(chain, monkeypatch):
    monkeypatch.chdir(chain)
    steps = Planner(load_recipe("micro.yaml", ["train.report_to=clearml"]), chain / "runs").plan(["dpo"])
    assert {step.state for step in steps} == {UP_TO_DATE}


def test_a_misspelt_tracker_is_a_mistake():
    ((what, _),) = trackers.missing("sft", ["tensorbord"])
    assert "did you mean tensorboard?" in what
    assert not list(trackers.missing("sft", "none"))


def test_all_trackers_are_not_asked_for_by_a_word():
    ((what, fix),) = trackers.missing("sft", "all")
    assert "whatever is installed" in what and "Name the trackers" in fix


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "has no key for "),
        ({"WANDB_MODE": "disabled"}, "does nothing: W&B is switched off"),
        ({"WANDB_API_KEY": "short"}, "cannot log: WANDB_API_KEY invalid"),
        ({"WANDB_API_KEY": "k" * 40}, None),
        ({"WANDB_MODE": "offline"}, None),
    ],
)
def test_wandb_has_to_be_able_to_log(monkeypatch, tmp_path, settings, said):
    import wandb

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_ERROR_REPORTING"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    wandb.teardown()  # it has read its settings before
    found = list(trackers.missing("sft", ["wandb"]))
    wandb.teardown()
    assert [what.startswith(f"sft: train.report_to: wandb {said}") for what, _ in found] == [True] * (said is not None)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("stages.sft.data.separator=xyz", "data.separator: chat.jsonl: only plain texts"),
        ("stages.sft.data.revision=v1", "data.revision: chat.jsonl: only data sets of the hub"),
    ],
)
def test_what_cannot_take_effect_on_a_file_is_refused(tmp_path, monkeypatch, option, said):
    monkeypatch.chdir(tmp_path)
    loaded = load_recipe(write_micro(tmp_path), [option])
    with pytest.raises(PipelineError, match=said):
        Planner(loaded, tmp_path / "runs").plan(["sft"])


def test_a_separator_takes_effect_where_one_of_the_files_is_a_plain_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = write_micro(tmp_path)
    Path("corpus.txt").write_text("one\n%%\ntwo\n")
    data = "{path: corpus.txt, separator: '%%', held_out: text.jsonl}"
    (step,) = Planner(load_recipe(recipe, [f"stages.pretrain.data={data}"]), tmp_path / "runs").plan(["pretrain"])
    assert step.state == "run"


def test_missing_files_of_all_stages_at_once(micro):
    (micro / "chat.jsonl").unlink()
    (micro / "pairs.jsonl").unlink()
    said = refused(micro, "run", "-r", "micro.yaml")
    assert "chat.jsonl: no such file" in said and "pairs.jsonl: no such file" in said
    assert not (micro / "runs").exists()


def test_of_what_says_how_long_ppo_trains_the_other_is_noted(micro, monkeypatch):
    monkeypatch.chdir(micro)

    def notes(*options: str) -> list[str]:
        recipe = load_recipe("micro.yaml", [f"stages.ppo.train.{option}" for option in options])
        values = effective("PPOConfig", recipe.stage("ppo").train)
        return [note for note in effect.notes(values, recipe.stage("ppo").train) if "how long" in note]

    # A rollout is of 8 episodes, and 4 steps.
    assert notes("total_episodes=64") == ["max_steps: 12 says how long it trains, and total_episodes does not"]
    assert notes("total_episodes=16") == ["total_episodes: 16 says how long it trains, and max_steps does not"]
    assert notes("total_episodes=24") == notes("total_episodes=16", "max_steps=-1") == []


@pytest.mark.parametrize("method", ["full", "freeze"])
def test_where_all_is_trained_what_needs_roles_is_refused_before_any_stage_is_trained(micro, monkeypatch, method):
    monkeypatch.chdir(micro)
    recipe = load_recipe("micro.yaml", [f"adapter={{method: {method}}}"])
    with pytest.raises(PipelineError, match=f"ppo: adapter.method {method}: its roles share one frozen base"):
        Planner(recipe, Path("runs")).plan(["sft", "ppo"])
    Planner(recipe, Path("runs")).plan(["sft", "dpo"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), ()),
        (
            ("stages.pretrain.train.warmup_steps=12",),
            ("warmup_steps: 12, and there are 12 steps: learning_rate is not reached",),
        ),
        (("stages.pretrain.train.warmup_steps=0.9",), ()),
        (("train.num_train_epochs=2",), ("max_steps: 12 says how long it trains, and num_train_epochs does not",)),
        (("train.num_train_epochs=2", "stages.pretrain.train.max_steps=-1"), ()),
        (
            ("model.dtype=bfloat16", "model.attn_implementation=flash_attention_2"),
            ("model.attn_implementation: flash_attention_2 needs a GPU, and there is none here",),
        ),
    ],
)
def test_what_is_no_reason_to_stop_is_a_note(micro, monkeypatch, options, said):
    monkeypatch.chdir(micro)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (step,) = Planner(load_recipe("micro.yaml", options), Path("runs")).plan(["pretrain"])
    assert step.notes == said and step.to_json()["notes"] == list(said)
