"""What the plan says of memory, part by part, against the bytes of small real models."""

import pytest
import small_models
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.optimization import Adafactor

from benchmarks.memory import fake_step, planned
from pipeline.evaluate import evaluation, forward
from pipeline.model.adapters import METHODS, NAMED
from pipeline.model.base import Base
from pipeline.model.census import counts
from pipeline.model.loader import Loader
from pipeline.model.tokenizer import Prepared
from pipeline.plan.memory import optimizer, stage_need, weights
from pipeline.plan.memory.shape import FAMILIES, UnknownShape, shape_of
from pipeline.plan.memory.tuned import tuned
from pipeline.recipe.sections import Model

SIZES = small_models.SHAPE | {"vocab_size": 500}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", FAMILIES)
def test_every_parameter_of_every_known_architecture_is_counted(kind, tied):
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1)
    config = AutoConfig.for_model(kind, **SIZES | ids | {"tie_word_embeddings": tied, "num_hidden_layers": 3})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape_of(config.to_dict()).parameters == sum(one.numel() for one in model.parameters())


def bytes_of(model) -> int:
    """All that a model keeps: its tensors, and what bitsandbytes has beside them."""
    found = {}
    for one in [*model.parameters(), *model.buffers()]:
        state = getattr(one, "quant_state", None)
        beside = [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code] if state else []
        for tensor in (one, *beside, *([one.SCB] if getattr(one, "SCB", None) is not None else [])):
            found[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    rotary = sum(one.numel() * one.element_size() for name, one in model.named_buffers() if "inv_freq" in name)
    return sum(found.values()) - rotary


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_a_base_is_as_large_as_what_is_loaded_to_the_byte(tmp_path, bits):
    """The odd sizes leave blocks of 64 numbers, and of 256 scales, that are not full."""
    shape = {
        "intermediate_size": 100,
        "hidden_size": 72,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 24,
    }
    folder = small_models.base(tmp_path / "base", "qwen2", **shape)
    wanted = Model(id=str(folder), dtype="bfloat16", **({f"load_in_{bits}bit": True} if bits else {}))
    model = Loader(wanted, 0, Base(None, str(folder)), Prepared(small_models.tokenizer())).model(None, None)
    said = shape_of(model.config.to_dict())
    assert weights.base(said, "bfloat16", bits) == bytes_of(model)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """By method what is trained of a small Qwen2, which has biases, as PEFT makes it."""
    folder = small_models.base(tmp_path_factory.mktemp("base") / "qwen2", "qwen2")
    base = Base(None, str(folder))
    settings = {"lora": METHODS["lora"].defaults | {"use_dora": True}}
    _, found = counts(base, Model(id=str(folder)), 0, [METHODS[name] for name in NAMED], settings)
    shape = shape_of(AutoConfig.from_pretrained(folder).to_dict())
    return shape, {one.method.name: one for one in found}, settings


@pytest.mark.parametrize("name", NAMED)
def test_what_a_method_trains_is_counted_as_peft_makes_it(trained, name):
    shape, found, settings = trained
    assert found[name].trained is not None, found[name].why_not
    fields = settings.get(name, METHODS[name].numbers or METHODS[name].defaults)
    assert tuned(name, fields, shape, 4).numbers == found[name].trained


@pytest.mark.parametrize("name", ["adamw_torch", "sgd", "adafactor", "rmsprop", "adagrad"])
def test_an_optimizers_states_are_those_that_it_keeps(name):
    made = {
        "adamw_torch": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
        "adafactor": Adafactor,
        "rmsprop": torch.optim.RMSprop,
        "adagrad": torch.optim.Adagrad,
    }[name]
    numbers = [torch.nn.Parameter(torch.randn(shape)) for shape in ((30, 50), (70,))]
    one = made(numbers)
    for number in numbers:
        number.grad = torch.randn_like(number)
    one.step()
    kept = [tensor for state in one.state.values() for tensor in state.values() if isinstance(tensor, torch.Tensor)]
    real = sum(tensor.numel() * tensor.element_size() for tensor in kept if tensor.numel() > 1)
    assert optimizer.states(name, [(30, 50, 1), (1, 70, 1)], 4) == real


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize(
    ("stage", "method"),
    [("sft", "lora"), ("dpo", "lora"), ("sft", "full"), ("sft", "lora+tokens"), ("dpo", "lora+tokens")],
)
def test_a_step_is_near_to_what_is_traced(stage, method, checkpointing, dtype):
    """The goal of a tenth; benchmarks/memory.py does it with the sizes that people train."""
    for kind, layers in (("qwen3", 3),):
        config = (
            {"model_type": kind} | SIZES | {"num_hidden_layers": layers, "hidden_size": 128, "intermediate_size": 384}
        )
        case = (stage, method, checkpointing, 2, 128)
        phase = planned(config, *case, dtype)[0].phases[0]
        seen = fake_step(config, *case, dtype)["peak"]
        assert abs((phase.allocated - phase.parts["optimizer"]) / seen - 1) < 0.1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model_type": None}, "has no model_type"),
        ({"model_type": "mamba"}, "the sizes of mamba models are not known here"),
        ({"hidden_size": None}, "has no hidden_size"),
        ({"vocab_size": "many"}, "vocab_size in its config.json is 'many'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers in its config.json is 0"),
    ],
)
def test_a_config_that_tells_no_sizes_says_why(wrong, said):
    with pytest.raises(UnknownShape, match=said):
        shape_of({"model_type": "llama"} | SIZES | wrong)


def test_an_evaluation_takes_as_much_at_a_time_as_the_plan_reckons():
    assert stage_need.EVALUATION_LOGITS == forward.LOGITS_BYTES
    assert stage_need.READ_FOR_EACH_WRITTEN == evaluation.READ_FOR_EACH_WRITTEN


def test_of_what_was_sampled_only_the_response_has_logits():
    """PPO's loop keeps the places of the responses before the head: the prompts' logits are never made."""
    config = SIZES | {"model_type": "llama"}
    need, setting = planned(config, "ppo", "lora", False, 4, 120, "float32", train={"response_length": 64})
    assert setting.step.tokens == 4 * 120
    assert need.phases[0].parts["logits"] == 16 * 4 * 64 * SIZES["vocab_size"]
