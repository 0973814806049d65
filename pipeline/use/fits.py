"""Whether an adapter loads on its base: names and shapes alone, so that a base of any size takes no memory."""

from pathlib import Path

import torch
from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from pipeline.model.adapter_tensors import ADAPTER_FILE
from pipeline.model.adapters import method_of
from pipeline.model.adapters.prompted import ENCODER


def complaint(folder: Path, base: str, commit: str | None, head: str) -> str | None:
    """Why the adapter in `folder` does not load on the base, or None.

    Of the base only its configuration is read. Raises OSError where that cannot be had, SafetensorError where the
    adapter is no such file.
    """
    config = AutoConfig.from_pretrained(base, revision=commit)
    config.num_labels = 1
    factory = AutoModelForSequenceClassification if head == "score" else AutoModelForCausalLM
    adapter = PeftConfig.from_pretrained(str(folder))
    if hasattr(adapter, "init_lora_weights"):
        adapter.init_lora_weights = False  # there is nothing to start from
    adapter.base_model_name_or_path = None  # PEFT would warn of every other name
    with torch.device("meta"):
        model = factory.from_config(config)
        tokens = len(AutoTokenizer.from_pretrained(folder))
        if tokens > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(tokens, mean_resizing=False)
        try:
            method = method_of(adapter.peft_type)
            model = method.put_on(model, adapter) if method else get_peft_model(model, adapter)
        except ValueError as error:
            return str(error).splitlines()[0]
    wanted = {
        name: list(tensor.shape)
        for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    found = _shapes(folder / ADAPTER_FILE)
    for name, shape in found.items():
        if name.startswith(ENCODER):  # what virtual tokens are computed from; PEFT loads these themselves
            continue
        if wanted.get(name) != shape:
            return f"{name} is {shape}, " + (
                f"where the base takes {wanted[name]}" if name in wanted else "which has no place"
            )
    tied = "trainable_tokens"  # saved under one of their two names
    missing = [name for name in wanted if name not in found and tied not in name]
    return f"{len(missing)} tensors are missing, the first: {missing[0]}" if missing else None


def _shapes(file: Path) -> dict[str, list[int]]:
    with safe_open(file, "pt") as tensors:
        return {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


__all__ = ["SafetensorError", "complaint"]
