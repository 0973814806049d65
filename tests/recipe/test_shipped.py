"""The recipes that come with the project: short, loadable, and on a reader's own files they do what their first line says."""

import json
from pathlib import Path

import pytest
from conftest import align, attempt

from pipeline.recipe.reading import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
TUTORIALS = ("alpaca-zh-lora", "alpaca-8bit", "sentiment-qlora")


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_loads_and_says_first_what_it_is_for(file):
    assert load_recipe(file, []).name == file.stem
    assert file.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", TUTORIALS)
def test_the_tutorials_have_their_numbers_in_25_lines(name):
    recipe = load_recipe(RECIPES / f"{name}.yaml", [])
    adapter = recipe.stage("sft").adapter
    assert (adapter["r"], adapter["lora_alpha"], adapter["target_modules"]) == (8, 32, ["q_proj", "v_proj"])
    assert adapter["lora_dropout"] in (0.05, 0.1)
    assert len((RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()) <= 25


def test_the_sentiment_tutorial_runs_on_a_readers_csv_and_tells_the_share_of_right_labels(chain, tmp_path):
    rows = [(f"The film number {n} was {'great' if n % 2 else 'dull'}, {n * 7} times.", n % 2) for n in range(60)]
    lines = [f'"{review}",{"positive" if good else "negative"}\n' for review, good in rows]
    (tmp_path / "imdb.csv").write_text("review,sentiment\n" + "".join(lines))
    few = {"max_length": 48, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_train_epochs": 2}
    said = align(
        *("run", "sft", "-r", RECIPES / "sentiment-qlora.yaml", "--set", "stages.sft.data.path=imdb.csv"),
        *("--set", f"model.id={attempt(chain, 'pretrain') / 'model'}", "--set", "model.dtype=float32"),
        *(argument for key, value in few.items() for argument in ("--set", f"stages.sft.train.{key}={value}")),
        cwd=tmp_path,
        alone=True,  # with bitsandbytes
    ).stdout
    steps = [line.split()[3] for line in said.splitlines() if line.startswith("  held out at")]
    assert len(steps) == 2  # after every epoch
    metrics = json.loads(next(tmp_path.glob("runs/*/sft/latest/manifest.json")).read_text())["metrics"]
    assert metrics["before"]["accuracy"] == 0 <= metrics["after"]["accuracy"] <= 1 and metrics["after"]["n"] > 0
