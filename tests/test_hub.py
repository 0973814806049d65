"""Models by hub id, from a local cache and without a network."""

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import align, attempt, refused, write_micro

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(chain, tmp_path) -> dict[str, str]:
    """An environment whose hub cache holds the micro model as example/micro."""
    repository = tmp_path / "hub" / "models--example--micro"
    shutil.copytree(attempt(chain, "pretrain") / "model", repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    write_micro(tmp_path)
    return os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}


RECIPE = ["--set", "model={id: example/micro}", "--set", "stages={sft: {data: {path: chat.jsonl}}}"]


def test_main_means_the_commit_in_the_cache_and_stays_on_it(cached, tmp_path: Path):
    align("run", "sft", "-r", "micro.yaml", *RECIPE, cwd=tmp_path, env=cached)
    folder = tmp_path / "runs" / "micro" / "sft" / "latest"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["base"]["identity"] == {"id": "example/micro", "commit": COMMIT}
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("example/micro", COMMIT)
    assert "up to date" in align("plan", "-r", "micro.yaml", *RECIPE, cwd=tmp_path, env=cached).stdout


def test_a_model_that_is_nowhere(cached, tmp_path: Path):
    other = ["--set", "model={id: example/other}", *RECIPE[2:]]
    assert "resolved at run" in align("plan", "-r", "micro.yaml", *other, cwd=tmp_path, env=cached).stdout
    done = align("run", "sft", "-r", "micro.yaml", *other, cwd=tmp_path, env=cached, check=False)
    assert done.returncode == 2 and "the hub cannot be asked" in done.stdout and "Traceback" not in done.stderr


def test_a_tokenizer_that_is_nowhere_is_told_at_once(tmp_path: Path):
    """By what the hub is asked first: transformers' own client tries again for a minute."""
    write_micro(tmp_path)
    nowhere = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    asked = ("data", "check", "chat.jsonl", "--stage", "sft", "--tokenizer", "example/other")
    said = refused(tmp_path, *asked, env=nowhere)
    assert "example/other@main: the hub cannot be asked" in said and "HF_ENDPOINT" in said and "a local folder" in said
    assert "Retrying" not in said and "retries" not in said
