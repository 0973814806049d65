"""What DeepSpeed is given: the presets, and a file of one's own on top of them."""

import json

import pytest
from conftest import refused, write_micro

from pipeline.recipe import strategies
from pipeline.recipe.launch import Launch
from pipeline.recipe.problem import RecipeError

# As LLaMA-Factory's and others' examples write it.
USUAL = {
    "train_batch_size": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
    "bf16": {"enabled": "auto"},
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": False,
        "reduce_bucket_size": "auto",
        "sub_group_size": 1e9,
        "stage3_param_persistence_threshold": "auto",
        "stage3_gather_16bit_weights_on_model_save": True,
    },
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(zero=(), **keys) -> str:
        found = USUAL | keys | {"zero_optimization": USUAL["zero_optimization"] | dict(zero)}
        (tmp_path / "mine.json").write_text(json.dumps(found, indent="\t"))
        return "mine.json"

    return write


def launch(file: str, **more) -> Launch:
    return Launch(processes=2, strategy="zero3", deepspeed=file, **more)


def test_its_switches_stand_over_the_preset_and_the_rest_is_the_recipes(written):
    said = strategies.told(launch(written()))
    given = strategies.deepspeed("zero3", None, said["deepspeed"])
    assert given["zero_optimization"]["sub_group_size"] == 1e9 and given["zero_optimization"]["overlap_comm"] is False
    assert given["zero_optimization"]["stage3_param_persistence_threshold"] == 0  # the preset's
    assert given["gradient_clipping"] == "auto" and "bf16" not in given and "offload" not in said


def test_what_it_offloads_counts_as_offloaded(written):
    cpu = {"device": "cpu", "pin_memory": True}
    file = written(zero={"offload_optimizer": cpu, "offload_param": cpu})
    assert strategies.told(launch(file))["offload"] == "cpu"
    with pytest.raises(ValueError, match="offload stands beside deepspeed"):
        launch(file, offload="cpu")


@pytest.mark.parametrize(
    ("zero", "keys", "said"),
    [
        ({}, {"gradient_clipping": 1.0}, "gradient_clipping: is said by the recipe (train.max_grad_norm)"),
        ({}, {"bf16": {"enabled": True}}, "bf16: is said by the recipe (model.dtype)"),
        ({}, {"compression_training": {}}, "compression_training: has no effect, or could train something else"),
        ({"stage": 2}, {}, "zero_optimization.stage: must be 3, for launch.strategy is zero3, and is 2"),
        ({"overlap_com": True}, {}, "did you mean overlap_comm?"),
        ({"zero_quantized_weights": True}, {}, "zero_quantized_weights: has no effect, or could train something else"),
        (
            {"offload_param": {"device": "nvme"}, "offload_optimizer": {"device": "cpu"}},
            {},
            "offload_param.device: must be cpu",
        ),
        ({"offload_optimizer": {"device": "cpu"}}, {}, "offload_optimizer and offload_param go together with zero3"),
        ({"allgather_partitions": True}, {}, "allgather_partitions: has no effect"),
        ({"sub_group_size": "lots"}, {}, "sub_group_size: must be a whole number"),
        ({"stage3_param_persistence_threshold": 10_000}, {}, "must be 0: small weights would be kept whole"),
        ({"stage3_gather_16bit_weights_on_model_save": False}, {}, "must be true: what is saved is whole"),
    ],
)
def test_what_is_the_recipes_or_would_train_something_else_is_refused_by_its_line(written, zero, keys, said):
    with pytest.raises(RecipeError) as refusal:
        strategies.told(launch(written(zero, **keys)))
    (problem,) = refusal.value.problems
    file, line, _ = problem.split(":", 2)
    assert said in problem and file == "mine.json" and int(line) > 1


@pytest.mark.parametrize(
    ("text", "said"), [("[]", "must be a mapping"), ("{", "not valid YAML"), (None, "cannot be read: No such file")]
)
def test_what_is_no_such_file_is_refused(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    if text:
        (tmp_path / "mine.json").write_text(text)
    with pytest.raises(RecipeError, match=said):
        strategies.told(launch("mine.json"))


def test_it_is_for_zero(tmp_path):
    write_micro(tmp_path)
    options = ("--processes", "2", "--strategy", "fsdp", "--set", "launch.deepspeed=mine.json")
    said = refused(tmp_path, "plan", "pretrain", "-r", "micro.yaml", *options)
    assert "deepspeed is a file for strategy zero1 or zero2 or zero3, and this is fsdp" in said
