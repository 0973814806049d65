"""The benchmark for a GPU, on a CPU with tiny shapes: it has to work at once where a card is lent for minutes."""

import json
import subprocess
import sys

import pytest
from conftest import PROJECT

from pipeline.model import backend
from pipeline.stage import specs


@pytest.mark.slow
def test_every_trial_runs_and_is_written_down(tmp_path):
    trials = ["recipes", "stages", "heal"] + (["unsloth"] if backend.installed_version() else [])
    words = [word for name in trials for word in ("--only", name)]
    script = [sys.executable, str(PROJECT / "benchmarks/gpu.py"), "--smoke", "--minutes", "60", "--out", str(tmp_path)]
    done = subprocess.run([*script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob("gpu-smoke-*.json")
    found = json.loads(file.read_text())
    assert found["left_out"] == [] and "failed" not in file.read_text()
    assert {what.split()[0] for what in found["stages"]} == set(specs())
    for recipe in found["recipes"].values():
        assert set(recipe["stages"]) == {"sft", "reward", "dpo", "ppo"}
    (healed,) = found["heal"].values()
    assert healed["shrunk"] == [] and healed["largest_loss_difference"] < 1e-6  # nothing runs out on a CPU


def test_what_there_is_no_time_for_is_listed(tmp_path):
    script = [sys.executable, str(PROJECT / "benchmarks/gpu.py"), "--smoke", "--minutes", "0", "--out", str(tmp_path)]
    done = subprocess.run([*script, "--only", "unsloth"], capture_output=True, text=True)
    (file,) = tmp_path.glob("gpu-smoke-*.json")
    assert done.returncode == 0 and json.loads(file.read_text())["left_out"] == [
        "sft on llama-3.1-8b",
        "dpo on llama-3.1-8b",
    ]
