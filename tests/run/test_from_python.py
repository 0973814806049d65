"""The names that `import pipeline` gives: what they plan, run and find is what the command does."""

import re
import subprocess
import sys

import pytest
from conftest import PROJECT, manifest, plan

import pipeline
from pipeline import Artifact, Chain, FallsShort, PipelineError, load_recipe


def test_the_embedded_default_is_planned_from_python(monkeypatch, tmp_path):
    monkeypatch.chdir(PROJECT)
    steps = Chain("recipes/tiny.yaml", runs=tmp_path).plan("dpo")
    assert [(step.stage, step.state) for step in steps] == [("pretrain", "run"), ("sft", "run"), ("dpo", "run")]
    assert steps[-1].why == "after sft" and steps[0].fingerprint


def test_what_is_finished_is_found_as_the_command_finds_it(chain, monkeypatch):
    monkeypatch.chdir(chain)
    found = Chain("micro.yaml").artifacts()
    assert {name: str(one.folder) for name, one in found.items()} == {
        name: row["folder"] for name, row in plan(chain).items()
    }
    sft = found["sft"]
    assert isinstance(sft, Artifact) and sft.output.name == "adapter" and sft.output.is_dir()
    assert sft.manifest["metrics"] == {"before": sft.before, "after": sft.after} == manifest(chain, "sft")["metrics"]
    assert Chain("micro.yaml", ["stages.dpo.train.beta=0.7"]).artifacts("dpo").keys() == {"pretrain", "sft"}


def test_the_page_about_it_runs_as_it_stands(chain, monkeypatch, capsys):
    monkeypatch.chdir(chain)
    page = (PROJECT / "docs/how-to/python.md").read_text(encoding="utf-8")
    first, second = re.findall(r"^```py\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    own = first.replace("recipes/tiny.yaml", "micro.yaml").replace('["seed=7"]', "[]")
    exec(own + second, {})
    assert "dpo up to date" in capsys.readouterr().out


def test_a_run_that_has_nothing_to_do_returns_what_is_there(chain, monkeypatch, capsys):
    monkeypatch.chdir(chain)
    assert Chain("micro.yaml").run("dpo", quiet=True) == Chain("micro.yaml").artifacts("dpo")
    assert capsys.readouterr().out == ""
    Chain("micro.yaml").run("dpo")
    assert "Everything is up to date." in capsys.readouterr().out


def test_a_stage_is_trained_from_python_and_what_it_must_keep_is_asked(built, monkeypatch):
    monkeypatch.chdir(built)
    short = ["stages.sft.train.max_steps=2"]
    with pytest.raises(FallsShort, match="perplexity on the rows of pretrain was") as caught:
        Chain("micro.yaml", [*short, "stages.sft.must_keep={perplexity: 1.0}"]).run("sft", quiet=True)
    assert caught.value.exit_code == 3
    made = Chain("micro.yaml", short).run("sft", quiet=True)  # without the limit it is up to date
    assert made["sft"].manifest["steps"] == 2 and made["sft"].folder != Chain("micro.yaml").artifacts()["sft"].folder


def test_mistakes_are_those_of_the_command(micro, monkeypatch):
    monkeypatch.chdir(micro)
    with pytest.raises(PipelineError, match="did you mean sft"):
        Chain("micro.yaml").plan("stf")
    with pytest.raises(PipelineError, match="unknown key"):
        load_recipe("micro.yaml", ["sede=3"])


def test_the_public_names_are_there_and_importing_them_late_costs_nothing_early():
    assert all(getattr(pipeline, name) for name in pipeline.__all__) and pipeline._HOMES.keys() == {*pipeline.__all__}
    assert {*pipeline.__all__} <= {*dir(pipeline)}
    code = "import sys, pipeline; print(len([one for one in sys.modules if one.startswith('pipeline')]), 'pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == ["1", "False"]
    with pytest.raises(AttributeError):
        pipeline.nothing  # noqa: B018
