"""An ONNX graph run by onnxruntime, through its cache, says what was trained."""

import pytest
from conftest import attempt

from pipeline.recipe.reading import load_recipe
from pipeline.use import packages, questions
from pipeline.use.export import export
from pipeline.use.loaded import tokenizer_of
from pipeline.use.onnx import Onnx
from pipeline.use.subject import find

pytestmark = pytest.mark.skipif(
    not all(map(packages.installed, ("onnx", "onnxscript", "onnxruntime"))), reason="onnxruntime is not installed"
)


@pytest.mark.parametrize("stage", ["dpo", "reward"])
def test_policies_and_reward_models_say_the_same_in_onnxruntime(chain, monkeypatch, stage):
    import onnxruntime

    monkeypatch.chdir(chain)
    subject = find(stage, load_recipe(chain / "micro.yaml"), chain / "runs")
    made = export(subject, Onnx(subject, questions.of(subject, tokenizer_of(subject), None)))
    assert made.proven and made.folder.parent == attempt(chain, stage) / "exports"
    session = onnxruntime.InferenceSession(str(made.folder / "model.onnx"))
    names = {one.name for one in session.get_inputs()}
    caches = {f"past_key_values.{layer}.{kind}" for layer in (0, 1) for kind in ("key", "value")}
    assert names == {"input_ids", "attention_mask"} | ({"position_ids"} | caches if stage == "dpo" else set())
    assert b"site-packages" not in (made.folder / "model.onnx").read_bytes()  # nor any path of this machine
