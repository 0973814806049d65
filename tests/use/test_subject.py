"""What a name means to the commands that use what was trained, and how several of it share one base."""

import shutil

import pytest
import torch
from conftest import attempt, manifest

from pipeline.errors import PipelineError
from pipeline.recipe.reading import load_recipe
from pipeline.use.loaded import load
from pipeline.use.subject import find, last_policy


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
    assert last_policy(recipe) == "ppo"


def test_adapter_copied_elsewhere_stands_on_the_base_that_it_names(chain, recipe, tmp_path):
    shutil.copytree(attempt(chain, "dpo") / "adapter", tmp_path / "copied")
    found = find(str(tmp_path / "copied"), recipe, chain / "runs")
    assert found.base.source == str(attempt(chain, "pretrain") / "model") and found.attempt is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("dop", "did you mean dpo"),
        ("nowhere/else", "is no stage of"),
        ("runs/micro/dpo", "holds neither an adapter nor a model"),
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
