"""The weights of a model of which each process holds a part: gathered to be saved, and cut to be loaded."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from pipeline.ranks import Ranks


def close(model: torch.nn.Module) -> None:
    """Let go of the others' parts. Where no backward pass follows, some are kept for the next forward, and the model's parameters
    are then whole ones, which nobody trains and nobody saves.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gathered(model: torch.nn.Module, ranks: Ranks, *, trained_only: bool) -> dict[str, torch.Tensor]:
    """The weights of a model, one after the other, on the CPU of the first process; every process has to call it, and the
    others get nothing. What is tied comes once.
    """
    found = {}
    close(model)
    for name, weight in model.named_parameters():
        if trained_only and not weight.requires_grad:
            continue
        with whole([weight]):
            tensor = weight.detach().full_tensor() if isinstance(weight, DTensor) else weight.detach()
            if ranks.first:
                found[name] = tensor.to("cpu", copy=hasattr(weight, "ds_id"))
    return found


@contextmanager
def whole(weights: Iterable[torch.Tensor], *, changed: bool = False) -> Iterator[None]:
    """Weights that DeepSpeed has divided are whole meanwhile, in every process; `changed`, where they get other values."""
    divided = [one for one in weights if hasattr(one, "ds_id")]
    if not divided:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(divided, modifier_rank=0 if changed else None):
        yield


def cut_like(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of each tensor the part that this process holds, where the model is cut; every process has all of them."""
    close(model)
    mesh = next((one.device_mesh for one in model.parameters() if isinstance(one, DTensor)), None)
    if mesh is None:
        return tensors
    device = mesh.device_type
    # None: each takes its part of what it has itself, and nothing is sent.
    return {
        name: distribute_tensor(tensor.to(device), mesh, [Shard(0)], src_data_rank=None)
        for name, tensor in tensors.items()
    }


def load_whole(model: torch.nn.Module, folder: Path) -> None:
    """Every weight of a folder of `save_pretrained` into a model that is cut, a file at a time."""
    files = [folder / SAFE_WEIGHTS_NAME]
    if (folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
        files = sorted(folder.glob("model-*.safetensors"))
    for file in files:
        tensors = load_file(file)
        divided = [one for name, one in model.named_parameters() if name in tensors]
        with whole(divided, changed=True):
            model.load_state_dict(cut_like(model, tensors), strict=False)
