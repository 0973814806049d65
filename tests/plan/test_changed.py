"""What a plan says of changed inputs, by the keys of the recipe."""

from conftest import write_micro

from pipeline.artifact.digests import Digests
from pipeline.plan.changed import changes
from pipeline.plan.contents import Contents
from pipeline.recipe.reading import load_recipe

LORA = {"method": "lora", "r": 4, "lora_alpha": 8, "use_dora": False}


def told(folder, stage: str, old: dict, new: dict, *options: str) -> list[str]:
    recipe = load_recipe(write_micro(folder), options)
    return list(changes(Contents(recipe, folder, Digests()), stage, old, new))


def test_of_another_method_its_name_and_what_the_recipe_says_of_it_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new = {"adapter": {"method": "bottleneck", "reduction_factor": 4, "placement": None}, "seed": 2}
    said = told(tmp_path, "sft", {"adapter": LORA, "seed": 1}, new, "adapter={method: bottleneck, reduction_factor: 4}")
    assert said == ['adapter.method: "lora" -> "bottleneck"', "adapter.reduction_factor: new, 4", "seed: 1 -> 2"]
    said = told(tmp_path, "sft", {"adapter": LORA}, {"adapter": LORA | {"use_dora": True}})
    assert said == ["adapter.use_dora: false -> true"]


def test_one_of_several_rewards_has_its_name_in_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = "{near: number, the: {function: score.py:boom, weight: 2}}"
    near, bad = {"built_in": "number", "options": {}, "weight": 1.0}, {"sha256": "0" * 64, "name": "bad", "weight": 1.0}
    boom = {"sha256": "1" * 64, "name": "boom", "weight": 2.0}
    old, new = ({"reward_functions": [near, one]} for one in (bad, boom))
    said = told(tmp_path, "ppo", old, new, f"stages.ppo.reward_functions={own}")
    the = "reward_functions.the"
    assert said == [
        f"content of {the}: 00000000 -> 11111111",
        f'{the}.function: "bad" -> "boom"',
        f"{the}.weight: 1.0 -> 2.0",
    ]
