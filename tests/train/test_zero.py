"""Processes among which DeepSpeed divides what is trained train what one trains, go on when one is killed, and leave the same
artifacts.
"""

import json
from importlib.util import find_spec

import pytest
from conftest import align, manifest, refused
from several import BEST, FULL, HALF, apart, by_one_and_by, lines, sft_by, stopped_by_slurm, without_the_second

from pipeline.recipe import strategies

needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed: make deepspeed"
)
BASE = "./runs/micro/pretrain/latest/model"
NEW_TOKENS = ("--set", "model.template=chatml")
RUNS = ("--set", "stages.dpo.train.precompute_ref_log_probs=false")  # beside the policy


def divided(strategy: str) -> tuple[str, ...]:
    return ("--processes", "2", "--strategy", strategy)


@pytest.fixture(scope="module")
def by_zero3(chain, tmp_path_factory):
    """The folder of a chain whose sft was trained with zero3, from the pretrain of `chain`."""
    return sft_by(tmp_path_factory.mktemp("by_zero3"), chain, *divided("zero3"))


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
    without_the_second(folder, *divided("zero3"))
    for other in (("--processes", "1"), divided("zero2")):
        said = refused(folder, "run", "sft", "-r", "micro.yaml", *other, alone=True)
        assert "was begun with --processes 2 --strategy" in said and "--fresh" in said
    assert "from step" in align("run", "sft", "-r", "micro.yaml", *divided("zero3"), cwd=folder, alone=True).stdout
    assert manifest(folder, "sft")["weights_sha256"] == manifest(by_zero3, "sft")["weights_sha256"]
    assert manifest(folder, "sft")["metrics"] == manifest(by_zero3, "sft")["metrics"]
    assert lines(folder) == lines(by_zero3)


@pytest.mark.slow
@needs_deepspeed
def test_what_is_stopped_saves_once_and_goes_on_to_the_bit(by_zero3, copied):
    folder = copied("sft")
    stopped_by_slurm(folder, *divided("zero3"))
    assert "from step" in align("run", "sft", "-r", "micro.yaml", *divided("zero3"), cwd=folder, alone=True).stdout
    assert manifest(folder, "sft")["weights_sha256"] == manifest(by_zero3, "sft")["weights_sha256"]


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
        ("sft", NEW_TOKENS),
        ("dpo", NEW_TOKENS),
    ],
    ids=[
        *("full", "best", "bf16", "sgd", "checkpointing", "dpo full", "dpo beside", "dpo full beside"),
        *("new tokens", "dpo new tokens"),
    ],
)
def test_also(copied, tmp_path_factory, options, stage, strategy):
    parts, whole = copied("sft"), tmp_path_factory.mktemp("whole")
    by_one_and_by(parts, whole, stage, options, divided(strategy))
    apart(whole, parts, stage, 5e-3 if options == HALF else 1e-5)


@needs_deepspeed
@pytest.mark.slow
def test_a_file_of_ones_own_takes_effect_and_is_told(chain, copied):
    folder = copied("sft")
    zero = {"stage": 2, "reduce_bucket_size": 4096}
    (folder / "mine.json").write_text(json.dumps({"zero_optimization": zero, "gradient_clipping": "auto"}))
    own = ("--set", "launch.deepspeed=mine.json")
    align("run", "sft", "-r", "micro.yaml", *divided("zero2"), *own, cwd=folder, alone=True)
    apart(chain, folder, "sft")
    assert manifest(folder, "sft")["run"]["deepspeed"] == {"zero_optimization": zero}


THERE = "import pipeline.plan.processes as it; it.find_spec = lambda name: True"
GONE = "import pipeline.plan.processes as it; it.find_spec = lambda name: None"


@pytest.mark.parametrize(
    ("strategy", "stage", "setting", "reason"),
    [
        ("zero1", "ppo", "seed=0", "can be trained so"),
        ("zero2", "sft", "adapter={method: vera}", "adapter: method vera was not seen to train the same"),
        ("zero3", "sft", "adapter={method: ia3}", "adapter: method ia3 was not seen to train the same"),
        ("zero2", "sft", "stages.sft.train.optim=adafactor", "train.optim: adafactor needs whole weights"),
        ("zero1", "dpo", "stages.dpo.share_prompt=true", "share_prompt: true runs parts of the model"),
        ("zero1", "pretrain", f"model={{id: {BASE}, dtype: float16}}", "model.dtype: float16 would make"),
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
