"""Exports published and verified: only what proved itself goes up, with its proof, and the proof is of these very files."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import attempt, manifest
from huggingface_hub import ModelCard
from publishing import in_this_process, own_hub  # noqa: F401

from pipeline.artifact.digests import canonical, file_sha256
from pipeline.recipe.reading import load_recipe
from pipeline.use import lineage, questions
from pipeline.use.export import EXPORT, PROOF, export
from pipeline.use.loaded import load
from pipeline.use.merge import Merged
from pipeline.use.subject import find

RECIPE = ("-r", "micro.yaml")


@pytest.fixture(scope="module")
def exported(chain, tmp_path_factory) -> Path:
    """dpo merged, with its proof, in a folder of its own."""
    folder = tmp_path_factory.mktemp("exported") / "merged"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(chain)
        recipe = load_recipe(Path("micro.yaml"))
        subject = find("dpo", recipe, Path("runs"))
        asked = questions.of(subject, load([subject])[0].tokenizer, recipe)
        export(subject, Merged(subject, asked), to=folder)
    return folder


@pytest.fixture
def merged(exported, chain, tmp_path) -> Path:
    """It, in a copy of the artifacts, to be spoiled."""
    shutil.copytree(
        chain / "runs",
        tmp_path / "runs",
        symlinks=True,
        ignore=shutil.ignore_patterns("checkpoints", ".data", "exports"),
    )
    folder = tmp_path / "runs/micro/dpo" / attempt(chain, "dpo").name / "exports/merged-1"
    shutil.copytree(exported, folder)
    return folder


def written(folder: Path, **changes) -> None:
    """The record of an export, written anew as somebody would who knows how its digest is made."""
    said = json.loads((folder / EXPORT).read_text()) | changes
    del said["sha256"]
    for name, file in said["files"].items():
        file |= {"size": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
    (folder / EXPORT).write_bytes(canonical(said | {"sha256": lineage.digest(said)}))


def states(call, *arguments) -> tuple[int, dict[str, str]]:
    code, said = call("verify", *arguments, "--json")
    return code, {one["what"]: one["state"] for one in json.loads(said)["findings"]}


def test_merged_model_goes_up_with_its_proof_and_loads_as_its_card_says(chain, hub, call, merged, tmp_path, capsys):
    runs = merged.parents[4]
    assert call("publish", "dpo", *RECIPE, "--runs", runs, "--what", "merged", "--repo", "ada/dpo")[0] == 0
    files = hub.repositories["ada/dpo"].files
    for name in json.loads((merged / EXPORT).read_text())["files"]:
        assert name == PROOF or files[name] == (merged / name).read_bytes()
    out = tmp_path / "out"
    assert call("publish", merged, *RECIPE, "--runs", runs, "--to", out, "--repo", "ada/dpo")[0] == 0
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "transformers" and "texts that the tokenizer splits alike" in card.text
    secret = manifest(chain, "dpo")["samples"][0]["prompt"]
    assert secret not in (out / lineage.FILE).read_text() and secret not in card.content
    exec(card.text.split("```python\n")[1].split("```")[0].replace("ada/dpo", str(out)), {})
    capsys.readouterr()
    code, told = states(call, out, "--runs", runs)
    assert code == 0 and told["files"] == told["made from"] == told["proof"] == told["manifest of dpo"] == "proven"
    model = out / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    assert states(call, out, "--runs", runs)[1]["files"] == "wrong"


def test_export_itself_is_verified_with_what_it_came_from(call, merged, exported, chain):
    code, told = states(call, merged)
    assert code == 0 and told["proof"] == told["made from"] == told["policy of dpo"] == "proven"
    code, told = states(call, exported, "--runs", "runs")  # it lies elsewhere
    assert code == 0 and told["made from"] == "proven"


def test_traces_of_the_machine_in_an_export_stop_it(call, merged, tmp_path):
    (merged / "model.onnx").write_bytes(b"\0\1File /home/bob/.venv/lib/python3.11/site-packages/torch/nn.py, line 1\0")
    said = json.loads((merged / EXPORT).read_text())
    written(merged, files=said["files"] | {"model.onnx": {}})
    code, said = call("publish", merged, *RECIPE, "--runs", merged.parents[4], "--to", tmp_path / "out")
    assert code == 2 and "model.onnx: holds a path of the machine that made it (/home/bob/" in said


@pytest.mark.parametrize("spoiled", ["failed", "missing", "swapped", "other"])
def test_export_without_a_proof_that_holds_is_not_published(call, merged, tmp_path, spoiled):
    proof, wrong = merged / PROOF, "proof"
    if spoiled == "failed":  # kept by --force
        proof.write_text(json.dumps({"proven": False, "differs": ["its next tokens are 3 nats off"], "prompts": 1}))
        written(merged, proven=False)
        says = "its proof fails: its next tokens are 3 nats off"
    elif spoiled == "missing":
        proof.unlink()
        says = "has no proof.json"
    elif spoiled == "swapped":
        proof.write_text(proof.read_text().replace('"prompts": 1', '"prompts": 9'))
        says, wrong = "digest differs", "files"
    else:  # the export of something else, in this stage's folder
        said = json.loads((merged / EXPORT).read_text())
        written(merged, **{"from": said["from"] | {"weights_sha256": "0" * 64}})
        says, wrong = "whose artifact is not in", "made from"
    code, said = call("publish", merged, *RECIPE, "--runs", merged.parents[4], "--to", tmp_path / "out", "--force")
    assert code == 2 and says in said and not (tmp_path / "out").exists()
    code, told = states(call, merged)
    assert (code, told[wrong]) == ((0, "not checked") if spoiled == "failed" else (2, "wrong"))


def test_which_export_is_meant_has_to_be_said(call, merged, tmp_path):
    runs = merged.parents[4]
    code, said = call("publish", "dpo", *RECIPE, "--runs", runs, "--what", "gguf", "--to", tmp_path / "out")
    assert code == 2 and "has no such export; it has merged" in said
    shutil.copytree(merged, merged.with_name("merged-2"))
    code, said = call("publish", "dpo", *RECIPE, "--runs", runs, "--what", "merged", "--to", tmp_path / "out")
    assert code == 2 and "has 2 such exports" in said and "merged-2" in said
