"""A LoRA by itself as GGUF, for a base that is one already: llama.cpp adds it when it loads, or by request."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file

from pipeline.errors import PipelineError
from pipeline.model.adapter_tensors import ADAPTER_FILE
from pipeline.use import packages, proof
from pipeline.use.gguf import runtime
from pipeline.use.gguf.shapes import changed, shape_of
from pipeline.use.gguf.writer import FILE as BASE_FILE
from pipeline.use.gguf.writer import Gguf
from pipeline.use.merge import against_trained, limits_of, scratch_size
from pipeline.use.questions import Questions
from pipeline.use.subject import Subject

FILE = "adapter.gguf"
_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight")


class GgufAdapter:
    """The format, see pipeline.use.export.Format. `base` for the proof is written as GGUF on the way, and not kept."""

    name = "gguf-adapter"

    def __init__(self, subject: Subject, questions: Questions, kind: str | None = None):
        self.questions = questions
        if kind not in (None, "f32", "f16"):
            raise PipelineError(f"--type {kind}: an adapter is written as f16 or f32.", "Leave it out, or choose one.")
        self.kind = kind or "f32"
        self.options: Mapping[str, object] = {"type": self.kind}

    def check(self, subject: Subject) -> None:
        packages.require("gguf", "gguf", "a GGUF file")
        if not subject.is_adapter:
            raise PipelineError(f"{subject.name}: is a whole model and no adapter.", "Leave --adapter out.")
        config = json.loads((subject.folder / "adapter_config.json").read_text(encoding="utf-8"))
        if config["peft_type"] != "LORA":
            raise PipelineError(
                f"{subject.name}: its adapter is {config['peft_type']}, and llama.cpp has adapters of LoRA's kind alone.",
                "PEFT loads it beside its base; `align serve` serves it.",
            )
        for key in ("use_dora", "lora_bias", "trainable_token_indices", "modules_to_save"):
            if config.get(key):
                raise PipelineError(
                    f"{subject.name}: its adapter has {key}, for which llama.cpp's adapters have no place.",
                    "Leave --adapter out: the merged model has it.",
                )
        self._config = config
        self._whole = Gguf(subject, self.questions, "f32", adapter=False)
        self._whole.check(subject)
        self._model_config = self._whole.weights.config.get_text_config()
        self._shape = shape_of(self._model_config, subject.name)

    def size(self, subject: Subject) -> int:
        own = (subject.folder / ADAPTER_FILE).stat().st_size
        return own + self._whole.size(subject) + scratch_size(self._whole.weights, self.questions)

    def write(self, subject: Subject, folder: Path) -> dict:
        from gguf import GGUFType, GGUFWriter

        writer = GGUFWriter(folder / FILE, self._shape.arch)
        writer.add_type(GGUFType.ADAPTER)
        writer.add_string("adapter.type", "lora")
        writer.add_name(subject.name)
        writer.add_float32("adapter.lora.alpha", self._alpha)
        for name, values in self._tensors(subject):
            writer.add_tensor(name, values.astype(numpy.float16 if self.kind == "f16" else numpy.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return {
            "type": self.kind,
            "file": FILE,
            "modelfile": "none: an adapter needs its base's GGUF, which is not known here",
        }

    def prove(self, subject: Subject, folder: Path) -> dict:
        if not packages.installed("xllamacpp"):
            return proof.not_proven(f"llama.cpp is not installed, which has to run it: {packages.command('gguf')}")
        limits = limits_of(subject, proof.NEARLY_EXACT if self.kind == "f32" else proof.HALF)
        self._whole.write(subject, folder)
        try:
            longest = max(len(one.ids) for one in self.questions.rows) + self.questions.max_new_tokens
            return against_trained(
                subject,
                folder,
                lambda: runtime.LlamaForm(folder / BASE_FILE, longest, folder / FILE),
                self.questions,
                limits,
            )
        finally:
            for name in (BASE_FILE, "Modelfile"):
                (folder / name).unlink(missing_ok=True)

    def _tensors(self, subject: Subject) -> Iterator[tuple[str, numpy.ndarray]]:
        """Scales that differ between layers go into B, for a file has one alpha."""
        places = dict(self._whole.places)
        alphas, ranks = self._config.get("alpha_pattern") or {}, self._config.get("rank_pattern") or {}
        for name, tensor in load_file(subject.folder / ADAPTER_FILE).items():
            found = _NAME.fullmatch(name)
            weight = f"{found['module']}.weight" if found else None
            if weight not in places or "embed" in weight or "lm_head" in weight:
                raise PipelineError(
                    f"{subject.name}: {name} has no place in an adapter of llama.cpp.",
                    "Leave --adapter out: the merged model has it.",
                )
            if found["part"] == "B":
                tensor = changed(weight, tensor.float(), self._shape, self._model_config)
                tensor = tensor * self._more(found["module"], tensor.shape[1], alphas, ranks)
            yield f"{places[weight]}.lora_{found['part'].lower()}", tensor.to(torch.float32).contiguous().numpy()

    @property
    def _alpha(self) -> float:
        """The file's one: llama.cpp divides it by the rank, rsLoRA by its root."""
        return float(self._config["lora_alpha"] * (self._config["r"] ** 0.5 if self._config.get("use_rslora") else 1))

    def _more(self, module: str, rank: int, alphas: dict, ranks: dict) -> float:
        """By how much a layer's scale is another than the one that llama.cpp will take: alpha / rank."""
        alpha = _by_pattern(alphas, module, self._config["lora_alpha"])
        root = 0.5 if self._config.get("use_rslora") else 1.0
        return (alpha / rank**root) / (self._alpha / rank)


def _by_pattern(patterns: dict, module: str, default: float) -> float:
    return next((value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?{key}", module)), default)
