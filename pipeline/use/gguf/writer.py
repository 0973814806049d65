"""The format `gguf`: a model in one file, written tensor by tensor with the library of llama.cpp's own converter."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy

from pipeline.errors import PipelineError
from pipeline.use import packages, proof
from pipeline.use.gguf import modelfile, runtime
from pipeline.use.gguf.shapes import FOR_CONTEXT, changed, context, rope_factors, shape_of, write_config
from pipeline.use.gguf.vocabulary import Vocabulary
from pipeline.use.merge import against_trained, limits_of, scratch_size
from pipeline.use.questions import Questions
from pipeline.use.subject import SCORE, Subject
from pipeline.use.weights import Weights

NAME, FILE = "gguf", "model.gguf"
# Those that the library can quantize to by itself, with the limits of their proofs.
TYPES = {
    "f32": proof.NEARLY_EXACT,
    "f16": proof.HALF,
    "bf16": proof.HALF,
    "q8_0": proof.EIGHT_BITS,
    "q5_1": proof.FEW_BITS,
    "q5_0": proof.FEW_BITS,
    "q4_1": proof.FEW_BITS,
    "q4_0": proof.FEW_BITS,
}
# A matrix whose rows are no multiple of a block stays in 16 bits; embeddings and head, which suffer most, in 8.
_BLOCK = 32
_LEAST_FOR_WORDS = {"q5_1", "q5_0", "q4_1", "q4_0"}


class Gguf:
    """The format, see pipeline.use.export.Format."""

    name = NAME

    def __init__(self, subject: Subject, questions: Questions, kind: str | None = None, *, adapter: bool = True):
        self.questions, self.kind, self._adapter = questions, kind or "f16", adapter
        if self.kind not in TYPES:
            raise PipelineError(
                f"--type {self.kind}: is none that is written here.",
                f"There are {', '.join(TYPES)}; llama.cpp's own tools write the others: name their checkout, LLAMA_CPP=folder.",
            )
        self.options: Mapping[str, object] = {"type": self.kind}
        self.weights: Weights | None = None

    def check(self, subject: Subject) -> None:
        packages.require("gguf", "gguf", "a GGUF file")
        self.weights = open_weights(subject, self._adapter)
        config = self.weights.config.get_text_config()
        self._shape = shape_of(config, subject.name)
        self._vocabulary = Vocabulary(self.weights.tokenizer, config.vocab_size, subject.name)
        self.places = dict(self._named())

    def size(self, subject: Subject) -> int:
        tensors = sum(self._bytes(name) for name in self.places)
        return tensors + (32 << 20) + scratch_size(self.weights, self.questions)

    def write(self, subject: Subject, folder: Path) -> dict:
        from gguf import GGUFWriter, LlamaFileType

        config = self.weights.config.get_text_config()
        writer = GGUFWriter(folder / FILE, self._shape.arch)
        writer.add_name(subject.name)
        all_or_mostly = "ALL" if self.kind == "f32" else "MOSTLY"
        writer.add_file_type(LlamaFileType[f"{all_or_mostly}_{self.kind.upper()}"])
        write_config(writer, self._shape, config)
        self._vocabulary.write(writer, self.weights.generation_config.eos_token_id)
        factors = rope_factors(config)
        if factors is not None:
            writer.add_tensor_info(FOR_CONTEXT, factors.shape, numpy.float32, factors.numel() * 4)
        for name, place in self.places.items():
            self._announce(writer, name, place)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors.numpy())
        for name in self.places:
            tensor = changed(name, self.weights[name], self._shape, config)
            writer.write_tensor_data(self._quantized(name, tensor.contiguous().numpy()))
        writer.close()
        said = modelfile.write(folder, self.weights, FILE)
        kept = [name for name in self.places if self.kind not in ("f32", "f16", "bf16") and self._type(name) == "f16"]
        self.weights = None
        return said | {"type": self.kind, "file": FILE, "in_16_bits": kept, "context": context(config)}

    def prove(self, subject: Subject, folder: Path) -> dict:
        return proof_of(subject, folder, self.questions, limits_of(subject, TYPES[self.kind]))

    def _named(self) -> Iterator[tuple[str, str]]:
        """(its name in transformers, its name in GGUF)"""
        from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

        arch = next(one for one in MODEL_ARCH if MODEL_ARCH_NAMES[one] == self._shape.arch)
        names = get_tensor_name_map(arch, self.weights.config.get_text_config().num_hidden_layers)
        for name in self.weights:
            if (place := names.get_name(name, try_suffixes=(".weight", ".bias"))) is None:
                raise PipelineError(
                    f"{self.weights.subject.name}: its tensor {name} has no place in a {self._shape.arch} of llama.cpp.",
                    "llama.cpp's own converter may know it: name its checkout, LLAMA_CPP=folder.",
                )
            yield name, place

    def _type(self, name: str) -> str:
        """In which type a tensor is written."""
        shape = self.weights.shape(name)
        if len(shape) < 2 or self.kind == "f32":
            return "f32"
        if self.kind in ("f16", "bf16"):
            return self.kind
        if shape[-1] % _BLOCK:
            return "f16"
        words = name in ("model.embed_tokens.weight", "lm_head.weight")
        return "q8_0" if words and self.kind in _LEAST_FOR_WORDS else self.kind

    def _bytes(self, name: str) -> int:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        block, size = GGML_QUANT_SIZES[GGMLQuantizationType[self._type(name).upper()]]
        return self.weights.shape(name).numel() // block * size

    def _announce(self, writer, name: str, place: str) -> None:
        from gguf import GGMLQuantizationType

        raw = GGMLQuantizationType[self._type(name).upper()]
        writer.add_tensor_info(place, self.weights.shape(name), numpy.float32, self._bytes(name), raw)

    def _quantized(self, name: str, values: numpy.ndarray) -> numpy.ndarray:
        from gguf import GGMLQuantizationType, quants

        kind = self._type(name)
        if kind == "f16" and not (numpy.abs(values).max(initial=0) <= numpy.finfo(numpy.float16).max):
            raise PipelineError(
                f"{self.weights.subject.name}: {name} has numbers that f16 has not.", "Take --type bf16, or q8_0."
            )
        return quants.quantize(values, GGMLQuantizationType[kind.upper()])


def open_weights(subject: Subject, adapter: bool = True) -> Weights:
    """In float32, so that a number is rounded once. Raises PipelineError for what GGUF has no form for."""
    if subject.head == SCORE:
        raise PipelineError(
            f"{subject.name}: is a reward model, whose score llama.cpp has no form for.",
            "align merge writes it as a plain folder, --format onnx for onnxruntime.",
        )
    return Weights(subject, "float32", adapter=adapter)


def proof_of(subject: Subject, folder: Path, questions: Questions, limits: proof.Limits) -> dict:
    """By llama.cpp itself. Nothing else can say what llama.cpp will answer: without it nothing is proven."""
    if not packages.installed("xllamacpp"):
        return proof.not_proven(f"llama.cpp is not installed, which has to run it: {packages.command('gguf')}")
    longest = max(len(one.ids) for one in questions.rows) + questions.max_new_tokens
    model = folder / FILE
    return against_trained(subject, folder, lambda: runtime.LlamaForm(model, longest), questions, limits)
