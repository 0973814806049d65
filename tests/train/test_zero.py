"""Processes among which DeepSpeed divides what is trained train what one trains, go on when one is killed, and leave the same
artifacts.
"""

import json
import shutil
from importlib.util import find_spec

import pytest
from conftest import align, attempt, manifest, refused, write_micro
from processes import below, kill_rank, start, wait_for, wait_until_gone
from safetensors.torch import load_file
from stage_runs import without_clock

from pipeline.recipe import strategies

needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed: make deepspeed"
)
FULL = ("--set", "adapter={method: full}")
HALF = ("--set", "model.dtype=bfloat16")
BEST = ("--set", "stages.sft.train={eval_strategy: steps, eval_steps: 5}", "--set", "stages.sft.keep={best: loss}")
RUNS = ("--set", "stages.dpo.train.precompute_ref_log_probs=false")  # beside the policy


def divided(strategy: str) -> tuple[str, ...]:
    return ("--processes", "2", "--strategy", strategy)


@pytest.fixture(scope="module")
def by_zero3(chain, tmp_path_factory):
    """The folder of a chain whose sft was trained with zero3, from the pretrain of `chain`."""
    folder = tmp_path_factory.mktemp("by_zero3")
    write_micro(folder)
    shutil.copytree(chain / "runs" / "micro" / "pretrain", folder / "runs" / "micro" / "pretrain", symlinks=True)
    align("run", "sft", "-r", "micro.yaml", *divided("zero3"), cwd=folder, alone=True)
    return folder


@needs_deepspeed
def test_what_is_divided_trains_what_one_process_trains_and_any_number_goes_on(chain, by_zero3):
    apart(chain, by_zero3, "sft")
    whole, parts = manifest(chain, "sft"), manifest(by_zero3, "sft")
    assert parts["fingerprint"] == whole["fingerprint"]
    assert parts["tokens"] == whole["tokens"]
    assert parts["run"]["strategy"] == "zero3" and parts["versions"]["deepspeed"]
    for one, other in zip(lines(chain), lines(by_zero3), strict=True):
        if "loss" in one:
            assert other["loss"] == pytest.approx(one["loss"], abs=1e-4)
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    align("run", "dpo", "-r", "micro.yaml", "--processes", "1", cwd=by_zero3)
    assert manifest(by_zero3, "dpo")["metrics"]["before"]["loss"] == pytest.approx(0.6931, abs=1e-4)  # ln 2


@pytest.mark.slow
@needs_deepspeed
def test_a_killed_process_takes_the_stage_down_and_it_goes_on_to_the_bit(by_zero3, copied):
    folder = copied("sft")
    process = start(folder, "sft", *divided("zero3"))
    wait_for(folder, "sft/*/checkpoints/checkpoint-4", process)
    kill_rank(1, process.pid)
    said = process.stdout.read()
    assert process.wait() == 1
    assert "process 2 of 2 was killed by SIGKILL" in said and "Traceback" not in said
    wait_until_gone(folder)
    assert not below(process.pid)
    for other in (("--processes", "1"), divided("zero2")):
        said = refused(folder, "run", "sft", "-r", "micro.yaml", *other, alone=True)
        assert "was begun with --processes 2 --strategy" in said and "--fresh" in said
    assert "from step" in align("run", "sft", "-r", "micro.yaml", *divided("zero3"), cwd=folder, alone=True).stdout
    assert manifest(folder, "sft")["weights_sha256"] == manifest(by_zero3, "sft")["weights_sha256"]
    assert manifest(folder, "sft")["metrics"] == manifest(by_zero3, "sft")["metrics"]
    assert lines(folder) == lines(by_zero3)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "dpo"])
def test_other_stages_and_strategies_too(chain, copied, stage, strategy):
    folder = copied(stage)
    align("run", stage, "-r", "micro.yaml", *divided(strategy), cwd=folder, alone=True)
    apart(chain, folder, stage)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("sft", FULL),
        ("sft", BEST),
        ("sft", HALF),
        ("sft", ("--set", "train.optim=sgd")),
        ("sft", ("--set", "train.gradient_checkpointing=true")),
        ("dpo", FULL),
        ("dpo", RUNS),
        ("dpo", (*RUNS, *FULL)),
    ],
    ids=["full", "best", "bf16", "sgd", "checkpointing", "dpo full", "dpo beside", "dpo full beside"],
)
def test_also(copied, tmp_path_factory, options, stage, strategy):
    parts = copied("sft")
    whole = tmp_path_factory.mktemp("whole")
    shutil.copytree(parts, whole, symlinks=True, dirs_exist_ok=True)
    own = (*options, "--set", "stages.pretrain.adapter=null")
    for folder in (whole, parts):
        align("run", "pretrain", "-r", "micro.yaml", *own, cwd=folder)
    align("run", stage, "-r", "micro.yaml", *own, cwd=whole)
    align("run", stage, "-r", "micro.yaml", *own, *divided(strategy), cwd=parts, alone=True)
    apart(whole, parts, stage, 5e-3 if options == HALF else 1e-5)


def apart(one, other, stage, most=1e-5) -> None:
    """Equal but for rounding: weights, and figures before and after."""
    weights = [tensors(folder, stage) for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert value.dtype == weights[1][name].dtype
        assert float((value - weights[1][name]).abs().max()) < most
    figures = [manifest(folder, stage)["metrics"] for folder in (one, other)]
    assert figures[1]["before"] == pytest.approx(figures[0]["before"], abs=1e-5)
    assert figures[1]["after"]["loss"] == pytest.approx(figures[0]["after"]["loss"], abs=1e-4)


def tensors(folder, stage) -> dict:
    output = attempt(folder, stage) / manifest(folder, stage)["output"]
    return {name: value for file in output.glob("*.safetensors") for name, value in load_file(file).items()}


def lines(folder) -> list[dict]:
    return without_clock([json.loads(line) for line in (attempt(folder, "sft") / "log.jsonl").read_text().splitlines()])


THERE = "import pipeline.plan.processes as it; it.find_spec = lambda name: True"
GONE = "import pipeline.plan.processes as it; it.find_spec = lambda name: None"


@pytest.mark.parametrize(
    ("strategy", "stage", "setting", "reason"),
    [
        ("zero1", "ppo", "seed=0", "can be trained so"),
        ("zero2", "sft", "adapter={method: ia3}", "adapter.method: ia3 was not tried with it"),
        ("zero3", "sft", "adapter={method: ia3}", "adapter.method: ia3 needs whole weights"),
        ("zero2", "sft", "stages.sft.train.optim=adafactor", "train.optim: adafactor needs whole weights"),
        ("zero1", "dpo", "stages.dpo.share_prompt=true", "share_prompt: true runs parts of the model"),
        ("zero1", "pretrain", "model.dtype=float16", "model.dtype: float16"),
    ],
)
def test_what_cannot_be_divided_is_refused_by_the_plan(built, strategy, stage, setting, reason):
    asked = ("plan", stage, "-r", "micro.yaml", *divided(strategy), "--fresh", "--set", setting)
    said = refused(built, *asked, first=THERE)
    assert reason in said and "--strategy ddp" in said
    assert f"stages.{stage}" in said


def test_what_is_not_installed_is_refused_by_the_plan(built):
    asked = ("plan", "sft", "-r", "micro.yaml", *divided("zero2"), "--fresh")
    said = refused(built, *asked, first=GONE)
    assert "launch.strategy: zero2: DeepSpeed is not installed" in said
    assert "make deepspeed" in said and "--strategy fsdp" in said


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_what_is_offloaded_is_the_recipes_optimizer(strategy):
    alone, beside = (strategies.deepspeed(strategy, offload) for offload in (None, "cpu"))
    assert alone["zero_optimization"]["stage"] == int(strategy[-1])
    assert "offload_optimizer" not in alone["zero_optimization"]
    assert beside["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert beside["zero_force_ds_cpu_optimizer"] is False  # accelerate would take its own Adam, whatever was asked for
