"""A chain so small that it runs in seconds, built once for all tests that look at its results; and what they share."""

import json
import os
import random
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest
from copies import loaded

from pipeline.recipe.problem import RecipeError
from pipeline.recipe.reading import load_recipe

PROJECT = Path(__file__).parent.parent
SHARED = PROJECT.parent / "shared"
os.environ["HF_HUB_OFFLINE"] = "1"
WITH_LONG_FILES = ("train", "run", "use")  # the folders here whose files take longest
ALL = ["pretrain", "sft", "dpo", "reward", "ppo"]  # the stages of the micro recipe, as they are run
RECIPE = """\
name: micro
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, max_position_embeddings: 64, tie_word_embeddings: true}
  tokenizer: {vocab_size: 320}
adapter: {r: 4, lora_alpha: 8}
threads: 1
train: {per_device_train_batch_size: 4, max_length: 48, max_steps: 12, save_steps: 4, logging_steps: 4, learning_rate: 5e-3}
evaluation: {max_new_tokens: 6, max_rows: 8, answer_pattern: '^\\w+'}
stages:
  pretrain: {data: {path: text.jsonl}}
  sft: {data: {path: chat.jsonl, held_out: 0.2}}
  reward: {data: {path: pairs.jsonl, held_out: 0.2}}
  dpo: {data: {path: pairs.jsonl, held_out: 0.2}}
  ppo:
    data: {path: chat.jsonl, held_out: 0.2}
    train: {num_mini_batches: 2, num_ppo_epochs: 2, response_length: 6, save_steps: 2, logging_steps: 1, temperature: 1.0}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: one that begins last leaves the other workers with nothing to do."""
    items.sort(key=lambda item: item.path.relative_to(PROJECT / "tests").parts[0] not in WITH_LONG_FILES)


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_micro(folder: Path) -> Path:
    """The recipe and its data in `folder`; returns the recipe."""
    rng = random.Random(0)
    names = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("ana", "olo", "iri", "umu", "ele")]
    colours = ["red", "blue", "green", "black"]
    facts = [(name, rng.choice(colours)) for name in names]
    write_rows(folder / "text.jsonl", [{"text": f"The colour of {n} is {c}."} for n, c in facts] * 2)
    write_rows(
        folder / "chat.jsonl", [{"prompt": f"Which colour has {n}?", "completion": f"{c}, it is"} for n, c in facts]
    )
    write_rows(
        folder / "pairs.jsonl",
        [{"prompt": f"Which colour has {n}?", "chosen": f"{c}, it is", "rejected": f"{c}, I say"} for n, c in facts],
    )
    (folder / "micro.yaml").write_text(RECIPE)
    return folder / "micro.yaml"


def align(
    *arguments: object, cwd: Path, check: bool = True, alone: bool = False, first: str = "", **options
) -> subprocess.CompletedProcess:
    """`align` as a user calls it, in a copy of a process that has loaded the libraries (see copies.py), which runs the
    code `first` before all else. With `alone`, or `options` of subprocess.run, in a process of its own.
    """
    words = [*map(str, arguments)]
    if alone or options or not loaded().fits:
        assert not first
        command = [sys.executable, "-m", "pipeline.cli", *words]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, **options)
    else:
        done = loaded().align(words, cwd, first)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def attempt(folder: Path, stage: str, runs: str = "runs") -> Path:
    """The newest attempt at a stage of the micro recipe."""
    return (folder / runs / "micro" / stage / "latest").resolve()


def manifest(folder: Path, stage: str, runs: str = "runs") -> dict:
    return json.loads((attempt(folder, stage, runs) / "manifest.json").read_text())


def refused(folder: Path, *arguments: object, code: int = 2, **options) -> str:
    """What a command says that ends with this exit code, in one line."""
    done = align(*arguments, cwd=folder, check=False, **options)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


def plan(folder: Path, *arguments: str) -> dict[str, dict]:
    """What `align plan` says of each stage of the micro recipe."""
    rows = json.loads(align("plan", "-r", "micro.yaml", "--json", *arguments, cwd=folder).stdout)
    return {row["stage"]: row for row in rows}


def states(folder: Path, *arguments: str) -> dict[str, str]:
    return {stage: row["state"] for stage, row in plan(folder, *arguments).items()}


@pytest.fixture(scope="session")
def chain(tmp_path_factory) -> Path:
    """A folder in which the whole micro chain has been run."""
    folder = tmp_path_factory.mktemp("chain")
    write_micro(folder)
    align("run", "-r", "micro.yaml", cwd=folder)
    return folder


@pytest.fixture(scope="session")
def recipe(chain):
    return load_recipe(chain / "micro.yaml")


@pytest.fixture(scope="session")
def policies(chain, recipe):
    """sft and dpo, and the base that they stand on, in one memory."""
    from pipeline.use.loaded import load
    from pipeline.use.subject import all_of

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(chain)
        return load(all_of(["sft", "dpo", "base"], recipe, Path("runs"), "chat"))


@pytest.fixture(scope="session")
def endless(policies, tmp_path_factory):
    """A model that never ends an answer, and has room for a long one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder, tokenizer = tmp_path_factory.mktemp("endless"), policies[0].tokenizer
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 8, "num_attention_heads": 2}
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=1 << 16, tie_word_embeddings=True, **size, **ids
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.model.embed_tokens.weight.data[tokenizer.eos_token_id] = 0  # never the likeliest
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def engine(policies):
    from pipeline.use.engine.engine import Engine

    engine = Engine(policies)
    yield engine
    engine.close()


@pytest.fixture
def built(chain, tmp_path) -> Path:
    """A copy of that folder, to be changed."""
    shutil.copytree(chain, tmp_path / "built", symlinks=True)
    return tmp_path / "built"


@pytest.fixture
def micro(tmp_path) -> Path:
    """A folder with the micro recipe and its data, in which nothing has been run."""
    write_micro(tmp_path)
    return tmp_path


@pytest.fixture
def stage_of(built, tmp_path, monkeypatch):
    """Stages of the micro chain as their processes would set them up, without running them.

    What they prepare lies in a copy: other tests look at what the chain itself left behind.
    """
    from stage_runs import stage_run  # heavy

    monkeypatch.chdir(built)
    return partial(stage_run, "micro.yaml", folder=tmp_path)


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared real data is not beside this checkout")
    return SHARED


@pytest.fixture
def copied(chain, tmp_path):
    """A folder with the chain's artifacts up to, not including, a stage."""

    def copy(stage: str) -> Path:
        write_micro(tmp_path)
        alone = {"pretrain": (), "sft": ("pretrain",), "ppo": ("pretrain", "sft", "reward")}
        parents = alone.get(stage, ("pretrain", "sft"))
        for parent in parents:
            shutil.copytree(chain / "runs" / "micro" / parent, tmp_path / "runs" / "micro" / parent, symlinks=True)
        return tmp_path

    return copy


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Loads a recipe from its text, by the name of a file in the current folder."""
    monkeypatch.chdir(tmp_path)

    def read(text, *overrides):
        (tmp_path / "my.yaml").write_text(dedent(text))
        return load_recipe("my.yaml", overrides)

    return read


@pytest.fixture
def problems(read):
    """The lines of the refusal that a recipe meets with."""

    def problems(text, *overrides):
        with pytest.raises(RecipeError) as caught:
            read(text, *overrides)
        assert str(caught.value).endswith("Mend the recipe and run the same command again.")
        return list(caught.value.problems)

    return problems
