"""What would stop a later stage is told before the first one trains."""

from collections import namedtuple

import pytest
import torch
from conftest import align, write_micro, write_rows

from pipeline.artifact.attempt import ROWS
from pipeline.errors import PipelineError
from pipeline.plan import trackers
from pipeline.plan.planner import Planner
from pipeline.plan.step import UP_TO_DATE
from pipeline.recipe.reading import load_recipe
from pipeline.stage import specs
from pipeline.train import arguments, room


@pytest.fixture
def broken(tmp_path):
    """A chain whose DPO rows and reward function are broken, those of SFT are not."""
    path = write_micro(tmp_path)
    write_rows(tmp_path / "pairs.jsonl", [{"prompt": "Which colour?", "chosen": "red"}] * 3)
    (tmp_path / "score.py").write_text("import not_there\n\n\ndef score(**rows): ...\n")
    return path


def test_all_that_is_wrong_later_is_told_at_once_and_nothing_is_trained(broken):
    arguments = ("run", "pretrain", "sft", "dpo", "ppo", "-r", "micro.yaml")
    ended = align(*arguments, "--set", "stages.ppo.reward_function=score.py:score", cwd=broken.parent, check=False)
    assert ended.returncode == 2
    assert "dpo: 3 of 3 rows cannot be trained on" in ended.stdout and "score.py:1: ModuleNotFound" in ended.stdout
    assert not [*broken.parent.rglob("checkpoint-*"), *broken.parent.rglob("manifest.json")]


def test_without_looking_ahead_the_first_stages_are_trained(broken):
    ended = align("run", "sft", "dpo", "-r", "micro.yaml", "--no-look-ahead", cwd=broken.parent, check=False)
    assert ended.returncode == 2 and "dpo: 3 of 3 rows" in ended.stdout
    assert {path.parent.parent.name for path in broken.parent.rglob("manifest.json")} == {"pretrain", "sft"}


def test_rows_prepared_ahead_are_those_that_the_stage_takes(chain):
    kept = [path for path in (chain / "runs" / ROWS).iterdir() if path.is_dir()]
    assert len(kept) == 5  # one a stage: none was prepared twice


def test_a_tracker_that_is_not_installed_is_told_in_the_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = load_recipe(write_micro(tmp_path), ["train.report_to=clearml"])
    with pytest.raises(PipelineError, match=r"(?s)sft: train.report_to: clearml is not installed.*pip install clearml"):
        Planner(loaded, tmp_path / "runs").plan(["sft"])


def test_a_tracker_is_no_matter_where_nothing_is_to_be_trained(chain, monkeypatch):
    monkeypatch.chdir(chain)
    steps = Planner(load_recipe("micro.yaml", ["train.report_to=clearml"]), chain / "runs").plan(["dpo"])
    assert {step.state for step in steps} == {UP_TO_DATE}


def test_a_misspelt_tracker_is_a_mistake():
    ((what, _),) = trackers.missing("sft", ["tensorbord"])
    assert "did you mean tensorboard?" in what
    assert not list(trackers.missing("sft", "none"))


def test_a_model_without_all_of_its_weights_is_refused_in_the_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, model = write_micro(tmp_path), tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    loaded = load_recipe(path, [f"model={{id: {model}}}"])

    def said() -> str:
        with pytest.raises(PipelineError) as refused:
            Planner(loaded, tmp_path / "runs").plan(["sft"])
        return refused.value.what

    assert "has a config.json but no weights" in said()
    (model / "pytorch_model.bin").touch()
    assert "only in pytorch_model.bin, a pickle" in said()
    (model / "model-1-of-2.safetensors").touch()
    names = '{"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}'
    (model / "model.safetensors.index.json").write_text(f'{{"weight_map": {names}}}')
    assert "1 of its 2 weight files are missing: model-2-of-2.safetensors" in said()


def test_a_disk_too_small_for_the_checkpoints_of_all_stages_is_refused(tmp_path, monkeypatch):
    model = torch.nn.Linear(1000, 1000, bias=False)  # 4 MB: three checkpoints of 12 MB and the result
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: usage(free=50_000_000))
    room.check(model, "adamw_torch", 2, tmp_path, ["sft"])
    with pytest.raises(PipelineError, match=r"sft, dpo will keep about 80\.0 MB .* 50\.0 MB are free"):
        room.check(model, "adamw_torch", 2, tmp_path, ["sft", "dpo"])
    room.check(model, "sgd", 2, tmp_path, ["sft", "dpo"])  # keeps no moments


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "dpo: train.lr_scheduler_type: "),
        ({"lr_scheduler_kwargs": {"no_such": 1}}, "dpo: train.lr_scheduler_type: "),
        ({"optim": "lomo"}, "dpo: train.optim: "),
        ({"loss_type": ["sigmoid"], "loss_weights": [1.0, 2.0]}, "dpo: train: DPOConfig refuses it: "),
        ({"optim_args": "foo=1"}, "dpo: train.optim_args: cannot take effect"),
        ({"use_liger_kernel": True}, "dpo: train.use_liger_kernel: "),
    ],
)
def test_what_a_trainer_would_refuse_is_told_without_a_model(tmp_path, given, said):
    arguments.check("dpo", specs()["dpo"], {}, "float32", tmp_path)
    with pytest.raises(PipelineError) as refused:
        arguments.check("dpo", specs()["dpo"], given, "float32", tmp_path)
    assert refused.value.what.startswith(said)
