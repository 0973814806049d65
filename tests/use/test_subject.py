"""What a name means to the commands that use what was trained, and how several of it share one base."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import attempt, manifest
from publishing import in_this_process, own_hub  # noqa: F401
from safetensors.torch import load_file, save_file

from pipeline.artifact import command
from pipeline.errors import PipelineError
from pipeline.plan.changed import changes
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe
from pipeline.use.loaded import load
from pipeline.use.subject import _command, all_of, find, finished, last_policy


@pytest.fixture(autouse=True)
def here(chain, monkeypatch):
    monkeypatch.chdir(chain)


def test_stage_means_its_finished_artifact_and_so_do_its_folders(chain, recipe):
    dpo = find("dpo", recipe, chain / "runs")
    assert dpo.folder == attempt(chain, "dpo") / "adapter" and dpo.is_adapter
    assert dpo.base.identity == manifest(chain, "dpo")["base"]["identity"]
    for name in (attempt(chain, "dpo"), chain / "runs/micro/dpo/latest", dpo.folder):
        assert find(str(name), recipe, chain / "runs").folder.resolve() == dpo.folder
    pretrained = find("pretrain", recipe, chain / "runs")
    assert not pretrained.is_adapter and pretrained.base.source == str(pretrained.folder)


def test_the_last_policy_is_the_last_that_is_trained(chain, built, recipe):
    assert last_policy(recipe, chain / "runs") == "ppo"
    shutil.rmtree(built / "runs/micro/ppo")
    assert last_policy(recipe, built / "runs") == "dpo"
    assert last_policy(recipe, built / "none") == "ppo"  # nothing is: the error then says how to train it


def test_adapter_copied_elsewhere_stands_on_the_base_that_it_names(chain, recipe, tmp_path):
    shutil.copytree(attempt(chain, "dpo") / "adapter", tmp_path / "copied")
    found = find(str(tmp_path / "copied"), recipe, chain / "runs")
    assert found.base.source == str(attempt(chain, "pretrain") / "model") and found.attempt is None


def recipe_on(model: Path, folder: Path):
    """A recipe whose base is this model."""
    (folder / "other.yaml").write_text(
        f"name: other\nmodel: {{id: {model}}}\nstages: {{sft: {{data: {{path: chat.jsonl}}}}}}\n"
    )
    return load_recipe(folder / "other.yaml")


def test_published_adapter_stands_on_the_base_that_it_was_trained_on_and_on_no_other(chain, recipe, call, tmp_path):
    base, nowhere = attempt(chain, "pretrain") / "model", tmp_path / "runs"
    call("publish", "dpo", "-r", "micro.yaml", "--to", tmp_path / "out")
    published = str(tmp_path / "out")
    assert find(published, recipe, chain / "runs").base.source == str(base)
    shutil.copytree(base, tmp_path / "copied")
    found = find(published, recipe_on(tmp_path / "copied", tmp_path), nowhere)
    assert found.base.source == str(tmp_path / "copied") and "other.yaml: it names none" in found.where
    file = tmp_path / "copied/model.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(PipelineError, match="was trained on another base than") as error:
        find(published, recipe_on(tmp_path / "copied", tmp_path), nowhere)
    assert "--recipe" in error.value.fix


def test_adapter_whose_base_is_gone_says_on_which_it_stands(chain, tmp_path):
    shutil.copytree(attempt(chain, "dpo") / "adapter", tmp_path / "copied")
    file = tmp_path / "copied/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "/gone/model"}))
    base = attempt(chain, "pretrain") / "model"
    found = find(str(tmp_path / "copied"), recipe_on(base, tmp_path), tmp_path / "runs")
    assert found.base.source == str(base) and "/gone/model, which it names, is not there" in found.where


def test_what_would_train_it_says_all_that_was_said(chain):
    for overrides, says in (
        (["stages.dpo.train.beta=0.3"], "--set stages.dpo.train.beta=0.3."),
        (
            ["stages.sft.data={path: chat.jsonl, held_out: 0.3}"],
            "--set 'stages.sft.data={path: chat.jsonl, held_out: 0.3}'.",
        ),
    ):
        with pytest.raises(PipelineError) as error:
            find("dpo", load_recipe("micro.yaml", overrides), Path("runs"))
        assert "align run dpo -r micro.yaml " in error.value.fix and says in error.value.fix
    with pytest.raises(PipelineError) as error:
        find("dpo", load_recipe("micro.yaml"), Path("else where"))
    assert "align run dpo -r micro.yaml --runs 'else where'" in error.value.fix


def test_nobody_talks_to_an_adapter_with_a_byte_changed(chain, recipe, tmp_path):
    shutil.copytree(chain / "runs", tmp_path / "runs", symlinks=True)
    file = tmp_path / "runs/micro/dpo/latest/adapter/adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for ask in (
        lambda: all_of(["sft", "dpo"], recipe, tmp_path / "runs", "chat"),
        lambda: finished(recipe, tmp_path / "runs"),
    ):
        with pytest.raises(PipelineError, match="its digest differs"):
            ask()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("dop", "did you mean dpo"),
        ("nowhere/else", "is no stage of"),
        (
            "runs/micro/dpo",
            r"holds the attempts at a stage\.\nName one of them; the newest is runs/micro/dpo/[0-9a-f]{12}\.",
        ),
        ("runs/micro", "holds neither an adapter nor a model"),
    ],
)
def test_what_is_neither_stage_nor_folder_is_refused(chain, recipe, name, says):
    with pytest.raises(PipelineError, match=says):
        find(name, recipe, chain / "runs")


def test_stage_that_the_recipe_would_train_again_is_refused_with_the_older_one(chain, monkeypatch):
    changed = load_recipe(chain / "micro.yaml", ["stages.dpo.train.beta=0.3"])
    with pytest.raises(PipelineError) as error:
        find("dpo", changed, chain / "runs")
    assert "beta" in str(error.value) and str(attempt(chain, "dpo")) in str(error.value)


def test_an_older_one_that_began_otherwise_is_named_with_what_its_command_said(chain, tmp_path):
    shutil.copytree(chain / "runs", tmp_path / "runs", symlinks=True)
    said = tmp_path / "runs/micro/dpo/latest" / command.FILE
    said.write_text(json.dumps({"recipe": "micro.yaml", "overrides": [], "policy": "out/sft"}))
    changed = load_recipe(chain / "micro.yaml", ["stages.dpo.train.beta=0.3"])
    with pytest.raises(PipelineError, match="An older one, of a run with --policy out/sft, is finished: name it by"):
        find("dpo", changed, tmp_path / "runs")
    contents = Planner(changed, tmp_path / "runs").contents
    (other,) = changes(contents, "dpo", {"adapter": {}, "policy": "a" * 64}, {"adapter": {}, "policy": None})
    assert other == "policy: aaaaaaaa -> the base"


def test_make_is_named_only_where_there_is_a_makefile(chain, tmp_path, monkeypatch):
    plain = load_recipe(chain / "micro.yaml")
    monkeypatch.chdir(tmp_path)
    for there in (False, True):
        (tmp_path / "Makefile").write_text("") if there else None
        assert _command("dpo", plain, Path("runs")).startswith("make dpo" if there else "align run dpo -r ")


def test_damaged_and_unfinished_artifacts_are_refused(chain, recipe, tmp_path):
    shutil.copytree(chain / "runs", tmp_path / "runs", symlinks=True)
    (tmp_path / "runs/micro/dpo/latest/adapter/adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(PipelineError, match="damaged"):
        find("dpo", recipe, tmp_path / "runs")
    (tmp_path / "runs/micro/dpo/latest/manifest.json").unlink()
    with pytest.raises(PipelineError, match="not trained as the recipe stands"):
        find("dpo", recipe, tmp_path / "runs")
    with pytest.raises(PipelineError, match="unfinished attempt"):
        find(str(tmp_path / "runs/micro/dpo/latest"), recipe, tmp_path / "runs")


def test_reward_model_gives_no_answers(chain, recipe):
    with pytest.raises(PipelineError, match="chat: reward is a reward model"):
        find("reward", recipe, chain / "runs").answers("chat")


def test_two_stages_share_one_base_and_each_answers_as_it_would_alone(chain, recipe):
    subjects = [find(name, recipe, chain / "runs") for name in ("sft", "dpo")]
    together, alone = load(subjects), [load([one])[0] for one in subjects]
    assert together[0].model is together[1].model
    ids = torch.tensor([together[0].encoder.prompt_ids([{"role": "user", "content": "Which colour has bana?"}], None)])
    logits = []
    for shared, own in zip(together, alone, strict=True):
        with shared.acting() as model:
            logits.append(model(ids).logits)
        with own.acting() as model:
            assert torch.equal(logits[-1], model(ids).logits)
    assert not torch.equal(*logits)
