"""Processes of which each holds a part of the model train what one trains, go on when one is killed, and leave the same artifacts."""

from pathlib import Path

import pytest
import yaml
from conftest import align, attempt, manifest, refused, write_micro
from several import BEST, FULL, HALF, apart, by_one_and_by, sft_by, stopped_by_slurm, without_the_second

from pipeline.model.adapters import METHODS, NAMED

PARTS = ("--processes", "2", "--strategy", "fsdp")


@pytest.fixture(scope="module")
def in_parts(chain, tmp_path_factory):
    """The folder of a chain whose sft was trained in two parts, from the pretrain of `chain`."""
    return sft_by(tmp_path_factory.mktemp("in_parts"), chain, *PARTS)


def test_parts_train_what_one_process_trains_and_any_number_goes_on(chain, in_parts):
    apart(chain, in_parts, "sft")
    whole, parts = manifest(chain, "sft"), manifest(in_parts, "sft")
    assert parts["fingerprint"] == whole["fingerprint"]
    assert parts["tokens"] == whole["tokens"]
    assert parts["run"]["strategy"] == "fsdp"
    align("run", "dpo", "-r", "micro.yaml", "--processes", "1", cwd=in_parts)
    assert manifest(in_parts, "dpo")["metrics"]["before"]["loss"] == pytest.approx(0.6931, abs=1e-4)  # ln 2


def test_a_killed_part_takes_the_stage_down_and_it_goes_on_to_the_bit(in_parts, copied):
    folder = copied("sft")
    without_the_second(folder, *PARTS)
    other = refused(folder, "run", "sft", "-r", "micro.yaml")  # the optimizer lies there in parts
    assert "was begun with --processes 2 --strategy fsdp" in other and "--fresh" in other
    assert "from step" in align("run", "sft", "-r", "micro.yaml", *PARTS, cwd=folder, alone=True).stdout
    assert manifest(folder, "sft")["weights_sha256"] == manifest(in_parts, "sft")["weights_sha256"]
    assert manifest(folder, "sft")["metrics"] == manifest(in_parts, "sft")["metrics"]


@pytest.mark.slow
def test_parts_that_are_stopped_save_once_and_go_on_to_the_bit(in_parts, copied):
    folder = copied("sft")
    stopped_by_slurm(folder, *PARTS)
    assert "from step" in align("run", "sft", "-r", "micro.yaml", *PARTS, cwd=folder, alone=True).stdout
    assert manifest(folder, "sft")["weights_sha256"] == manifest(in_parts, "sft")["weights_sha256"]


def test_a_head_of_one_row_lies_in_one_part_alone(chain, copied):
    folder = copied("reward")
    align("run", "reward", "-r", "micro.yaml", *PARTS, cwd=folder, alone=True)
    apart(chain, folder, "reward")


def in_4_bits(chain: Path, folder: Path) -> Path:
    """A folder with the recipe on the base of `chain`, in 4 bits, whose adapter is on the head, too."""
    folder.mkdir()
    recipe = yaml.safe_load(write_micro(folder).read_text())
    recipe["model"] = {"id": str(attempt(chain, "pretrain") / "model"), "load_in_4bit": True}
    recipe["adapter"]["target_modules"] = ["q_proj", "down_proj", "lm_head"]
    recipe["stages"] = {stage: recipe["stages"][stage] for stage in ("sft", "dpo")}
    (folder / "micro.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def test_a_base_in_4_bits_lies_in_parts_and_what_is_outside_of_the_layers_is_trained_too(chain, tmp_path):
    one, two = in_4_bits(chain, tmp_path / "one"), in_4_bits(chain, tmp_path / "two")
    for folder, options in ((one, ()), (two, PARTS)):
        align("run", "sft", "dpo", "-r", "micro.yaml", *options, cwd=folder, alone=True)
    for stage in ("sft", "dpo"):
        apart(one, two, stage, 1e-4)
        assert manifest(one, stage)["parameters"] == manifest(two, stage)["parameters"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "zero2"])
def test_a_base_in_4_bits_goes_on_to_the_bit(chain, tmp_path, strategy):
    whole, killed = in_4_bits(chain, tmp_path / "whole"), in_4_bits(chain, tmp_path / "killed")
    options = ("--processes", "2", "--strategy", strategy)
    without_the_second(killed, *options)
    for folder in (whole, killed):
        align("run", "sft", "-r", "micro.yaml", *options, cwd=folder, alone=True)
    assert manifest(killed, "sft")["weights_sha256"] == manifest(whole, "sft")["weights_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [FULL, BEST, ("--set", "adapter.r=1"), HALF, ("--set", "model.template=chatml")],
    ids=["full", "best", "one rank", "bf16", "new tokens"],
)
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_also(copied, tmp_path_factory, options, stage):
    parts, whole = copied("sft"), tmp_path_factory.mktemp("whole")
    by_one_and_by(parts, whole, stage, options, PARTS)
    apart(whole, parts, stage, 2e-3 if options == HALF else 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in NAMED if "fsdp" in METHODS[name].divided and name != "lora"])
def test_other_methods_too(copied, tmp_path_factory, method):
    parts, whole = copied("sft"), tmp_path_factory.mktemp("whole")
    by_one_and_by(parts, whole, "dpo", ("--set", f"adapter={{method: {method}}}"), PARTS)
    apart(whole, parts, "dpo", 1e-3)  # rounding, which Adam turns into steps where a gradient is next to nothing


@pytest.mark.parametrize(
    ("stage", "setting", "reason"),
    [
        ("ppo", "seed=0", "can be trained so"),
        ("sft", "adapter={method: vera}", "method vera was not seen to train the same with fsdp; those that were: "),
        ("sft", "stages.sft.train.optim=adafactor", "train.optim: adafactor needs whole weights"),
        ("dpo", "stages.dpo.share_prompt=true", "share_prompt: true runs parts of the model"),
        ("sft", "model={id: a/b, load_in_8bit: true}", "a base in 8 bits does not go with it"),
    ],
)
def test_what_needs_whole_weights_is_refused_by_the_plan(built, stage, setting, reason):
    said = refused(built, "plan", stage, "-r", "micro.yaml", *PARTS, "--fresh", "--set", setting)
    assert reason in said and "--strategy ddp" in said
    assert f"stages.{stage}" in said


def test_what_is_up_to_date_may_be_planned_for_any_number(built):
    assert "up to date" in align("plan", "sft", "-r", "micro.yaml", "--processes", "3", cwd=built).stdout


def test_a_strategy_is_for_several(built):
    said = refused(built, "plan", "sft", "-r", "micro.yaml", "--strategy", "fsdp")
    assert "strategy fsdp shares a model among several processes, and this is one" in said


def test_offloading_is_for_parts_and_for_a_gpu(built):
    offload = ("--set", "launch.offload=cpu")
    assert "offload is for strategy fsdp" in refused(built, "plan", "sft", "-r", "micro.yaml", *offload)
