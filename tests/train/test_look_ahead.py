"""What would stop a later stage is told before the first one trains."""

from collections import namedtuple

import pytest
import torch
from conftest import align, refused, write_micro, write_rows

from pipeline.errors import PipelineError
from pipeline.stage import specs
from pipeline.train import room
from pipeline.train.loop import arguments


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
    assert not [*broken.parent.rglob("report.html")]  # a page that there was would stay as it was


def test_without_looking_ahead_the_first_stages_are_trained(broken):
    ended = align("run", "sft", "dpo", "-r", "micro.yaml", "--no-look-ahead", cwd=broken.parent, check=False)
    assert ended.returncode == 2 and "dpo: 3 of 3 rows" in ended.stdout
    assert {path.parent.parent.name for path in broken.parent.rglob("manifest.json")} == {"pretrain", "sft"}


def test_steps_that_the_rows_make_too_few_are_told_before_an_earlier_stage_trains(broken):
    options = ("stages.sft.train.max_steps=-1", "stages.sft.adapter={method: adalora, tinit: 500}")
    given = [word for option in options for word in ("--set", option)]
    said = refused(broken.parent, "run", "sft", "-r", "micro.yaml", *given)
    assert "sft: adapter.tinit and adapter.tfinal are 500 and 0 of 36 steps" in said
    assert not [*broken.parent.rglob("checkpoint-*"), *broken.parent.rglob("manifest.json")]


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
        ({"lr_scheduler_kwargs": {"no_such": 1}}, "dpo: train.lr_scheduler_kwargs: "),
        ({"optim": "lomo"}, "dpo: train.optim: "),
        ({"activation_offloading": True}, "dpo: train.activation_offloading: there is no GPU here"),
        ({"loss_type": ["sigmoid"], "loss_weights": [1.0, 2.0]}, "dpo: train: DPOConfig refuses it: "),
        ({"use_liger_kernel": True}, "dpo: train.use_liger_kernel: "),
    ],
)
def test_what_a_trainer_would_refuse_is_told_without_a_model(tmp_path, given, said):
    arguments.check("dpo", specs()["dpo"], {}, "float32", tmp_path)
    with pytest.raises(PipelineError) as error:
        arguments.check("dpo", specs()["dpo"], given, "float32", tmp_path)
    assert error.value.what.startswith(said)
