"""A quantized base: what becomes int8, which methods are right on 4 and on 8 bits, and what is merged."""

import json
from dataclasses import replace

import pytest
import small_models
import torch
from conftest import refused, write_rows
from peft import get_peft_model
from safetensors.torch import load_file

from pipeline.errors import PipelineError
from pipeline.model import backend
from pipeline.model.adapters import METHODS, NAMED
from pipeline.model.adapters.method import BEGIN
from pipeline.model.base import Base
from pipeline.model.loader import Loader
from pipeline.model.quantization import through
from pipeline.model.saving import save_weights
from pipeline.model.tokenizer import Prepared
from pipeline.plan import methods
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe
from pipeline.recipe.sections import Model
from pipeline.stage import specs
from pipeline.start.doctor import MISSING, of_recipe
from pipeline.use import questions
from pipeline.use.export import export
from pipeline.use.loaded import load, tokenizer_of
from pipeline.use.merge import Merged
from pipeline.use.subject import Subject

IDS = torch.arange(3, 27).reshape(4, 6)
ON_IT = [(bits, name) for bits in (4, 8) for name, method in METHODS.items() if method.fits(bits)]
MERGED = [
    (4, "boft"),
    (4, "miss"),
    (8, "lokr"),
    (4, "bitfit"),
]  # each by a formula of its own; all of them take minutes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_models.base(tmp_path_factory.mktemp("base") / "qwen3", attention_bias=True)


def loader(folder, head: str = "causal", dtype: str = "float32", bits: int = 8) -> Loader:
    wanted = Model(id=str(folder), **{f"load_in_{bits}bit": True}, dtype=dtype)
    return Loader(wanted, 0, Base(None, str(folder)), Prepared(small_models.tokenizer()), head)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("head", ["causal", "score"])
def test_linear_layers_are_int8_and_heads_and_adapters_are_not(folder, head):
    model = loader(folder, head, "bfloat16").model(None, {"method": "lora", "r": 4, "target_modules": "all-linear"})
    layer = model.get_base_model().model.layers[0].mlp.up_proj.base_layer
    assert type(layer).__name__ == "Linear8bitLt" and layer.weight.dtype == torch.int8
    bare = model.get_base_model()
    top = bare.score if head == "score" else bare.lm_head
    assert {one.dtype for one in top.parameters()} <= {torch.bfloat16, torch.float32}
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}


@pytest.mark.parametrize(("bits", "name"), ON_IT)
def test_methods_that_are_let_onto_it_begin_as_the_base_and_learn(folder, bits, name):
    method, loaded = METHODS[name], loader(folder, bits=bits)
    before = logits(loaded.model(None, None))
    model = method.put_on(loaded.model(None, None), method.settings(dict(method.defaults), task_type="CAUSAL_LM"))
    if not method.cannot.get(BEGIN):
        assert torch.equal(logits(model), before)
    frozen = {name: one.clone() for name, one in model.named_parameters() if not one.requires_grad}
    optimizer, losses = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2), []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model.train()(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert all(torch.equal(one, frozen[name]) for name, one in model.named_parameters() if name in frozen)


@pytest.mark.parametrize(("bits", "name"), MERGED)
def test_it_is_merged_onto_what_the_base_is_in_these_bits(folder, tmp_path, bits, name):
    """The logits are those of the adapter on the base with its weights dequantized: see Weights."""
    method, loaded = METHODS[name], loader(folder, bits=bits)
    model = loaded.model(None, {"method": name} | dict(method.defaults))
    with torch.no_grad():
        for one in model.parameters():
            one.add_(torch.randn_like(one) * 0.05) if one.requires_grad else one
    model = method.finished(model)
    save_weights(model, tmp_path / "adapter")
    small_models.tokenizer().save_pretrained(tmp_path / "adapter")
    quantized = Model(id=str(folder), **{f"load_in_{bits}bit": True})
    one = Subject(name, tmp_path / "adapter", Base(None, str(folder)), quantized)
    found = export(one, Merged(one, questions.of(one, tokenizer_of(one), None), None), to=tmp_path / "merged")
    assert found.proof["proven"], found.proof


def test_a_method_that_would_take_int8_for_the_weights_is_not_let_onto_it(folder):
    method, base = METHODS["hra"], loader(folder).model(None, None)
    before = logits(base)
    model = get_peft_model(base, method.settings(dict(method.defaults), task_type="CAUSAL_LM"))
    assert not torch.allclose(logits(model), before, atol=0.1) and not method.in_8_bit


def test_in_half_precision_vectors_beside_it_yield_what_the_next_layer_takes(folder):
    """PEFT's IA3 layers give float32 there, and attention refuses to mix the two."""
    model = loader(folder, dtype="bfloat16").model(
        None, {"method": "ia3", "target_modules": ["k_proj"], "feedforward_modules": []}
    )
    assert logits(model).dtype == torch.bfloat16


@pytest.mark.parametrize("name", [name for name in NAMED if not METHODS[name].whole])
def test_on_a_base_in_half_precision_every_adapter_is_float32(folder, name):
    loaded = replace(loader(folder), wanted=Model(id=str(folder), dtype="bfloat16"))
    model = loaded.model(None, {"method": name} | dict(METHODS[name].defaults))
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}
    assert logits(model).dtype == torch.bfloat16


def test_what_remains_of_a_weight_is_what_the_loaded_base_computes_with(folder):
    loaded = loader(folder).model(None, None).dequantize().state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    stored = load_file(folder / "model.safetensors")[name]
    assert torch.equal(through(8, stored), loaded[name].float())
    assert not torch.equal(through(8, stored), stored)


def test_an_adapter_is_merged_onto_the_base_that_it_was_trained_on_and_loses_its_8_bits(folder, tmp_path):
    adapter = small_models.adapter(tmp_path / "adapter", folder)
    one = Subject("model", adapter, Base(None, str(folder)), Model(id=str(folder), load_in_8bit=True, dtype="bfloat16"))
    found = export(one, Merged(one, questions.of(one, tokenizer_of(one), None), None), to=tmp_path / "merged")
    assert found.proof["proven"]
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text())
    (policy,) = load([one])
    name = "model.layers.0.mlp.up_proj"
    there = load_file(tmp_path / "merged/model.safetensors")[f"{name}.weight"]
    expected = small_models.onto_the_quantized(policy.model, adapter, name)
    assert torch.equal(there, expected.to(torch.bfloat16))


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("bits", "adapter", "runs"), [(8, "use_dora: true", 0), (4, "use_dora: true", 1), (8, "r: 4", 1)]
)
def test_dora_on_8_bits_needs_a_gpu_and_plan_and_doctor_say_so(folder, tmp_path, without_gpu, bits, adapter, runs):
    write_rows(tmp_path / "chat.jsonl", [{"prompt": f"What is {n}?", "completion": "A"} for n in range(9)])
    (tmp_path / "mine.yaml").write_text(
        f"model: {{id: {folder}, load_in_{bits}bit: true}}\nadapter: {{method: lora, {adapter}}}\n"
        f"stages: {{sft: {{data: {{path: {tmp_path}/chat.jsonl}}, train: {{max_steps: 1}}}}}}"
    )
    recipe = load_recipe(tmp_path / "mine.yaml")
    (step,) = Planner(recipe, tmp_path / "runs").plan(["sft"])
    told = [one.found for one in of_recipe(recipe, tmp_path / "runs") if one.state == MISSING]
    assert any("DoRA on a base in 8 bits needs a GPU" in note for note in step.notes) != bool(runs)
    assert any("DoRA on a base in 8 bits needs a GPU" in one for one in told) != bool(runs)
    assert methods.not_here(recipe, step, gpu=True) is None
    if not runs:
        said = refused(tmp_path, "run", "sft", "-r", "mine.yaml")
        assert "it loses the base's scales" in said and "model.load_in_4bit" in said
        assert not [*tmp_path.glob("runs/.data/*")]


def test_a_dora_that_was_trained_on_8_bits_is_not_asked_without_a_gpu(folder, tmp_path, without_gpu):
    adapter = small_models.adapter(tmp_path / "adapter", folder, use_dora=True)
    one = Subject("model", adapter, Base(None, str(folder)), Model(id=str(folder), load_in_8bit=True))
    with pytest.raises(PipelineError, match="model: DoRA on a base in 8 bits needs a GPU"):
        load([one])


def test_unsloth_says_that_it_does_not_serve_it(monkeypatch):
    monkeypatch.setattr(backend, "installed_version", lambda: "2026.10.9")
    options = {"own": True, "method": METHODS["lora"], "model_type": "llama", "from_scratch": False, "bits": 8}
    with pytest.raises(PipelineError, match="for bases in 16 or 4 bits, not in 8"):
        backend.choose("sft", specs()["sft"], True, **options)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{id: m, load_in_8bit: true, load_in_4bit: true}", "load_in_8bit: stands beside load_in_4bit"),
        (
            "{config: {model_type: llama}, tokenizer: {vocab_size: 512}, load_in_8bit: true}",
            "load_in_8bit: is for a model that exists; one from scratch cannot train in 8 bit",
        ),
        ("{id: m, load_in_8bit: true}", "adapter.method: PEFT does not put hra onto a base in 8 bits; lora, adalora"),
    ],
)
def test_mistakes_are_told_by_the_plan(problems, model, said):
    text = f"model: {model}\nadapter: {{method: hra}}\nstages: {{sft: {{data: {{path: c}}}}}}"
    assert any(said in one for one in problems(text))


def test_full_tuning_is_refused_on_it(problems):
    text = "model: {id: m, load_in_8bit: true}\nadapter: {method: full}\nstages: {sft: {data: {path: c}}}"
    assert any(
        "full tuning cannot train a base in 8 bits; set model.load_in_8bit: false" in one for one in problems(text)
    )
