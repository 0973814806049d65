"""gc takes what nothing needs, children first, and never what might be needed."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import ALL, align, attempt, states
from filelock import FileLock

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.command import Command
from pipeline.plan.gc import Garbage, remove
from pipeline.recipe.reading import load_recipe

STRAY = [f"{stage}/{number:012}" for number, stage in enumerate(("ppo", "reward", "dpo", "sft", "pretrain"))]


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


def test_what_is_removed_takes_its_curves_along(tmp_path):
    going, staying = (
        Attempt(tmp_path / "runs" / "micro" / "sft" / name) for name in ("0123456789ab", "0123456789ab-2")
    )
    for one in (going, staying):
        one.folder.mkdir(parents=True)
        one.curves.mkdir(parents=True)
    remove(going.folder)
    assert not going.folder.exists() and not going.curves.exists() and staying.curves.is_dir()
