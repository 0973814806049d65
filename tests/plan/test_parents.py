"""What a stage starts from: a stage's policy or a folder's, and whether it was made for this base."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import align, attempt, manifest, plan, refused

from pipeline.errors import PipelineError
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe


def test_another_policy_by_its_folder(built):
    folder = attempt(built, "dpo") / "adapter"
    rows = plan(built, "dpo", "--policy", str(folder))
    assert list(rows) == ["dpo"] and rows["dpo"]["state"] == "run"
    align("run", "dpo", "-r", "micro.yaml", "--policy", str(folder), cwd=built)
    assert manifest(built, "dpo")["parents"]["policy"]["folder"] == str(folder)


@pytest.fixture
def planned(built, monkeypatch):
    """Plans DPO alone, on a base, from an adapter. There are `same` and `other`, the base of the chain and another."""
    monkeypatch.chdir(built)
    for name in ("same", "other"):
        shutil.copytree(attempt(built, "pretrain") / "model", name)
    weights = Path("other/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")

    def planned(base: str, policy: Path):
        Path("mine.yaml").write_text(f"model: {{id: {base}}}\nstages: {{dpo: {{data: {{path: pairs.jsonl}}}}}}\n")
        return Planner(load_recipe("mine.yaml"), Path("runs"), str(policy)).plan(["dpo"])[0]

    return planned


def test_a_policy_made_for_another_base_is_refused_with_both_ways_out(planned, built):
    policy = attempt(built, "sft") / "adapter"
    assert planned("./same", policy).state == "run"
    with pytest.raises(PipelineError) as refused:
        planned("./other", policy)
    theirs = attempt(built, "pretrain") / "model"
    assert f"made for another base, {theirs}; mine.yaml names {built / 'other'}" in refused.value.what
    assert f"Set model.id: {theirs}, or name an adapter of {built / 'other'}" in refused.value.fix
    with pytest.raises(PipelineError, match="made for another base"):
        planned("some/model", policy)


def test_an_adapter_of_elsewhere_is_held_to_the_base_that_it_names(planned, built):
    foreign = built / "foreign"
    shutil.copytree(attempt(built, "sft") / "adapter", foreign)

    def names(base: str | None) -> None:
        said = json.loads((foreign / "adapter_config.json").read_text())
        # Published ones name what only some models have.
        said["target_modules"] = sorted({*said["target_modules"], "W_pack"})
        (foreign / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": base}))

    for named, right, wrong in (
        (str(attempt(built, "pretrain") / "model"), "./same", "./other"),
        ("some/model", "some/model", "another/model"),
    ):
        names(named)
        assert planned(right, foreign).notes == ()
        with pytest.raises(PipelineError, match="made for another base"):
            planned(wrong, foreign)
    for named in (None, "some/model"):
        names(named)
        step = planned("./same", foreign)
        assert step.why == "never run before" and f"policy: whether {foreign} was made for" in step.notes[0]
    assert "note dpo: policy: whether" in align("plan", "-r", "mine.yaml", "--policy", foreign, cwd=built).stdout


def test_what_cannot_take_effect_on_the_adapter_of_another_policy_is_refused(built):
    folder = attempt(built, "dpo") / "adapter"
    own = ["--set", f"stages.dpo.policy={folder}", "--set", "stages.dpo.adapter.r"]
    done = align("plan", "dpo", "-r", "micro.yaml", *own[:3], f"{own[3]}=2", cwd=built, check=False)
    assert (
        done.returncode == 2 and "stages.dpo.adapter.r: cannot take effect" in done.stdout and "r is 4" in done.stdout
    )
    assert plan(built, "dpo", *own[:3], f"{own[3]}=4")["dpo"]["state"] == "run"


def test_a_reward_model_is_never_a_policy(built):
    said = refused(built, "run", "dpo", "-r", "micro.yaml", "--policy", attempt(built, "reward"))
    assert "reward model" in said
