"""The base that a chain stands on: a folder with all of its weights."""

import pytest
from conftest import write_micro

from pipeline.errors import PipelineError
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe


def test_a_model_without_all_of_its_weights_is_refused_in_the_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, model = write_micro(tmp_path), tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    loaded = load_recipe(path, [f"model={{id: {model}}}"])

    def said() -> str:
        with pytest.raises(PipelineError) as refused:
            Planner(loaded, tmp_path / "runs").plan(["sft"])
        return refused.value.what

    assert "has a config.json but no weights" in said()
    (model / "pytorch_model.bin").touch()
    assert "only in pytorch_model.bin, a pickle" in said()
    (model / "model-1-of-2.safetensors").touch()
    names = '{"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}'
    (model / "model.safetensors.index.json").write_text(f'{{"weight_map": {names}}}')
    assert "1 of its 2 weight files are missing: model-2-of-2.safetensors" in said()
