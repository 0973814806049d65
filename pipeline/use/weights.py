"""The weights of what was trained, adapter and base as one, each made when it is asked for.

Never more than one of them is in memory, so that the size of a model is no matter. Adapters are merged by PEFT itself,
layer by layer: the model around the adapter is hollow, and each layer is lent its weights of the base.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper, TrainableTokensWrapper
from safetensors import SafetensorError, safe_open
from torch import nn

from pipeline.data.tokens.stops import Stops
from pipeline.errors import PipelineError
from pipeline.hub import asking
from pipeline.model.adapters import method_of
from pipeline.model.loader import Loader
from pipeline.model.quantization import NOT_QUANTIZED, through
from pipeline.model.tokenizer import Prepared
from pipeline.use.loaded import tokenizer_of
from pipeline.use.subject import Subject

_REWRITING = ("pissa", "olora", "corda", "loftq", "eva", "lora_ga")  # ways to begin a LoRA that change the base


class Weights(Mapping):
    """Name -> tensor, as transformers names them, in the dtype asked for. `config` and `generation_config` go with them.

    Without its `adapter`: those of the base that it stands on, as it was trained on.
    """

    def __init__(self, subject: Subject, dtype: str, *, adapter: bool = True):
        self.subject, self.dtype = subject, getattr(torch, dtype)
        self.tokenizer = tokenizer_of(subject)
        self._trained_in = getattr(torch, subject.model.dtype)
        loader = Loader(subject.model, 0, subject.base, Prepared(self.tokenizer), subject.head, empty=True)
        self._bare = loader.model(None, None)
        adapted = loader.model(subject.folder, None) if subject.is_adapter and adapter else None
        if adapted is not None:
            _check_mergeable(adapted, subject)
        self._wrappers = dict(_wrappers(adapted.base_model.model)) if adapted is not None else {}
        self._base = _Stored(folder_of(subject))
        self._known: tuple[str, dict[str, torch.Tensor]] = "", {}  # the module merged last
        self.tied = self._still_tied()
        self._shapes = {
            name: tensor.shape
            for name, tensor in self._bare.state_dict().items()
            if not (self.tied and name == self._head)
        }
        self._check()

    @property
    def config(self):
        """As transformers saves it beside such weights."""
        config = self._bare.config
        config.dtype = self.dtype
        config.architectures = [type(self._bare).__name__]
        config.tie_word_embeddings = self.tied
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        return config

    @property
    def generation_config(self):
        """With every token that ends what an assistant says; None of a model that generates nothing."""
        if not self._bare.can_generate():
            return None
        config, tokenizer = self._bare.generation_config, self.tokenizer
        if tokenizer.chat_template:
            every = tokenizer.convert_tokens_to_ids(sorted(Stops(tokenizer).every))
            config.eos_token_id = list(dict.fromkeys([*config.eos_token_id, *every]))
        return config

    @property
    def left_out(self) -> list[str]:
        """What the base's files hold that this model has no place for: an output head beside a reward model, say."""
        return sorted(self._base.keys() - set(self._bare.state_dict()))

    def __len__(self) -> int:
        return len(self._shapes)

    def __iter__(self) -> Iterator[str]:
        """In the order of the base's files, so that each is opened once."""
        return iter(sorted(self._shapes, key=lambda name: (self.file_of(name), name)))

    def shape(self, name: str) -> torch.Size:
        return self._shapes[name]

    def file_of(self, name: str) -> int:
        """In which of the base's files it lies, counted from 0; what is new goes into the last."""
        return self._base.number(self._stored(name))

    @property
    def files(self) -> int:
        return len(self._base.files)

    def __getitem__(self, name: str) -> torch.Tensor:
        """Raises PipelineError where it has no such number as `dtype`: float16 ends at 65,504."""
        module, _, part = name.rpartition(".")
        wrapper = self._wrappers.get(module)
        tensor = self._merged(module, wrapper)[part] if wrapper is not None else self._read(name)
        tensor = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        if self.dtype == torch.float16 and not torch.isfinite(tensor).all():
            raise PipelineError(f"{self.subject.name}: {name} has numbers that float16 has not.", "Use bfloat16.")
        return tensor.contiguous()

    def _merged(self, name: str, wrapper: nn.Module) -> dict[str, torch.Tensor]:
        """Weight and bias of a module with its adapter."""
        if self._known[0] == name:
            return self._known[1]
        self._known = "", {}
        inner = wrapper if isinstance(wrapper, BaseTunerLayer) else getattr(wrapper, "token_adapter", None)
        lent = inner.get_base_layer() if inner is not None else None
        # In the dtype that it was trained in PEFT adds a LoRA in float32 and rounds once. What scales or turns needs more.
        adds = isinstance(inner, LoraLayer) and not inner.lora_variant
        wide = self.dtype if adds and self.dtype == self._trained_in else torch.float32
        empty = dict(lent.named_parameters(recurse=False)) if lent is not None else {}
        for part in empty:
            tensor = self._read(f"{name}.{part}").to(wide, copy=True)
            setattr(lent, part, nn.Parameter(tensor, requires_grad=False))
        with torch.no_grad():
            if isinstance(wrapper, AuxiliaryTrainingWrapper):
                done = wrapper.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
            else:
                wrapper.merge()
                done = wrapper.get_base_layer()
        found = {part: tensor.data for part, tensor in done.named_parameters()}
        for part, tensor in empty.items():
            setattr(lent, part, tensor)
        if inner is not None:
            inner.merged_adapters.clear()
        self._known = name, found
        return found

    def _read(self, name: str) -> torch.Tensor:
        """Of the base, as it was loaded for training: rounded to its dtype, through 4 or 8 bits, with rows for new tokens."""
        tensor = self._base[self._stored(name)]
        if tensor.is_floating_point():
            tensor = tensor.to(self._trained_in)
        if self.subject.model.bits and name in self._quantized:
            tensor = through(self.subject.model.bits, tensor)
        wanted = self._bare.get_parameter(name).shape if name in self._parameters else tensor.shape
        if tensor.dim() == 2 and wanted[0] > tensor.shape[0] and wanted[1:] == tensor.shape[1:]:
            # Only the adapter knows the rows of new tokens; those that it does not are as near to nothing as can be.
            mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
            tensor = torch.cat([tensor, mean.expand(wanted[0] - tensor.shape[0], -1)])
        return tensor

    @cached_property
    def _quantized(self) -> set[str]:
        """What bitsandbytes quantizes when the base is loaded: every linear layer but the heads."""
        from transformers.quantizers.quantizers_utils import should_convert_module

        return {
            f"{name}.weight"
            for name, module in self._bare.named_modules()
            if type(module) is nn.Linear and should_convert_module(name, NOT_QUANTIZED)
        }

    @cached_property
    def _parameters(self) -> set[str]:
        return {name for name, _ in self._bare.named_parameters(remove_duplicate=False)}

    @cached_property
    def _head(self) -> str | None:
        """The weight of the output embeddings."""
        return self._weight_of(self._bare.get_output_embeddings())

    @cached_property
    def _embeddings(self) -> str:
        return self._weight_of(self._bare.get_input_embeddings())

    def _weight_of(self, module: nn.Module | None) -> str | None:
        return next((f"{name}.weight" for name, one in self._bare.named_modules() if one is module), None)

    def _stored(self, name: str) -> str:
        """Under which name it lies in the base's files: a tied head lies there as the embeddings."""
        return self._embeddings if name == self._head and name not in self._base else name

    def _still_tied(self) -> bool:
        """Whether input and output embeddings are one tensor after the merge as well."""
        if not self._bare.config.tie_word_embeddings or self._head is None:
            return bool(self._bare.config.tie_word_embeddings)
        head, embeddings = (self._wrappers.get(name.rpartition(".")[0]) for name in (self._head, self._embeddings))
        if head is None and embeddings is None:
            return True
        if isinstance(head, TrainableTokensWrapper) and isinstance(embeddings, TrainableTokensWrapper):
            return head.token_adapter.tied_adapter is not None
        if isinstance(head, ModulesToSaveWrapper) and isinstance(embeddings, ModulesToSaveWrapper):
            one, other = (each.modules_to_save[each.active_adapter].weight for each in (head, embeddings))
            return one is other
        return False

    def _check(self) -> None:
        """That every tensor of the model comes from somewhere."""
        own = {name for name, wrapper in self._wrappers.items() if isinstance(wrapper, ModulesToSaveWrapper)}
        missing = [
            name for name in self._shapes if self._stored(name) not in self._base and name.rpartition(".")[0] not in own
        ]
        if missing:
            raise PipelineError(
                f"{self.subject.name}: its base's files lack {len(missing)} tensors under the names that transformers "
                f"gives them, the first: {missing[0]}.",
                "Load the base once and save it anew with save_pretrained, then train on that.",
            )


class _Stored(Mapping):
    """The tensors in a model's files. One file is open at a time."""

    def __init__(self, folder: Path):
        self.files = sorted(folder.glob("*.safetensors"))
        self._place: dict[str, int] = {}
        for number, file in enumerate(self.files):
            try:
                with safe_open(file, framework="pt") as opened:
                    self._place |= dict.fromkeys(opened.keys(), number)
            except (SafetensorError, OSError) as error:
                raise PipelineError(f"{file}: is damaged: {error}.", "Put the whole file back.") from None
        if not self._place:
            raise PipelineError(f"{folder}: has no weights in safetensors form.", "Save the model as safetensors.")
        if packed := next((name for name in self._place if ".quant_state." in name or name.endswith(".SCB")), None):
            raise PipelineError(
                f"{folder}: its weights are stored in 4 or 8 bits ({packed.rpartition('.')[0]}).",
                "Name the model that it was made from as the base: an adapter is trained on either in the same way.",
            )
        self._open: tuple[int, object] = -1, None

    def __len__(self) -> int:
        return len(self._place)

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def number(self, name: str) -> int:
        return self._place.get(name, len(self.files) - 1)

    def __getitem__(self, name: str) -> torch.Tensor:
        number = self._place[name]
        if self._open[0] != number:
            self._open = number, safe_open(self.files[number], framework="pt")
        return self._open[1].get_tensor(name)


def folder_of(subject: Subject) -> Path:
    """Where the files of its base lie on this machine; those of the hub are brought here first."""
    local = Path(subject.base.source)
    if local.is_dir():
        return local
    from huggingface_hub import snapshot_download

    with asking(f"{subject.name}: its base {subject.base.source}"):
        return Path(
            snapshot_download(
                subject.base.source, revision=subject.base.commit, allow_patterns=["*.safetensors", "*.json"]
            )
        )


def _wrappers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that PEFT has put around the model's own, by the name of these."""
    inside = None
    for name, module in model.named_modules():
        if inside is not None and name.startswith(f"{inside}."):
            continue
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            inside = name
            yield name, module


def _check_mergeable(model, subject: Subject) -> None:
    config = model.peft_config["default"]
    if method_of(config.peft_type).by_class:
        raise PipelineError(
            f"{subject.name}: merging an adapter of {config.peft_type.value} has not been proven here.",
            "Use it beside the base: align chat, align serve, align publish. Or merge it with PEFT's merge_and_unload.",
        )
    if not method_of(config.peft_type).merged:
        raise PipelineError(
            f"{subject.name}: an adapter of {config.peft_type.value} has no form within the base's weights.",
            "Use it beside the base: align chat, align serve, align publish.",
        )
    begun = getattr(config, "init_lora_weights", None)
    if isinstance(begun, str) and begun.lower().startswith(_REWRITING):
        raise PipelineError(
            f"{subject.name}: its adapter began with init_lora_weights: {begun}, which changes the base itself.",
            "Save it as a plain LoRA: save_pretrained(folder, path_initial_model_for_weight_conversion=...).",
        )
    if key := next((one for one in ("target_parameters", "layer_replication") if getattr(config, one, None)), None):
        raise PipelineError(
            f"{subject.name}: its adapter has {key}, which cannot be merged one layer at a time.",
            "Merge it with PEFT's merge_and_unload, in memory.",
        )
