"""Bytes in live tensors, counted while steps run: real ones, or fake ones of a model that no machine here could hold."""

import weakref

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveStorages(TorchDispatchMode):
    """Counts each storage once, from the operation that makes it until nothing holds it."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.peak_at = ""
        self._known: dict[int, int] = {}

    def count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known[key] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._known.pop(key)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in tree_iter(made):
            if isinstance(one, torch.Tensor):
                self.count(one)
        if self.now > self.peak:
            self.peak, self.peak_at = self.now, str(func)
        return made


class ResizedStorages(LiveStorages):
    """The same where storages change their size while they live, as those of whole layers do in torch's FSDP2: looked at anew
    after each operation. Of a tensor of which each process has a part, that part counts.
    """

    def __init__(self):
        super().__init__()
        self._there: dict[int, weakref.ref] = {}

    def count(self, tensor: torch.Tensor) -> None:
        tensor = getattr(tensor, "_local_tensor", tensor)
        storage = tensor.untyped_storage()
        super().count(tensor)
        self._there[storage._cdata] = weakref.ref(storage)

    def _gone(self, key: int) -> None:
        super()._gone(key)
        self._there.pop(key, None)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for key, one in list(self._there.items()):
            if (storage := one()) is not None and (size := storage.nbytes()) != self._known[key]:
                self.now += size - self._known[key]
                self._known[key] = size
        return super().__torch_dispatch__(func, types, args, kwargs)


def made_fake(model: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """Every parameter and buffer of a model on `meta` becomes a fake one on the CPU; what is tied stays tied."""
    known: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, one in list(module.named_parameters(recurse=False)):
            if id(one) not in known:
                with fake:
                    known[id(one)] = nn.Parameter(
                        torch.empty(one.shape, dtype=one.dtype), requires_grad=one.requires_grad
                    )
            setattr(module, name, known[id(one)])
        for name, one in list(module.named_buffers(recurse=False)):
            with fake:
                module._buffers[name] = torch.empty(one.shape, dtype=one.dtype)
    return model
