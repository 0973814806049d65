"""The tensors of an adapter folder, put into a model."""

from pathlib import Path

from peft import PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.errors import PipelineError
from pipeline.model.adapters.prompted import Prompted
from pipeline.model.parts import cut_like, whole

ADAPTER_FILE = "adapter_model.safetensors"


def load_adapter(
    model: PeftModel, folder: Path, name: str = "default", *, partly: bool = False, head_apart: bool = False
) -> None:
    """Put the tensors of an adapter folder into the adapter `name` of `model`, every one of them.

    With `partly`, a causal adapter goes into a score model: the score head has no tensor yet, and
    output embeddings have no place. With `head_apart`, a score adapter goes into a causal model, which has
    no place for its head.
    """
    try:
        tensors = load_file(folder / ADAPTER_FILE)
    except FileNotFoundError:
        raise PipelineError(f"{folder}: has no {ADAPTER_FILE}.", "Save the adapter as safetensors.") from None
    except SafetensorError as error:
        raise PipelineError(
            f"{folder / ADAPTER_FILE}: is damaged: {error}.", "Restore it, or train it again."
        ) from None
    head = "base_model.model.score.weight"
    if head_apart:
        tensors.pop(head, None)
    if partly:
        tensors = {key: value for key, value in tensors.items() if "lm_head" not in key}
        tensors.setdefault(
            head, dict(model.named_parameters())["base_model.model.score.modules_to_save.default.weight"].data
        )
    tensors = cut_like(model, tensors)
    try:
        if isinstance(model, Prompted):
            missing, unplaced = model.put(tensors, name)
        else:
            with whole((one for key, one in model.named_parameters() if f".{name}" in key), changed=True):
                result = set_peft_model_state_dict(model, tensors, adapter_name=name)
            missing = _without_ties(model, [key for key in result.missing_keys if f".{name}" in key])
            unplaced = result.unexpected_keys
    except (RuntimeError, KeyError) as error:
        raise _other_base(folder, str(error).strip().splitlines()[-1].strip()) from None
    if missing or unplaced:
        first = [*missing, *unplaced][0]
        why = f"{len(missing)} tensors are missing, {len(unplaced)} have no place, the first: {first}"
        raise _other_base(folder, why)


def _without_ties(model: PeftModel, missing: list[str]) -> list[str]:
    """Tied embeddings have two names and are saved under one: the other is not missing."""
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    loaded = {id(tensor) for key, tensor in tensors.items() if key not in missing}
    return [key for key in missing if id(tensors.get(key)) not in loaded]


def _other_base(folder: Path, why: str) -> PipelineError:
    return PipelineError(
        f"{folder}: the adapter was made for another base: {why}.",
        "Set model.id to the base that it was trained on.",
    )
