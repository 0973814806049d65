"""The switch between plain transformers and Unsloth: both train the same, and a chain may change between them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import align, attempt, manifest, write_micro
from processes import start, wait_for, wait_until_gone
from safetensors.torch import load_file

from pipeline.model import backend

needs_unsloth = pytest.mark.skipif(backend.installed_version() is None, reason="Unsloth is not here: `make unsloth`")


# What a stage would start from, in a process of its own: Unsloth rewrites libraries for the whole of it.
PROBE = """
import json, sys
from pathlib import Path
from pipeline.recipe.reading import load_recipe
from pipeline.artifact.attempt import Attempt
from pipeline.plan.planner import Planner
from pipeline.train.job.checked_job import check
from pipeline.train.job.interruption import Interruption
from pipeline.train.job.job import Job

name, stage_name, out = sys.argv[1:]
step = Planner(load_recipe("micro.yaml", []), Path("runs")).plan([stage_name], fresh=[stage_name])[-1]
job = Job("micro.yaml", [], "runs", stage_name, out, step.fingerprint, "run", backend=name)
Path(out).mkdir()
checked = check(job, Attempt(Path(out)))
from pipeline.train.stage_run import StageRun

stage = StageRun(checked, lambda *_, **__: None, Interruption())
trainer = stage.trainer(stage.models.at_the_start())

import torch
from safetensors.torch import save_file

model = trainer.model.eval()
tensors = {key: value.detach().contiguous() for key, value in model.named_parameters() if value.requires_grad}
with torch.no_grad():
    tensors["logits"] = model(input_ids=torch.arange(5, 29).reshape(2, 12)).logits
save_file(tensors, Path(out) / "probe.safetensors")
(Path(out) / "args.json").write_text(json.dumps(trainer.args.to_dict(), default=str))
"""


@pytest.fixture(scope="module")
def fast(chain, tmp_path_factory) -> Path:
    """The micro chain's SFT and DPO with Unsloth."""
    folder = tmp_path_factory.mktemp("unsloth")
    write_micro(folder)
    shutil.copytree(chain / "runs/micro/pretrain", folder / "runs/micro/pretrain", symlinks=True)
    align("run", "sft", "dpo", "-r", "micro.yaml", "--unsloth", cwd=folder, alone=True)
    return folder


def losses(folder: Path, stage: str) -> list[float]:
    lines = (attempt(folder, stage) / "log.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


@needs_unsloth
def test_both_backends_train_the_same(chain, fast):
    for stage in ("sft", "dpo"):
        assert manifest(fast, stage)["run"]["backend"] == "unsloth"
        assert manifest(fast, stage)["versions"]["unsloth"] == backend.installed_version()
        assert manifest(chain, stage)["run"]["backend"] == "transformers"
        assert manifest(fast, stage)["metrics"]["after"] == pytest.approx(
            manifest(chain, stage)["metrics"]["after"], abs=1e-3
        )
        assert losses(fast, stage) == pytest.approx(losses(chain, stage), abs=1e-4)
    assert attempt(fast, "sft").name == attempt(chain, "sft").name  # the backend is no part of the fingerprint


@needs_unsloth
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_both_start_from_the_same_weights_and_arguments(chain, tmp_path, stage):
    found = {}
    for name in (backend.TRANSFORMERS, backend.UNSLOTH):
        out = tmp_path / name
        done = subprocess.run(
            [sys.executable, "-c", PROBE, name, stage, out], cwd=chain, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found[name] = load_file(out / "probe.safetensors"), json.loads((out / "args.json").read_text())
    (plain, plain_args), (fast, fast_args) = found.values()
    assert plain.keys() == fast.keys()
    assert all(torch.equal(plain[key], fast[key]) for key in plain)
    different = {key for key in plain_args if plain_args[key] != fast_args[key]}
    assert different <= {"output_dir", "logging_dir"}


@needs_unsloth
def test_a_chain_may_switch_in_the_middle(chain, fast, tmp_path):
    """The other backend's SFT adapter gives DPO the same first loss, to the bit of its figures."""
    write_micro(tmp_path)
    for source, switch in ((fast, "--no-unsloth"), (chain, "--unsloth")):
        policy = attempt(source, "sft")
        runs = tmp_path / switch.strip("-")
        align("run", "dpo", "-r", "micro.yaml", switch, "--policy", policy, "--runs", runs, cwd=tmp_path, alone=True)
        found = json.loads(next(runs.glob("micro/dpo/*/manifest.json")).read_text())
        assert found["metrics"]["before"]["loss"] == pytest.approx(0.693147, abs=1e-6)
        logged = [json.loads(line) for line in next(runs.glob("micro/dpo/*/log.jsonl")).read_text().splitlines()]
        assert [line["loss"] for line in logged if "loss" in line] == pytest.approx(losses(source, "dpo"), abs=1e-4)


@needs_unsloth
def test_killed_and_continued(fast, tmp_path):
    write_micro(tmp_path)
    shutil.copytree(fast / "runs/micro/pretrain", tmp_path / "runs/micro/pretrain", symlinks=True)
    process = start(tmp_path, "sft", "--unsloth")
    wait_for(tmp_path, "sft/*/checkpoints/checkpoint-4", process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until_gone(tmp_path)
    refused = align("run", "sft", "-r", "micro.yaml", "--no-unsloth", cwd=tmp_path, check=False)
    assert refused.returncode == 2 and "was begun with unsloth" in refused.stdout and "--fresh" in refused.stdout
    align("run", "sft", "-r", "micro.yaml", cwd=tmp_path, alone=True)  # goes on as it was begun
    assert manifest(tmp_path, "sft")["run"]["backend"] == "unsloth"
    assert manifest(tmp_path, "sft")["weights_sha256"] == manifest(fast, "sft")["weights_sha256"]


@needs_unsloth
def test_another_backend_is_no_reason_to_train_again(fast):
    said = align("plan", "sft", "-r", "micro.yaml", "--no-unsloth", cwd=fast).stdout
    assert "up to date" in said and "trained with unsloth" in said and "FRESH=1" in said


@needs_unsloth
def test_comparison(fast):
    options = ("-r", "micro.yaml", "--steps", 6, "--repeats", 1, "--json")
    result = json.loads(align("compare", "sft", *options, cwd=fast, alone=True).stdout)
    ran = {name: {trial["run"]["backend"] for trial in trials} for name, trials in result["trials"].items()}
    assert ran == {"transformers": {"transformers"}, "unsloth": {"unsloth"}}
    assert result["loss"]["largest_difference"] < 1e-4 and result["loss"]["first_step_beyond"] is None
    assert len(result["trials"]["unsloth"][0]["losses"]) == 6
    assert "says nothing about a GPU" in result["verdict"]
    assert list((fast / "runs/micro/compare").glob("sft-*/compare.json"))
    refused = align("compare", "reward", *options, cwd=fast, check=False)
    assert refused.returncode == 2 and "score head" in refused.stderr + refused.stdout
