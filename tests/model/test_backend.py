"""Which backend a stage gets: who is served, and what is refused."""

import re

import pytest

from pipeline.errors import PipelineError
from pipeline.model import backend
from pipeline.model.adapters import METHODS
from pipeline.stage import specs


def chosen(stage: str = "sft", wanted: bool | str = True, **changes) -> backend.Backend:
    options = {"own": False, "method": METHODS["lora"], "model_type": "llama", "from_scratch": False} | changes
    return backend.choose(stage, specs()[stage], wanted, **options)


@pytest.fixture
def installed(monkeypatch):
    """As if this version of Unsloth were there, and a GPU or none."""

    def pretend(version: str | None, gpu: bool = False) -> None:
        monkeypatch.setattr(backend, "installed_version", lambda: version)
        monkeypatch.setattr(backend, "has_gpu", lambda: gpu)

    return pretend


def test_auto_takes_it_where_it_gains(installed):
    installed("2026.10.9", gpu=True)
    assert chosen(wanted="auto").name == "unsloth"
    assert chosen(wanted=False).name == "transformers"
    assert "full" in chosen(wanted="auto", method=METHODS["full"]).why
    assert "gpt2" in chosen(wanted="auto", model_type="gpt2").why
    installed("2026.10.9", gpu=False)
    assert "no GPU" in chosen(wanted="auto").why
    assert chosen(wanted="auto", gpu=True) == backend.Backend("unsloth", "installed, for that card")
    installed(None, gpu=True)
    assert "not installed" in chosen(wanted="auto").why


def test_stages_it_never_serves_say_so(installed):
    installed("2026.10.9", gpu=True)
    assert "score head" in chosen("reward").why
    assert "several roles" in chosen("ppo").why
    assert "only loads" in chosen("pretrain", from_scratch=True).why
    for stage in ("reward", "ppo"):
        with pytest.raises(PipelineError, match="cannot serve it"):
            chosen(stage, own=True)


@pytest.mark.parametrize(
    ("version", "changes", "words"),
    [
        (None, {}, "not installed.*make unsloth"),
        ("2026.3.1", {}, "2026.3.1 is too old, 2026.10.8.*make unsloth"),
        ("2026.10.9", {"method": METHODS["full"]}, "not for method full.*--no-unsloth"),
        ("2026.10.9", {"model_type": "gpt2"}, "no fast path for gpt2.*--no-unsloth"),
    ],
)
def test_asking_for_what_it_cannot_serve_is_an_error(installed, version, changes, words):
    installed(version, gpu=True)
    with pytest.raises(PipelineError) as caught:
        chosen(**changes)
    assert re.search(words, f"{caught.value.what} {caught.value.fix}")


def test_it_has_to_come_before_what_it_rewrites(tmp_path):
    import transformers  # noqa: F401

    with pytest.raises(PipelineError, match=r"before .*transformers"):
        backend.start("unsloth", tmp_path)
