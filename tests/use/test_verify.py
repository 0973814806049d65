"""Verifying: what digests prove of an artifact and of what was published, and which change each of them finds."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import attempt
from publishing import in_this_process, own_hub  # noqa: F401

from pipeline.artifact.digests import canonical
from pipeline.use import lineage
from pipeline.use.fits import complaint

RECIPE = ("-r", "micro.yaml")


@pytest.fixture
def runs(chain, tmp_path) -> Path:
    """A copy of the artifacts, to be spoiled."""
    shutil.copytree(
        chain / "runs",
        tmp_path / "runs",
        symlinks=True,
        ignore=shutil.ignore_patterns("checkpoints", ".data", "exports"),
    )
    return tmp_path / "runs"


@pytest.fixture
def out(call, tmp_path) -> Path:
    """What would be published of dpo."""
    call("publish", "dpo", *RECIPE, "--to", tmp_path / "out")
    return tmp_path / "out"


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def findings(call, *arguments) -> tuple[int, dict[str, str]]:
    code, said = call("verify", *arguments, "--json")
    return code, {one["what"]: one["state"] for one in json.loads(said)["findings"]}


def test_artifact_is_proven_down_to_its_base(chain, call, runs):
    code, told = findings(call, runs / "micro/ppo/latest")
    assert code == 0 and "wrong" not in told.values()
    for what in (
        "manifest.json",
        "files of ppo",
        "weights",
        "inputs of sft",
        "policy of ppo",
        "policy of sft",
        "reward of ppo",
        "base",
        "fit",
        "data",
    ):
        assert told[what] == "proven", what
    assert told["figures"] == told["rows"] == told["who made it"] == "claimed"


def test_one_flipped_byte_is_found(call, runs, out):
    flip(runs / "micro/dpo/latest/adapter/adapter_model.safetensors")
    code, told = findings(call, runs / "micro/dpo/latest")
    assert code == 2 and told["files of dpo"] == told["weights"] == "wrong"
    flip(out / "adapter_model.safetensors")
    code, told = findings(call, out)
    assert code == 2 and told["files"] == told["weights"] == "wrong"
    code, said = call("verify", out)
    assert code == 2 and "adapter_model.safetensors was changed" in said


def test_swapped_parent_is_found(call, runs):
    """In the place of sft lies a whole artifact, though another one."""
    sft = (runs / "micro/sft/latest").resolve()
    shutil.rmtree(sft)
    shutil.copytree((runs / "micro/dpo/latest").resolve(), sft)
    code, told = findings(call, runs / "micro/dpo/latest")
    assert code == 2 and told["policy of dpo"] == "wrong" and told["files of dpo"] == "proven"


def test_parent_that_is_not_at_hand_is_told(call, runs, monkeypatch):
    monkeypatch.chdir(runs)  # away from the originals
    shutil.rmtree((runs / "micro/sft/latest").resolve())
    code, told = findings(call, runs / "micro/dpo/latest")
    assert code == 0 and told["policy of dpo"] == "not checked"


def test_manifest_that_was_edited_is_found(call, runs):
    file = runs / "micro/dpo/latest/manifest.json"
    file.write_text(file.read_text().replace('"exact_match": 0.0', '"exact_match": 1.0'))
    assert findings(call, runs / "micro/dpo/latest") == (2, {"manifest.json": "wrong"})


def spoil(out: Path, change) -> None:
    """Change the lineage as somebody would who knows how its digest is made."""
    said = json.loads((out / lineage.FILE).read_text())
    del said["sha256"]
    change(said)
    (out / lineage.FILE).write_bytes(canonical(said | {"sha256": lineage.digest(said)}))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda said: said["stages"][-1]["metrics"]["after"].update(exact_match=1.0), "manifest of dpo"),
        (lambda said: said["stages"][-1]["inputs"]["train"].update(beta=9.0), "inputs of dpo"),
        (lambda said: said["stages"].pop(1), "policy of dpo"),
        (lambda said: said["stages"][1].update(weights_sha256="0" * 64), "policy of dpo"),
    ],
)
def test_lineage_that_was_made_up_is_found(call, out, change, what):
    assert findings(call, out)[0] == 0
    spoil(out, change)
    code, told = findings(call, out)
    assert code == 2 and told[what] == "wrong" and told["lineage.json"] == "proven"


def test_configuration_that_says_more_than_where_the_base_is_is_found(call, out):
    file = out / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 99}))
    said = {"size": file.stat().st_size, "sha256": sha256(file.read_bytes()).hexdigest()}
    spoil(out, lambda lineage: lineage["files"].update({file.name: said}))
    code, told = findings(call, out)
    assert code == 2 and told["files"] == "proven" and told["written for others"] == "wrong"


def test_lineage_that_was_edited_and_other_files_are_told(call, out):
    (out / "pickled.bin").write_bytes(b"who knows")
    code, told = findings(call, out)
    assert code == 0 and told["other files"] == "not checked"
    file = out / lineage.FILE
    file.write_text(file.read_text().replace('"dpo"', '"ppo"'))
    assert findings(call, out) == (2, {"lineage.json": "wrong"})


def test_card_with_other_figures_is_found_and_one_with_other_words_is_not(call, out):
    card, (code, told) = out / "README.md", findings(call, out)
    made = card.read_text()
    assert code == 0 and told["README.md"] == "proven"
    row = next(line for line in made.splitlines() if line.startswith("| dpo | preference accuracy"))
    better = row.replace(row.split("|")[4], " 1.999 ")
    metadata = made.replace("    - type: accuracy\n      value: ", "    - type: accuracy\n      value: 9", 1)
    rows = made.replace("| sft | 60 ", "| sft | 6,000 ", 1)
    for changed in (made.replace(row, better), metadata, rows):
        assert changed != made
        card.write_text(changed)
        code, told = findings(call, out)
        assert code == 2 and told["README.md"] == "wrong" and told["files"] == "proven"
    assert "which the lineage does not" in call("verify", out)[1]
    words = "## What it learned\n\nA lot, see below.\n\n| task | mine |\n| --- | --- |\n| haiku | 5 |\n"
    card.write_text(made.replace("## What it learned\n", words))
    assert findings(call, out)[1]["README.md"] == "proven"
    card.write_text(made.replace(row + "\n", ""))
    code, told = findings(call, out)
    assert code == 0 and told["README.md"] == "not checked"
    card.unlink()
    assert findings(call, out)[1]["README.md"] == "not checked"


def test_of_the_hub_no_pickle_is_downloaded_and_what_was_not_is_told(hub, call):
    call("publish", "dpo", *RECIPE, "--repo", "ada/dpo")
    repository = hub.repositories["ada/dpo"]
    first = repository.commit(repository.files | {"pytorch_model.bin": b"a pickle"})
    repository.commit(repository.files | {"adapter_config.json": b"{}"})
    code, told = findings(call, f"hub:ada/dpo@{first}")
    assert code == 0 and told["not downloaded"] == "not checked" and told["files"] == "proven"
    assert findings(call, "hub:ada/dpo")[1]["files"] == "wrong"
    code, said = call("verify", "hub:ada/none")
    assert code == 2 and "there is no such repository" in said


def test_adapter_on_another_base_is_found(chain, call, tmp_path):
    """Shapes alone, without a base's weights."""
    model = tmp_path / "model"
    shutil.copytree(attempt(chain, "pretrain") / "model", model)
    assert complaint(attempt(chain, "dpo") / "adapter", str(model), None, "causal") is None
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    said = complaint(attempt(chain, "dpo") / "adapter", str(model), None, "causal")
    assert "where the base takes" in said


def test_what_says_nothing_of_itself_is_refused(call, tmp_path):
    assert call("verify", tmp_path)[0] == 2 and call("verify", tmp_path / "none")[0] == 2
    code, said = call("verify", "hub:nobody")
    assert code == 2 and "hub:owner/name" in said
