"""A plain folder that transformers, vLLM and whatever else reads Hugging Face's form load without an adapter."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pipeline.errors import PipelineError
from pipeline.use import proof
from pipeline.use.forms import Form, TorchForm, merged_form
from pipeline.use.loaded import load
from pipeline.use.questions import Questions
from pipeline.use.subject import SCORE, Subject
from pipeline.use.weights import Weights

NAME = "merged"
DTYPES = ("bfloat16", "float16", "float32")
_STORED = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
}
_BESIDE = 64 << 20  # bytes for the tokenizer and the rest: more than any has


class Merged:
    """The format `merged`, see pipeline.use.export.Format. `dtype` is by default the one that was trained in."""

    name = NAME

    def __init__(self, subject: Subject, questions: Questions, dtype: str | None = None):
        self.questions = questions
        self.dtype = dtype or subject.model.dtype
        if self.dtype not in DTYPES:
            raise PipelineError(f"--dtype {self.dtype}: no such type.", f"There are {', '.join(DTYPES)}.")
        self.options: Mapping[str, object] = {"dtype": self.dtype}
        self._weights: Weights | None = None

    def check(self, subject: Subject) -> None:
        self._weights = Weights(subject, self.dtype)

    def size(self, subject: Subject) -> int:
        return size(self._weights) + _BESIDE + scratch_size(self._weights, self.questions)

    def write(self, subject: Subject, folder: Path) -> dict:
        write(self._weights, folder)
        said = {"left_out": self._weights.left_out, "dtype": self.dtype, "head": subject.head}
        self._weights = None  # the proof needs the memory
        return said

    def prove(self, subject: Subject, folder: Path) -> dict:
        limits = limits_of(subject, proof.EXACT if self.dtype == "float32" else proof.HALF)
        return against_trained(
            subject, folder, lambda: merged_form(folder, subject.head, self.dtype), self.questions, limits
        )


def limits_of(subject: Subject, limits: proof.Limits) -> proof.Limits:
    """Those of a format; what was itself run in 16 bits or fewer is off by as much, however exact the export is."""
    exact = subject.model.dtype == "float32" and not subject.model.bits
    return limits if exact or limits.kl > proof.HALF.kl else proof.HALF


def against_trained(subject: Subject, folder: Path, exported, questions: Questions, limits: proof.Limits) -> dict:
    """The proof of an export in `folder`, beside base and adapter. What it needs on the way lies there meanwhile."""

    def trained() -> Form:
        (policy,) = load([subject])
        stops = policy.stops if policy.tokenizer.chat_template and subject.head != SCORE else None
        return TorchForm(policy.model, policy.tokenizer, stops)

    with TemporaryDirectory(dir=folder) as scratch:
        return proof.prove(trained, exported, questions, limits, Path(scratch), head=subject.head)


def scratch_size(weights: Weights, questions: Questions) -> int:
    """Bytes that the proof needs on the way: the trained model's distributions, in float32."""
    if weights.generation_config is None:
        return 0
    return len(questions.rows) * questions.max_new_tokens * weights.config.get_text_config().vocab_size * 4


def size(weights: Weights) -> int:
    """Bytes of the tensors."""
    return sum(weights.shape(name).numel() for name in weights) * weights.dtype.itemsize


def write(weights: Weights, folder: Path) -> None:
    """The whole folder: tensors in as many files as the base has, config, generation config, tokenizer and template."""
    shards: list[list[str]] = [[] for _ in range(weights.files)]
    for name in weights:
        shards[weights.file_of(name)].append(name)
    shards = [names for names in shards if names]
    places = {}
    for number, names in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_tensors(folder / file, names, weights)
        places |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": size(weights)}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    weights.config.save_pretrained(folder)
    if weights.generation_config is not None:
        weights.generation_config.save_pretrained(folder)
    weights.tokenizer.save_pretrained(folder)


def write_tensors(file: Path, names: Iterable[str], weights: Weights) -> None:
    """One safetensors file, each tensor written as soon as it is made.

    The format: eight bytes with the length of a JSON header, the header with each tensor's place, the tensors' bytes
    (https://github.com/huggingface/safetensors#format).
    """
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in names:
        shape = weights.shape(name)
        length = shape.numel() * weights.dtype.itemsize
        place = {"data_offsets": [at, at + length]}
        header[name] = {"dtype": _STORED[weights.dtype], "shape": list(shape)} | place
        at += length
    said = json.dumps(header, separators=(",", ":")).encode()
    said += b" " * (-len(said) % 8)
    with file.open("wb") as out:
        out.write(len(said).to_bytes(8, "little") + said)
        for name in names:
            out.write(memoryview(weights[name].flatten().view(torch.uint8).numpy()))
        out.flush()
        os.fsync(out.fileno())
