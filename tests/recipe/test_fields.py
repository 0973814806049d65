"""The list of TRL's fields: true to the installed versions, and what the pipeline says of each field."""

import json
import subprocess
import sys

import pytest

from pipeline.recipe.fields import HOW, LIST, effective, fields_of, hashed
from pipeline.recipe.owned import ACCEPTED_ONCE, ADAPTER_OWNED, OWNED
from pipeline.stage import specs

CONFIGS = {spec.config for spec in specs().values()}


def test_the_list_is_that_of_the_installed_versions():
    # In an interpreter of its own: what other tests have made of the libraries' classes must not count.
    code = "from pipeline.train import list_fields as t; print(t.as_text(t.regenerate()))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(LIST.read_text()) == json.loads(said)


def test_no_field_is_both_owned_and_how_and_none_is_unknown():
    names = {name for config in CONFIGS for name in fields_of(config)}
    assert not HOW & OWNED.keys()
    assert names >= HOW | OWNED.keys()
    assert fields_of("LoraConfig").keys() >= ADAPTER_OWNED.keys()


def test_what_is_said_of_an_owned_field_is_a_sentence_wherever_it_stands():
    for said in (OWNED | ADAPTER_OWNED).values():
        assert said.startswith(("is not set here; set ", "is not set in a recipe: "))
    assert {*ACCEPTED_ONCE} <= OWNED.keys() | ADAPTER_OWNED.keys()


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [
        ("DPOConfig", "learning_rate", 1),
        ("DPOConfig", "loss_type", "ipo"),
        ("DPOConfig", "loss_type", ["sigmoid", "sft"]),
        ("SFTConfig", "max_length", None),
        ("SFTConfig", "lr_scheduler_kwargs", {"num_cycles": 2}),
        ("SFTConfig", "save_strategy", "no"),
        ("LoraConfig", "target_modules", ["q_proj"]),
        ("LoraConfig", "target_modules", "all-linear"),
        ("LoraConfig", "target_modules", r".*\.(q|v)_proj"),
        ("LoraConfig", "target_modules", None),
        ("SFTConfig", "warmup_steps", 0),
        ("SFTConfig", "max_steps", -1),
        ("LoraConfig", "init_lora_weights", "gaussian"),
        ("LoraConfig", "init_lora_weights", False),
    ],
)
def test_a_good_value_has_no_complaint(config, name, value):
    assert fields_of(config)[name].complaint(value) is None


@pytest.mark.parametrize(
    ("config", "name", "value", "complaint"),
    [
        ("SFTConfig", "learning_rate", "2e-4", 'must be a number, not "2e-4"; leave out the quotes'),
        ("SFTConfig", "max_steps", True, "must be a whole number, not true"),
        ("SFTConfig", "max_steps", 1.5, "must be a whole number, not 1.5"),
        ("SFTConfig", "max_length", "long", 'must be a whole number or null, not "long"'),
        ("SFTConfig", "shuffle_dataset", 1, "must be true or false, not 1"),
        ("SFTConfig", "eval_strategy", False, 'must be "no" in quotes: YAML reads a bare no as false'),
        ("SFTConfig", "optim", "adamw", '"adamw" is none of the 24 it can be; did you mean adamw_torch?'),
        ("DPOConfig", "loss_type", ["sigmoid", "ipoo"], "did you mean ipo?"),
        ("SFTConfig", "lr_scheduler_type", "reduce_lr_on_plateau", "is refused: evaluation would steer"),
        ("LoraConfig", "target_modules", "all", "did you mean all-linear?"),
        ("LoraConfig", "target_modules", "all_linear", "did you mean all-linear?"),
        ("LoraConfig", "target_modules", ["all-linear"], "must be all-linear, and not a list"),
        ("LoraConfig", "target_modules", "q_proj,v_proj", "did you mean [q_proj, v_proj]?"),
        ("LoraConfig", "target_modules", "q_proj", "did you mean [q_proj]?"),
        ("LoraConfig", "target_modules", "*.q_proj", "is not a regular expression"),
        ("LoraConfig", "target_modules", [], "must be all-linear, or a list"),
        ("LoraConfig", "target_modules", [3], "must be all-linear, or a list"),
        ("LoraConfig", "r", 0, "must be at least 1, not 0"),
        ("LoraConfig", "lora_dropout", 1, "must be from 0 to below 1, not 1"),
        ("SFTConfig", "learning_rate", -1e-4, "must be more than 0 (at 0 nothing is trained"),
        ("SFTConfig", "learning_rate", 0, "not 0.0"),
        ("DPOConfig", "beta", 0, "must be more than 0"),
        ("DPOConfig", "label_smoothing", 0.5, "must be from 0 to below 0.5"),
        ("DPOConfig", "loss_weights", [1.0, "a"], "must be a list, each of it a number"),
        ("DPOConfig", "loss_type", "simpo", "simpo is no loss here but a method of its own"),
        ("DPOConfig", "loss_type", "kto_pair", "kto_pair is no loss here but a method of its own"),
        ("SFTConfig", "save_strategy", "best", "is refused: evaluation would decide what is kept"),
        ("SFTConfig", "save_total_limit", 0, "must be at least 1, or null to keep them all"),
        ("SFTConfig", "optim", "schedule_free_adamw", "is refused: the weights that it trains"),
        ("SFTConfig", "debug", "foo", "must be one of underflow_overflow"),
        ("SFTConfig", "lr_scheduler_kwargs", "num_cycles=2", "must be a mapping or null"),
        ("PPOConfig", "eval_strategy", "step", "did you mean steps?"),
        ("SFTConfig", "per_device_train_batch_size", 0, "must be at least 1, not 0"),
        ("SFTConfig", "save_steps", 0, "must be more than 0, not 0"),
        ("LoraConfig", "init_lora_weights", "lora_ga", "is refused: it rewrites the base"),
        ("LoraConfig", "init_lora_weights", "pissa_niter_few", "must be one of gaussian, olora, pissa"),
    ],
)
def test_a_bad_value_is_told_what_it_should_be(config, name, value, complaint):
    assert complaint in fields_of(config)[name].complaint(value)


def test_a_config_has_the_common_fields_with_its_own_defaults():
    fields = fields_of("DPOConfig")
    assert fields["beta"].default == 0.1
    assert fields["weight_decay"].default == 0.0
    assert fields["learning_rate"].default == 1e-6
    assert "beta" not in fields_of("SFTConfig")


def test_what_leaves_out_how_and_keeps_the_global_batch():
    one = hashed("SFTConfig", {"per_device_train_batch_size": 8, "logging_steps": 1})
    two = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "dataloader_num_workers": 3}
    assert one == hashed("SFTConfig", two)
    assert one["global_batch"] == 8
    assert one != hashed("SFTConfig", {"per_device_train_batch_size": 4})
    assert not one.keys() & (HOW | OWNED.keys() - ACCEPTED_ONCE)


def test_equal_values_are_one_setting_however_they_are_written():
    written = {"weight_decay": 0, "beta": 1, "loss_type": "sigmoid"}
    plain = {"weight_decay": 0.0, "beta": 1.0, "loss_type": ["sigmoid"]}
    assert json.dumps(hashed("DPOConfig", written)) == json.dumps(hashed("DPOConfig", plain))


def test_a_default_cannot_be_changed_by_who_was_given_it():
    effective("DPOConfig", {})["loss_type"].append("sft")
    assert effective("DPOConfig", {})["loss_type"] == ["sigmoid"]
