"""The attention that a recipe names, where it cannot run."""

import pytest

from pipeline.errors import PipelineError
from pipeline.model import attention


@pytest.mark.parametrize("name", [None, "sdpa", "eager", "flex_attention"])
def test_transformers_own_run_everywhere(name):
    attention.check(name, "cpu")


@pytest.mark.parametrize("name", [*attention.PACKAGES, "kernels-community/flash-attn2"])
def test_one_of_a_package_needs_a_gpu_and_the_package(monkeypatch, name):
    with pytest.raises(PipelineError, match=f"model.attn_implementation: {name} needs a GPU, and there is none here"):
        attention.check(name, "cpu")
    monkeypatch.setattr(attention, "find_spec", lambda package: None)
    with pytest.raises(PipelineError, match=r"needs the package .*kernels, which is not installed"):
        attention.check(name, "cuda")
    monkeypatch.setattr(attention, "find_spec", lambda package: package == "kernels")
    attention.check(name, "cuda")


def test_it_is_told_before_anything_is_prepared(micro):
    from conftest import refused

    options = ("--set", "model.dtype=bfloat16", "--set", "model.attn_implementation=flash_attention_2")
    said = refused(micro, "run", "pretrain", "-r", "micro.yaml", *options)
    assert "flash_attention_2 needs a GPU" in said and "Leave it out" in said
    assert not [*micro.glob("runs/.data/*")]
