"""What runs again, and why: decided from contents, never from times or places."""

import json
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import align, attempt, manifest, write_micro
from filelock import FileLock

from pipeline.artifact.command import Command
from pipeline.errors import PipelineError
from pipeline.plan.gc import Garbage
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe

ALL = ["pretrain", "sft", "dpo", "reward", "ppo"]
STRAY = [f"{stage}/{number:012}" for number, stage in enumerate(("ppo", "reward", "dpo", "sft", "pretrain"))]


def plan(folder: Path, *arguments: str) -> dict[str, dict]:
    rows = json.loads(align("plan", "-r", "micro.yaml", "--json", *arguments, cwd=folder).stdout)
    return {row["stage"]: row for row in rows}


def states(folder: Path, *arguments: str) -> dict[str, str]:
    return {stage: row["state"] for stage, row in plan(folder, *arguments).items()}


def test_what_is_done_is_not_done_again(built):
    assert states(built) == dict.fromkeys(ALL, "up to date")
    started = time.monotonic()
    assert "Everything is up to date" in align("run", "-r", "micro.yaml", cwd=built).stdout
    assert time.monotonic() - started < 60  # no library was loaded for it; the figure itself stands in benchmarks/


def test_a_changed_key_runs_its_stage_and_what_stands_on_it(built):
    rows = plan(built, "--set", "stages.sft.train.learning_rate=1e-3")
    assert [rows[stage]["state"] for stage in ALL] == ["up to date", "run", "run", "run", "run"]
    assert rows["ppo"]["why"] == "after sft and reward"
    assert rows["sft"]["why"] == "train.learning_rate: 0.005 -> 0.001"
    assert rows["dpo"]["why"] == "after sft"
    assert states(built, "--set", "stages.dpo.train.beta=0.2") == dict.fromkeys(ALL, "up to date") | {"dpo": "run"}
    assert states(built) == dict.fromkeys(ALL, "up to date")


@pytest.mark.parametrize(
    "how",
    ["train.logging_steps=1", "train.save_steps=2", "threads=2", "train.gradient_checkpointing=true",
     "stages.sft.train={per_device_train_batch_size: 2, gradient_accumulation_steps: 2}"],
)  # fmt: skip
def test_how_is_trained_is_no_reason_to_train_again(built, how):
    assert states(built, "--set", how) == dict.fromkeys(ALL, "up to date")


def test_contents_count_and_times_and_places_do_not(built):
    for path in built.rglob("*"):
        if path.is_file():
            os.utime(path, (1, 1))
    moved = built.rename(built.with_name("elsewhere"))
    assert states(moved) == dict.fromkeys(ALL, "up to date")
    pairs = moved / "pairs.jsonl"
    pairs.write_text(pairs.read_text().replace("I say", "I think"))
    assert states(moved) == dict.fromkeys(ALL, "run") | {"pretrain": "up to date", "sft": "up to date"}
    assert "content of pairs.jsonl: " in plan(moved)["dpo"]["why"]


def test_a_moved_runs_folder_is_trained_on(built):
    moved = built.rename(built.with_name("elsewhere"))
    align("run", "dpo", "-r", "micro.yaml", "--set", "stages.dpo.train.beta=0.2", cwd=moved)
    assert manifest(moved, "dpo")["base"]["source"].startswith(str(moved))


def test_a_missing_parent_is_built_first(built):
    shutil.rmtree(built / "runs" / "micro" / "sft")
    rows = plan(built, "dpo")
    assert [row["state"] for row in rows.values()] == ["up to date", "run", "run"]
    assert rows["dpo"]["why"] == "after sft"


def test_a_changed_evaluation_evaluates_again_and_retrains_nothing(built):
    before = {stage: manifest(built, stage)["weights_sha256"] for stage in ALL}
    changed = ["--set", "evaluation.max_rows=4"]
    assert states(built, *changed) == dict.fromkeys(ALL, "evaluate")
    align("run", "-r", "micro.yaml", *changed, cwd=built)
    assert states(built, *changed) == dict.fromkeys(ALL, "up to date")
    assert {stage: manifest(built, stage)["weights_sha256"] for stage in ALL} == before
    assert manifest(built, "dpo")["metrics"]["after"]["n"] == 4


def test_the_same_evaluation_again_finds_the_same_figures(built):
    before = {stage: manifest(built, stage)["metrics"] for stage in ALL}
    align("run", "-r", "micro.yaml", "--set", "evaluation.max_rows=4", cwd=built)
    align("run", "-r", "micro.yaml", cwd=built)
    for stage in ALL:
        for when in ("before", "after"):
            assert manifest(built, stage)["metrics"][when] == pytest.approx(before[stage][when], abs=1e-6)


def test_fresh_is_another_attempt_beside_the_first(built):
    first = attempt(built, "dpo")
    align("run", "dpo", "-r", "micro.yaml", "--fresh", cwd=built)
    assert attempt(built, "dpo").name == f"{first.name}-2" and (first / "manifest.json").is_file()
    assert (
        manifest(built, "dpo")["weights_sha256"] == json.loads((first / "manifest.json").read_text())["weights_sha256"]
    )


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
        (foreign / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": base}))

    for named, right, wrong in ((str(attempt(built, "pretrain") / "model"), "./same", "./other"),
                                ("some/model", "some/model", "another/model")):  # fmt: skip
        names(named)
        assert "cannot be told" not in planned(right, foreign).why
        with pytest.raises(PipelineError, match="made for another base"):
            planned(wrong, foreign)
    for named in (None, "some/model"):
        names(named)
        assert "was made for" in (why := planned("./same", foreign).why) and "cannot be told" in why


def test_what_cannot_take_effect_on_the_adapter_of_another_policy_is_refused(built):
    folder = attempt(built, "dpo") / "adapter"
    own = ["--set", f"stages.dpo.policy={folder}", "--set", "stages.dpo.adapter.r"]
    done = align("plan", "dpo", "-r", "micro.yaml", *own[:3], f"{own[3]}=2", cwd=built, check=False)
    assert (
        done.returncode == 2 and "stages.dpo.adapter.r: cannot take effect" in done.stdout and "r is 4" in done.stdout
    )
    assert plan(built, "dpo", *own[:3], f"{own[3]}=4")["dpo"]["state"] == "run"


def test_an_attempt_begun_otherwise_is_refused_with_both_ways_out(built):
    folder = attempt(built, "dpo")
    (folder / "manifest.json").unlink()
    machine = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(machine | {"device": "cuda"}))
    done = align("run", "dpo", "-r", "micro.yaml", cwd=built, check=False)
    assert done.returncode == 2 and "FRESH=1" in done.stdout and "device" in done.stdout


def test_what_another_process_works_on_is_shown_as_running_and_refused(built):
    folder = attempt(built, "sft")
    (folder / "manifest.json").unlink()
    with FileLock(folder / ".lock"):
        rows = plan(built, "dpo")
        assert (rows["sft"]["state"], rows["dpo"]["why"]) == ("running", "after sft")
        done = align("run", "dpo", "-r", "micro.yaml", cwd=built, check=False)
        assert done.returncode == 2 and "sft: another run is working on" in done.stdout
    assert states(built, "sft")["sft"] == "continue"


def test_status_for_a_program(built):
    rows = json.loads(align("status", "-r", "micro.yaml", "--json", cwd=built).stdout)
    assert [row["stage"] for row in rows] == ALL
    assert rows[1]["metrics"]["after"]["n"] == 8
    other = ["dpo", "--policy", attempt(built, "dpo")]
    (row,) = json.loads(align("status", "-r", "micro.yaml", "--json", *other, cwd=built).stdout)
    assert row["state"] == "run" and row["parent"] == "dpo"


def test_gc_keeps_what_the_recipe_resolves_to_and_takes_what_options_made_only_when_told(built):
    align("run", "dpo", "-r", "micro.yaml", "--set", "stages.dpo.train.beta=0.2", cwd=built)
    other = attempt(built, "dpo")
    shown = align("gc", "-r", "micro.yaml", "--delete", cwd=built).stdout
    assert (
        "made with --set stages.dpo.train.beta=0.2 (train.beta: 0.1 -> 0.2)" in shown
        and "Nothing can go without --all" in shown
    )
    assert other.is_dir() and states(built) == dict.fromkeys(ALL, "up to date")
    align("gc", "-r", "micro.yaml", "--delete", "--all", cwd=built)
    assert not other.exists() and states(built) == dict.fromkeys(ALL, "up to date")
    assert attempt(built, "dpo").is_dir()  # latest points to what the recipe resolves to again


@pytest.fixture
def going(built, monkeypatch):
    """The attempts that gc would take, as stage/name, once there is a stray one of every stage."""
    monkeypatch.chdir(built)
    for stray in STRAY:
        folder = Path("runs/micro") / stray
        shutil.copytree(attempt(built, folder.parent.name), folder)
        inputs = json.loads((folder / "inputs.json").read_text())
        (folder / "inputs.json").write_text(json.dumps(inputs | {"seed": 7}))
        (folder / "command.json").write_text(json.dumps(asdict(Command(str(built / "micro.yaml"), [], None))))

    def going(everything: bool = False) -> list[str]:
        garbage = Garbage(load_recipe("micro.yaml"), Path("runs"))
        return [str(one.attempt.folder.relative_to("runs/micro")) for one in garbage.unneeded(everything)]

    return going


def test_gc_takes_what_nothing_needs_children_first(going):
    assert sorted(going()) == sorted(STRAY)
    assert going().index(STRAY[0]) < going().index(STRAY[3]) < going().index(STRAY[4])


def test_gc_takes_nothing_that_might_be_what_the_recipe_resolves_to(going):
    shutil.rmtree(attempt(Path(), "sft"))
    assert sorted(going(True)) == sorted([STRAY[3], STRAY[4]])  # what stands on sft is not known without it


def test_gc_takes_nothing_that_another_recipe_names_or_resolves_to_be_it_readable_or_not(going, built):
    Path("other.yaml").write_text(
        f"model: {{id: m}}\nstages: {{dpo: {{policy: runs/micro/{STRAY[3]}/adapter, data: [}}\n"
    )
    assert STRAY[3] not in going(True) and STRAY[2] in going(True)
    seven = Path("micro.yaml").read_text().replace("{path: text.jsonl}", "{path: text.jsonl, held_out: 0.3}")
    Path("other.yaml").write_text(seven)  # of the same name, after data of its own: its first stage is known, no other
    assert going(True) == [STRAY[4]]
    Path("other.yaml").write_text("name: micro\nstages: [\n")
    assert going(True) == []
    Path("other.yaml").unlink()


def test_gc_takes_nothing_that_a_running_stage_was_begun_with(going):
    folder = Path("runs/micro/dpo") / ("1" * 12)
    shutil.copytree(Path("runs/micro") / STRAY[2], folder)
    (folder / "manifest.json").unlink()
    weights = json.loads((Path("runs/micro") / STRAY[3] / "manifest.json").read_text())["weights_sha256"]
    (folder / "inputs.json").write_text(json.dumps({"policy": weights, "base": {}}))
    assert STRAY[3] in going(True)
    with FileLock(folder / ".lock"):
        assert STRAY[3] not in going(True)


def test_gc_shows_first_and_takes_only_what_nothing_names(built):
    assert "Nothing to remove" in align("gc", "-r", "micro.yaml", cwd=built).stdout
    first = attempt(built, "dpo")
    align("run", "dpo", "-r", "micro.yaml", "--fresh", cwd=built)
    assert str(first.relative_to(built)) in align("gc", "-r", "micro.yaml", cwd=built).stdout and first.is_dir()
    align("gc", "-r", "micro.yaml", "--delete", cwd=built)
    assert not first.exists()
    assert states(built) == dict.fromkeys(ALL, "up to date")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("stages.sft.data.separator=xyz", "data.separator: chat.jsonl: only plain texts"),
        ("stages.sft.data.revision=v1", "data.revision: chat.jsonl: only data sets of the hub"),
    ],
)
def test_what_cannot_take_effect_on_a_file_is_refused(tmp_path, monkeypatch, option, said):
    monkeypatch.chdir(tmp_path)
    loaded = load_recipe(write_micro(tmp_path), [option])
    with pytest.raises(PipelineError, match=said):
        Planner(loaded, tmp_path / "runs").plan(["sft"])


def test_a_separator_takes_effect_where_one_of_the_files_is_a_plain_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = write_micro(tmp_path)
    Path("corpus.txt").write_text("one\n%%\ntwo\n")
    data = "{path: corpus.txt, separator: '%%', held_out: text.jsonl}"
    (step,) = Planner(load_recipe(recipe, [f"stages.pretrain.data={data}"]), tmp_path / "runs").plan(["pretrain"])
    assert step.state == "run"
