"""Publishing: what goes up, to whom, and what does not; against a hub on this machine with the hub's own client."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import align, attempt, manifest
from hub import TOKEN, Repository
from huggingface_hub import ModelCard
from publishing import in_this_process, own_hub  # noqa: F401

from pipeline.recipe.reading import load_recipe
from pipeline.use import usage
from pipeline.use.card import card
from pipeline.use.choice import chosen
from pipeline.use.known import Known, known
from pipeline.use.publication import publication

RECIPE = ("-r", "micro.yaml")


def published(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def code_of(card: str) -> str:
    return card.split("```python\n")[1].split("```")[0]


def test_chain_goes_up_whole_and_a_stranger_uses_it_as_its_card_says(chain, hub, tmp_path):
    """In processes of their own, with nothing but the environment to lead them."""
    online = os.environ | hub.environment(tmp_path / "home") | {"HF_TOKEN": TOKEN}
    said = align("publish", "pretrain", *RECIPE, "--repo", "ada/base", cwd=chain, env=online).stdout
    said += align("publish", "dpo", *RECIPE, "--repo", "ada/dpo", "--base", "ada/base", cwd=chain, env=online).stdout
    base, dpo = hub.repositories["ada/base"], hub.repositories["ada/dpo"]
    assert base.private and dpo.private and len(dpo.commits) == 2  # made, and filled by one commit
    for repository, folder in ((base, attempt(chain, "pretrain") / "model"), (dpo, attempt(chain, "dpo") / "adapter")):
        for name, content in published(folder).items():
            assert name == "adapter_config.json" or repository.files[name] == content
    ours = json.loads((attempt(chain, "dpo") / "adapter/adapter_config.json").read_text())
    assert json.loads(dpo.files["adapter_config.json"]) == ours | {
        "base_model_name_or_path": "ada/base",
        "revision": base.commits[-1][0],
    }
    for text in (said, *(content.decode(errors="replace") for one in (base, dpo) for content in one.files.values())):
        assert TOKEN not in text and str(chain) not in text

    stranger = os.environ | hub.environment(tmp_path / "stranger") | {"HF_TOKEN": TOKEN}
    code = code_of(dpo.files["README.md"].decode())
    done = subprocess.run([sys.executable, "-c", code], env=stranger, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = align("verify", "hub:ada/dpo", "--json", cwd=tmp_path, env=stranger)
    told = {one["what"]: one["state"] for one in json.loads(found.stdout)["findings"]}
    assert told["files"] == told["weights"] == told["policy of dpo"] == told["fit"] == "proven"
    assert told["manifest of dpo"] == "not checked" and told["figures"] == told["base"] == "claimed"


def test_what_broke_half_way_goes_on_and_sends_nothing_twice(hub, call):
    hub.suffixes, hub.broken = (".safetensors", ".json"), 2
    code, said = call("publish", "dpo", *RECIPE, "--repo", "ada/dpo")
    assert code == 1 and "the repository is as it was" in said and "same command again" in said
    assert "Signature" not in said
    assert len(hub.repositories["ada/dpo"].commits) == 1 and len(hub.received) == 2
    hub.broken = None
    code, said = call("publish", "dpo", *RECIPE, "--repo", "ada/dpo")
    assert code == 0 and len(hub.received) == len(set(hub.received)) > 2
    assert len(hub.repositories["ada/dpo"].commits) == 2
    code, said = call("publish", "dpo", *RECIPE, "--repo", "ada/dpo")
    assert code == 0 and "was all there already" in said and len(hub.repositories["ada/dpo"].commits) == 2


def test_published_again_replaces_what_was_published_and_leaves_the_rest(hub, call):
    call("publish", "dpo", *RECIPE, "--repo", "ada/dpo")
    repository = hub.repositories["ada/dpo"]
    old = json.loads(repository.files["lineage.json"]) | {"files": {"old.safetensors": {}}}
    more = {"lineage.json": json.dumps(old).encode(), "old.safetensors": b"old", "LICENSE": b"mine"}
    repository.commit(repository.files | more)
    assert call("publish", "dpo", *RECIPE, "--repo", "ada/dpo")[0] == 0
    assert "old.safetensors" not in repository.files and repository.files["LICENSE"] == b"mine"


@pytest.mark.parametrize(
    ("there", "arguments", "says"),
    [
        ({}, ["dpo", "--repo", "bob/dpo"], "is not yours: it belongs to bob, and the token is of ada"),
        ({}, ["dpo", "--repo", "dpo"], "Write it as owner/name"),
        ({}, ["dpo"], "where to?"),
        ({"README.md": b"---\ntags: [mine]\n---\n"}, ["dpo"], "does not say that it was published from here"),
        ({"model.safetensors": b"mine"}, ["dpo"], "does not say that it was published from here"),
        ("sft", ["dpo"], "holds something else: stage sft where this has dpo"),
        ("public", ["dpo"], "exists and is public"),
        ("dpo", ["dpo", "--public"], "exists and is private"),
        ({}, ["dpo", "--base", "ada/none"], "there is no such repository"),
        ("reward", ["dpo", "--base", "ada/there"], "its weights are not those of"),
        ({}, ["pretrain", "--base", "ada/there"], "--base: pretrain needs none"),
    ],
)
def test_refused_before_anything_is_sent(hub, call, there, arguments, says):
    if isinstance(there, str) and there != "public":
        assert call("publish", there, *RECIPE, "--repo", "ada/there")[0] == 0
    elif there:
        hub.repositories["ada/there"] = Repository(private=there != "public")
        if there != "public":
            hub.repositories["ada/there"].commit(there)
    before, sent = [len(one.commits) for one in hub.repositories.values()], len(hub.received)
    if "--repo" not in arguments and says != "where to?":
        arguments = [*arguments, "--repo", "ada/there"]
    code, said = call("publish", *arguments, *RECIPE)
    assert (code, len(hub.received)) == (2, sent) and says in said
    assert [len(one.commits) for one in hub.repositories.values()] == before


def test_force_writes_over_what_is_foreign_and_removes_nothing_of_it(hub, call):
    hub.repositories["ada/there"] = Repository(private=True)
    hub.repositories["ada/there"].commit({"README.md": b"mine", "notes.txt": b"mine"})
    assert call("publish", "dpo", *RECIPE, "--repo", "ada/there", "--force")[0] == 0
    assert hub.repositories["ada/there"].files["notes.txt"] == b"mine"
    assert b"align-pipeline" in hub.repositories["ada/there"].files["README.md"]


def test_without_a_token_it_says_how_to_log_in(hub, call, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, said = call("publish", "dpo", *RECIPE, "--repo", "ada/dpo")
    assert code == 2 and "hf auth login" in said and not hub.repositories
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_wrong_wrong")
    code, said = call("publish", "dpo", *RECIPE, "--repo", "ada/dpo")
    assert code == 2 and "does not accept the token" in said and "hf_wrong" not in said and not hub.repositories


def test_license_that_the_hub_does_not_know_is_told(hub, call):
    code, said = call("publish", "dpo", *RECIPE, "--repo", "ada/dpo", "--license", "my own")
    assert code == 2 and '"license" must be one of' in said and "Nothing was committed" in said
    assert len(hub.repositories["ada/dpo"].commits) == 1


def test_to_a_folder_nothing_is_sent_and_nothing_private_is_in_it(chain, call, tmp_path):
    code, said = call("publish", "ppo", *RECIPE, "--to", tmp_path / "out")
    assert code == 0 and "nothing was sent" in said and "nobody else can use the adapter" in said
    secret = manifest(chain, "ppo")["samples"][0]["prompt"]
    for name, content in published(tmp_path / "out").items():
        text = content.decode(errors="replace")
        assert str(chain) not in text and str(Path.home()) not in text.replace("/root/", "/"), name
        assert name == "tokenizer.json" or secret not in text, name
    assert call("publish", "ppo", *RECIPE, "--to", tmp_path / "out")[0] == 0  # an earlier publication is replaced
    code, said = call("publish", "ppo", *RECIPE, "--to", tmp_path)
    assert code == 2 and "is not empty" in said


def test_secret_in_what_would_go_up_stops_it(call, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "TokenizersBackend")  # which stands in tokenizer_config.json
    code, said = call("publish", "dpo", *RECIPE, "--to", tmp_path / "out")
    assert code == 2 and "holds the value of WANDB_API_KEY" in said and not (tmp_path / "out").exists()


def test_damaged_and_foreign_artifacts_are_not_published(chain, call, tmp_path):
    shutil.copytree(chain / "runs", tmp_path / "runs", symlinks=True)
    weights = tmp_path / "runs/micro/dpo/latest/adapter/adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, said = call("publish", "dpo", *RECIPE, "--runs", tmp_path / "runs", "--to", tmp_path / "out")
    assert code == 2 and "damaged" in said
    shutil.copytree(attempt(chain, "dpo") / "adapter", tmp_path / "copied")
    code, said = call("publish", tmp_path / "copied", *RECIPE, "--to", tmp_path / "out")
    assert code == 2 and "was not made by this pipeline" in said


@pytest.mark.parametrize("stage", ["pretrain", "dpo", "reward"])
def test_card_is_the_hubs_and_its_lines_run(chain, call, tmp_path, stage, capsys):
    call("publish", stage, *RECIPE, "--to", tmp_path / "out", "--repo", "ada/mine", "--license", "mit")
    said = ModelCard.load(tmp_path / "out" / "README.md")
    scores = stage == "reward"
    assert said.data.pipeline_tag == ("text-classification" if scores else "text-generation")
    assert said.data.library_name == ("transformers" if stage == "pretrain" else "peft") and said.data.license == "mit"
    after = manifest(chain, stage)["metrics"]["after"]
    results = {one.metric_name: one.metric_value for one in said.data.eval_results}
    assert results["loss"] == round(after["loss"], 4)
    assert "n" not in results and "guess by length" not in results
    account = manifest(chain, stage)["data"]["rows"]
    row = "| " + " | ".join([stage, *(str(account[key]) for key in ("read", "trained", "held_out", "dropped"))]) + " |"
    assert row in said.content
    code = code_of(said.content).replace("ada/mine", str(tmp_path / "out"))
    code = code.replace("path/to/the/base", str(attempt(chain, "pretrain") / "model"))
    exec(code, {})
    assert capsys.readouterr().out.strip() or not scores


def test_card_tells_what_got_worse_how_few_the_rows_are_and_licenses(chain, call, tmp_path, monkeypatch):
    recipe = load_recipe(chain / "micro.yaml")
    going = publication(chosen("ppo", None, recipe, chain / "runs"))
    said = json.loads(json.dumps(going.lineage))
    last = said["stages"][-1]
    last["metrics"] = {
        "before": {"exact_match": 0.5, "n": 8},
        "after": {"exact_match": 0.25, "n": 8, "nearest_question": 0.5},
    }
    last["data"]["files"] = [{"name": "hub:bob/rows", "sha256": f"hub:bob/rows@{'c' * 40}"}]
    said["base"] |= {"repository": "bob/base", "commit": "d" * 40}
    for kind, name, commit, text in (
        ("models", "bob--base", "d", "license: apache-2.0"),
        ("datasets", "bob--rows", "c", "license: cc-by-4.0\nlanguage: [de]"),
    ):
        folder = tmp_path / f"{kind}--{name}" / "snapshots" / (commit * 40)
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(f"---\n{text}\n---\n")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    text = card(said, known(said, "ada/mine", None))
    found = ModelCard(text)
    assert (found.data.base_model, found.data.base_model_relation) == ("bob/base", "adapter")
    assert found.data.license == "apache-2.0" and found.data.language == ["de"] and found.data.datasets == ["bob/rows"]
    limits = found.text.split("## Limits")[1].split("##")[0]
    assert "ppo made the exact match worse: 0.500 before, 0.250 after" in limits
    assert (
        "Few rows are held out (" in limits
        and "ppo 8" in limits
        and "looking up the nearest training question does as well (0.500)" in limits
    )
    assert "(cc-by-4.0)" in found.text and "is not on the hub" not in found.text


def test_lines_of_an_adapter_on_four_bits_load_the_base_in_four_bits(chain, call):
    going = publication(chosen("dpo", None, load_recipe(chain / "micro.yaml"), chain / "runs"))
    said = going.lineage | {"base": going.lineage["base"] | {"load_in_4bit": True, "repository": "bob/base"}}
    text = usage.python(said, "ada/mine")
    compile(text, "card", "exec")
    assert "load_in_4bit=True" in text and 'from_pretrained("ada/mine", quantization_config=quantized)' in text
    assert "in 4 bits" in card(said, Known("ada/mine"))


@pytest.mark.parametrize(
    ("what", "files", "lines"),
    [
        ("gguf", ["model.gguf", "Modelfile"], ["llama-cli -m model/model.gguf", "ollama create mine -f Modelfile"]),
        ("gguf-adapter", ["adapter.gguf"], ["llama-cli -m path/to/the/base.gguf --lora model/adapter.gguf"]),
    ],
)
def test_lines_of_gguf_are_those_of_llama_cpp_and_ollama(chain, call, what, files, lines):
    going = publication(chosen("dpo", None, load_recipe(chain / "micro.yaml"), chain / "runs"))
    said = "\n".join(usage.usage(going.lineage | {"what": what, "files": dict.fromkeys(files)}, "ada/Mine"))
    assert all(line in said for line in lines) and ("ollama" in said) == ("Modelfile" in files)
