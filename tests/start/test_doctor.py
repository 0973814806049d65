"""`align doctor`: every line with what to do, offline no failure, and 2 only where a recipe lacks something."""

import json
import subprocess

import pytest
from conftest import write_micro
from typer.testing import CliRunner

from pipeline import installing
from pipeline.cli.main import app
from pipeline.model.backend import has_gpu
from pipeline.start import doctor


@pytest.fixture
def findings(tmp_path, monkeypatch):
    """Those of a call, by what they are about; offline, with no card."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)

    def call(*arguments: str, code: int = 0) -> dict[str, dict]:
        done = CliRunner().invoke(app, ["doctor", "--json", *arguments])
        assert done.exit_code == code, done.output
        return {one["what"]: one for one in json.loads(done.output)}

    return call


def test_offline_and_without_a_card_it_ends_well_and_says_so(findings):
    found = findings()
    assert found["hub"]["state"] == "note" and "HF_HUB_OFFLINE" in found["hub"]["found"]
    assert found["card"]["state"] == "note" and found["torch"]["state"] == "ok"
    assert all(one["do"] for one in found.values() if one["state"] != "ok")


def test_a_card_is_told_with_its_driver_and_one_without_bfloat16_with_what_to_set(findings, monkeypatch):
    said = "Tesla T4, 15360, 15000, 550.54.15, 7.5\nNVIDIA A100-SXM4-40GB, 40960, 40000, 550.54.15, 8.0\n"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, said, ""))
    found = findings()
    assert "float16" in found["card 0"]["do"] and found["card 1"]["state"] == "ok"
    assert "driver 550.54.15" in found["card 1"]["found"]
    assert (found["torch"]["state"] == "note") == ("built for a CPU" in found["torch"]["found"])


def test_an_extra_that_is_not_there_names_the_command(findings, monkeypatch):
    installed = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "uvicorn" else installed(name))
    found = findings()["extra serve"]
    assert found["state"] == "note" and "uvicorn" in found["found"] and "[serve]" in found["do"]


def test_outside_of_the_clones_folder_its_paths_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(installing, "in_clone", lambda: True)
    monkeypatch.chdir(tmp_path)
    said = installing.extra("gguf")
    assert said.startswith(str(installing._CLONE / ".venv/bin/python")) and said.endswith(f"{installing._CLONE}[gguf]")


def test_outside_of_a_clone_the_command_names_the_packages_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(installing, "in_clone", lambda: False)
    monkeypatch.setattr(installing.sys, "prefix", str(tmp_path))
    assert installing.extra("serve").startswith("pip install starlette==")
    # uv's environments have no pip.
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.13.9\n")
    assert installing.extra("serve").startswith(f"uv pip install --python {tmp_path} starlette==")
    monkeypatch.setattr(installing, "in_clone", lambda: True)
    monkeypatch.chdir(installing._CLONE)
    assert installing.extra("serve").endswith("-e .[serve]")


def test_another_version_than_the_pinned_one_is_told(findings, monkeypatch):
    installed = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "0.1" if name == "trl" else installed(name))
    assert "trl 0.1 (==" in findings()["packages"]["found"]


def test_a_recipe_that_has_all_it_needs_passes(findings, tmp_path):
    recipe = write_micro(tmp_path)
    assert all(one["state"] != "missing" for one in findings("--recipe", str(recipe)).values())


def test_what_a_recipe_lacks_ends_it_with_2(findings, tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {id: owner/base}\nstages: {sft: {data: {path: none.jsonl}}}\n")
    found = findings("--recipe", "mine.yaml", code=2)
    assert "none.jsonl" in found["mine: the plan"]["found"]
    assert "hub's cache" in found["mine: model.id"]["found"]


@pytest.mark.skipif(has_gpu(), reason="there is a GPU, which has that attention")
def test_an_attention_that_cannot_run_here_is_missing(findings, tmp_path):
    recipe = write_micro(tmp_path)
    recipe.write_text(
        recipe.read_text().replace("model:\n", "model:\n  dtype: bfloat16\n  attn_implementation: flash_attention_2\n")
    )
    found = findings("--recipe", str(recipe), code=2)["micro: model.attn_implementation"]
    assert found["state"] == "missing" and "needs a GPU" in found["found"]
