"""How many parameters a stage says it trains."""

from conftest import attempt, manifest
from safetensors.torch import load_file


def test_as_many_as_are_saved_of_as_many_as_there_are(chain):
    base = load_file(attempt(chain, "pretrain") / "model" / "model.safetensors")
    whole = sum(tensor.numel() for tensor in base.values())
    assert manifest(chain, "pretrain")["parameters"] == {"trained": whole, "in all": whole}
    for stage in ("sft", "dpo"):  # beside what dpo trains stands its reference, a frozen copy
        adapter = load_file(attempt(chain, stage) / "adapter" / "adapter_model.safetensors")
        trained = sum(tensor.numel() for tensor in adapter.values())
        assert manifest(chain, stage)["parameters"] == {"trained": trained, "in all": whole + trained}
