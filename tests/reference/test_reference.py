"""docs/reference/ says what the code says now, every key has its meaning, and a manifest holds what its page tells."""

import json
import re
import subprocess
import sys

import pytest
from conftest import ALL, PROJECT, manifest
from pydantic import ConfigDict, TypeAdapter, with_config

from pipeline.artifact import schema
from pipeline.cli.main import app
from pipeline.console.figures import MEANING
from pipeline.reference import keys
from pipeline.reference.commands import commands, parameters
from pipeline.reference.fields import _TRL
from pipeline.reference.markdown import anchor, table
from pipeline.reference.stages import stages_page
from pipeline.reward.verifiable import BUILT_IN
from pipeline.stage import specs

LEAST = {  # of a key that some stages take: a value that is none of its defaults
    "reward": "reward",
    "reward_function": "score.py:score",
    "reward_function_weight": 2.0,
    "reward_functions": {"brief": {"function": "length", "at_most": 9}},
    "share_prompt": "auto",
    "learn": "last",
}


def test_the_committed_pages_are_what_the_code_says_now_and_nothing_heavy_is_loaded():
    code = (
        "import sys; from pipeline.reference.__main__ import stale; print(stale());"
        "print([one for one in ('torch', 'transformers', 'trl', 'peft', 'numpy') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"], f"{done.stdout}: run `make reference`"


def test_every_key_of_a_recipe_has_a_meaning():
    sections = [*keys.HEADINGS, *BUILT_IN.values()]
    assert [(one.__name__, key) for one in sections for key in one.model_fields if not keys.meaning(one, key)] == []


def test_every_option_of_every_command_has_a_help():
    told = [(name, one) for name, function in commands(app, "align") for one in parameters(function)]
    assert len(told) > 100 and [(name, one.name) for name, one in told if not one.said.help] == []


def test_options_are_shown_as_they_are_typed():
    run = dict(commands(app, "align"))["align run"]
    shown = [one.shown for one in parameters(run)]
    assert {"[STAGES...]", "--recipe, -r", "--set", "--unsloth, --no-unsloth"} <= {*shown}


@pytest.mark.parametrize("stage", specs())
def test_a_key_is_refused_in_the_stages_that_its_page_leaves_out(stage, read, problems):
    for (section, key), _ in keys.ONLY_FOR.items():
        if key in LEAST and stage not in keys.stages_of(section, key):
            inside = (
                f"data: {{path: a, {key}: {LEAST[key]}}}"
                if key == "learn"
                else f"data: {{path: a}}, {key}: {json.dumps(LEAST[key])}"
            )
            said = problems(f"model: {{id: m}}\nstages: {{{stage}: {{{inside}}}}}")
            assert any(key in line for line in said), f"{stage} takes {key}: {said}"


def test_every_figure_is_told_with_the_stages_that_measure_it():
    text = (PROJECT / "docs/reference/figures.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [name for name in MEANING if not any(row.startswith(f"| `{name}`") for row in rows)] == []
    assert [
        row for row in rows[: len(MEANING)] if not {f"`{name}`" for name in specs()} & {*re.findall("`[a-z]+`", row)}
    ] == []


def test_every_config_of_trl_has_its_page_named():
    assert {spec.config for spec in specs().values() if spec.home.startswith("trl")} == _TRL.keys()
    assert all(f"(train.md#{anchor(name)})" in stages_page() or "sft" in name for name in specs() if name != "pretrain")


@pytest.mark.parametrize("stage", ALL)
def test_a_manifest_holds_what_its_page_tells_and_nothing_else(chain, stage):
    strict = with_config(ConfigDict(extra="forbid", strict=True))
    for name in vars(schema):
        if isinstance(getattr(schema, name), type) and hasattr(getattr(schema, name), "__required_keys__"):
            strict(getattr(schema, name))
    TypeAdapter(schema.Manifest).validate_python(manifest(chain, stage))


def test_a_table_leaves_out_a_column_that_says_nothing_and_keeps_its_bars():
    assert table(["a", "b"], [["x|y", ""], ["z", "–"]]) == "| a |\n| --- |\n| x\\|y |\n| z |"
