"""The format `onnx`: a graph with its KV cache for onnxruntime, written by transformers' own exporter, in float32.

Inputs and outputs have the names that optimum and transformers.js look for: input_ids, attention_mask, position_ids,
past_key_values.<layer>.key and .value; logits, present.<layer>.key and .value. The first call has a cache of no tokens.
A reward model has input_ids and attention_mask, and its scores as logits.
"""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy
import torch
from transformers import AutoTokenizer, GenerationConfig

from pipeline.errors import PipelineError
from pipeline.use import merge, packages, proof
from pipeline.use.forms import Words, merged_form, through_stop
from pipeline.use.questions import Questions
from pipeline.use.subject import SCORE, Subject
from pipeline.use.weights import Weights

NAME, FILE = "onnx", "model.onnx"
_PROTOBUF = 2 << 30  # bytes that one file can have; larger weights lie beside it
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Onnx:
    """The format, see pipeline.use.export.Format."""

    name = NAME

    def __init__(self, subject: Subject, questions: Questions):
        self.questions, self.options = questions, {"dtype": "float32"}
        self._weights: Weights | None = None

    def check(self, subject: Subject) -> None:
        for package in _PACKAGES:
            packages.require(package, "onnx", "an ONNX file")
        self._weights = Weights(subject, "float32")

    def size(self, subject: Subject) -> int:
        """With the merged model, which is exported, beside it."""
        return 2 * merge.size(self._weights) + (64 << 20) + merge.scratch_size(self._weights, self.questions)

    def write(self, subject: Subject, folder: Path) -> dict:
        with TemporaryDirectory(dir=folder) as merged:
            merge.write(self._weights, Path(merged))
            large = merge.size(self._weights) > _PROTOBUF * 0.9
            self._weights = None
            form = merged_form(Path(merged), subject.head, "float32")
            model = form.model.cpu()
            program = self._exported(model, subject)
            program.save(folder / FILE, external_data=large)
            model.config.save_pretrained(folder)
            if model.can_generate():
                model.generation_config.save_pretrained(folder)
            form.tokenizer.save_pretrained(folder)
        return {"file": FILE, "dtype": "float32"}

    def prove(self, subject: Subject, folder: Path) -> dict:
        limits = merge.limits_of(subject, proof.EXACT)
        return merge.against_trained(subject, folder, lambda: OnnxForm(folder, subject.head), self.questions, limits)

    def _exported(self, model, subject: Subject):
        from transformers.exporters.configs import OnnxConfig
        from transformers.exporters.exporter_onnx import OnnxExporter

        # Two rows and lengths that are no 1: the exporter takes a size of 1 for one that is always 1.
        ids = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if subject.head != SCORE:
            with torch.no_grad():
                past = model(input_ids=ids[:, :2], use_cache=True).past_key_values
            whole = torch.ones(2, 6, dtype=torch.long)
            places = torch.arange(2, 6).expand(2, -1).contiguous()
            inputs |= {"attention_mask": whole, "position_ids": places, "past_key_values": past, "use_cache": True}
        try:
            with _silence():
                program = OnnxExporter().export(model, inputs, OnnxConfig(dynamic=True))
        except Exception as error:  # torch.export fails in every way that a model's code can
            raise PipelineError(
                f"{subject.name}: transformers cannot export a {model.config.model_type} to ONNX: "
                f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}",
                "Export it as GGUF, or merge it into a plain folder.",
            ) from None
        _rename(program.model.graph)
        _forget_origins(program.model)
        return program


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter prints what it does, and warns of operators that are not in this model."""
    said, before = io.StringIO(), logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(said), redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _rename(graph) -> None:
    for value in (*graph.inputs, *graph.outputs):
        parts = value.name.split(".")
        if "past_key_values" in parts:
            kind = "past_key_values" if parts[0] == "input" else "present"
            value.name = f"{kind}.{parts[-2]}.{parts[-1].removesuffix('s')}"


def _forget_origins(model) -> None:
    """The exporter notes with each node which line of which file of this machine it came from: nobody else's business."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.clear()


class OnnxForm(Words):
    """The graph run by onnxruntime, see pipeline.use.forms.Form. Template, tokens and stops are those in its folder."""

    has_adapter = False

    def __init__(self, folder: Path, head: str):
        import onnxruntime

        said = None if head == SCORE else GenerationConfig.from_pretrained(folder)
        super().__init__(AutoTokenizer.from_pretrained(folder), said)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(folder / FILE), options, providers=["CPUExecutionProvider"])
        self.runtime = f"onnxruntime {onnxruntime.__version__} on cpu"
        self._caches = {
            one.name: one.shape for one in self._session.get_inputs() if one.name.startswith("past_key_values.")
        }
        self._outputs = [one.name for one in self._session.get_outputs()]

    def answers(self, prompts: Sequence[list[int]], count: int) -> list[list[int]]:
        found = []
        for prompt in prompts:
            ids, cache, answer = prompt, self._empty(), []
            while len(answer) < count and not (answer and answer[-1] in self.stops):
                logits, cache = self._next(ids, cache, len(prompt) + len(answer))
                ids = [int(logits[-1].argmax())]
                answer += ids
            found.append(through_stop(answer, self.stops))
        return found

    def log_probabilities(self, prompt: list[int], answer: list[int], *, adapter: bool = True) -> numpy.ndarray:
        """The prompt first and then the answer, so that the cache is compared as well."""
        first, cache = self._next(prompt, self._empty(), len(prompt))
        rest, _ = self._next(answer, cache, len(prompt) + len(answer))
        logits = torch.from_numpy(numpy.concatenate([first[-1:], rest[:-1]]))
        return logits.float().log_softmax(-1).numpy()

    def scores(self, rows: Sequence[list[int]]) -> list[float]:
        asked = (numpy.array([ids], dtype=numpy.int64) for ids in rows)
        return [
            float(
                self._session.run(["logits"], {"input_ids": ids, "attention_mask": numpy.ones_like(ids)})[0].squeeze()
            )
            for ids in asked
        ]

    def close(self) -> None:
        self._session = None

    def _empty(self) -> dict[str, numpy.ndarray]:
        return {
            name: numpy.zeros((1, int(shape[1]), 0, int(shape[3])), numpy.float32)
            for name, shape in self._caches.items()
        }

    def _next(self, ids: list[int], cache: Mapping[str, numpy.ndarray], seen: int) -> tuple[numpy.ndarray, dict]:
        """(logits of each of `ids`, the cache with them); `seen` counts all tokens so far, these included."""
        given = {
            "input_ids": numpy.array([ids], dtype=numpy.int64),
            "attention_mask": numpy.ones((1, seen), dtype=numpy.int64),
            "position_ids": numpy.arange(seen - len(ids), seen, dtype=numpy.int64)[None],
        }
        found = dict(zip(self._outputs, self._session.run(self._outputs, given | dict(cache)), strict=True))
        return found["logits"][0], {name: found[name.replace("past_key_values", "present")] for name in cache}
