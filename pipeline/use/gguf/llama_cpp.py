"""Where a checkout of llama.cpp is at hand, its own tools do the writing; the proof stays the same."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.errors import MachineError, PipelineError
from pipeline.use import merge, proof
from pipeline.use.gguf import modelfile
from pipeline.use.gguf.writer import FILE, TYPES, open_weights, proof_of
from pipeline.use.questions import Questions
from pipeline.use.subject import Subject
from pipeline.use.weights import Weights

VARIABLE = "LLAMA_CPP"
CONVERTER, QUANTIZE = "convert_hf_to_gguf.py", "llama-quantize"
_CONVERTED = ("f32", "f16", "bf16", "q8_0")  # by the converter itself; the others by llama-quantize, from f16
_PLACES = ("build/bin", "bin", ".")


def checkout() -> Path | None:
    """The folder that LLAMA_CPP names. Raises PipelineError where it is none."""
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not (folder / CONVERTER).is_file():
        raise PipelineError(
            f"{VARIABLE}={named}: has no {CONVERTER}.", "Name a checkout of llama.cpp, or leave the variable out."
        )
    return folder


class LlamaCpp:
    """The format gguf, see pipeline.use.export.Format, written by llama.cpp's own tools."""

    name = "gguf"

    def __init__(self, subject: Subject, questions: Questions, kind: str | None, folder: Path):
        self.questions, self.kind, self.folder = questions, (kind or "f16").lower(), folder
        self.options: Mapping[str, object] = {"type": self.kind, "by": "llama.cpp"}
        self._weights: Weights | None = None

    def check(self, subject: Subject) -> None:
        if self.kind not in _CONVERTED:
            self._quantizer()
        self._weights = open_weights(subject)

    def size(self, subject: Subject) -> int:
        """The merged model in 16 bits, the file that is converted from it, and the quantized one."""
        sizes = merge.size(self._weights) * (1 + (self.kind not in _CONVERTED))
        return sizes + (64 << 20) + merge.scratch_size(self._weights, self.questions)

    def write(self, subject: Subject, folder: Path) -> dict:
        dtype = "float32" if self.kind == "f32" else subject.model.dtype
        first = self.kind if self.kind in _CONVERTED else "f16"
        with TemporaryDirectory(dir=folder) as merged:
            merge.write(Weights(subject, dtype), Path(merged))
            into = folder / FILE if first == self.kind else Path(merged) / "whole.gguf"
            self._run(sys.executable, self.folder / CONVERTER, merged, "--outfile", into, "--outtype", first)
            if first != self.kind:
                self._run(self._quantizer(), into, folder / FILE, self.kind.upper())
        said = modelfile.write(folder, self._weights, FILE)
        self._weights = None
        return said | {"type": self.kind, "file": FILE, "written_by": f"llama.cpp {self._commit()}"}

    def prove(self, subject: Subject, folder: Path) -> dict:
        limits = merge.limits_of(subject, TYPES.get(self.kind, proof.FEW_BITS))
        return proof_of(subject, folder, self.questions, limits)

    def _quantizer(self) -> Path:
        for place in _PLACES:
            if os.access(self.folder / place / QUANTIZE, os.X_OK):
                return self.folder / place / QUANTIZE
        raise PipelineError(
            f"--type {self.kind}: needs {QUANTIZE}, which is not built in {self.folder}.",
            f"Build it: cmake -B build && cmake --build build --target {QUANTIZE}; or choose {', '.join(_CONVERTED)}.",
        )

    def _run(self, *command: object) -> None:
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise MachineError(f"{Path(str(command[1])).name} failed:\n" + "\n".join(lines[-3:]))

    def _commit(self) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.folder), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        )
        return done.stdout.strip() or "of an unknown commit"
