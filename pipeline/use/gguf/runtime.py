"""A GGUF file run by llama.cpp, as a proof asks it: its server in a process of its own, which may die of a bad file."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile

import httpx
import numpy

from pipeline.errors import PipelineError
from pipeline.train.job.machine import available_cores

_MOST = 2048  # of a larger vocabulary so many tokens are asked for; the rest of them together
_START = 600  # seconds to load a model in


class LlamaForm:
    """See pipeline.use.forms.Form."""

    has_adapter = False

    def __init__(self, model: Path, longest: int, lora: Path | None = None):
        from importlib.metadata import version

        self.runtime = f"llama.cpp (xllamacpp {version('xllamacpp')}) on cpu"
        self._log = TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        threads = int(os.environ.get("OMP_NUM_THREADS") or min(available_cores(), 8))
        job = {"model": str(model), "context": longest + 8, "lora": str(lora) if lora else None, "threads": threads}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipeline.use.gguf.server", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        address = self._process.stdout.readline().strip()
        if not address:
            raise self._died()
        self._http = httpx.Client(base_url=address, timeout=_START, trust_env=False)
        self._wait()
        self._props = self._get("/props")
        self._meta = read_metadata(model)
        self._vocabulary = len(self._meta["tokenizer.ggml.tokens"])

    @property
    def stops(self) -> set[int]:
        ids = (self._meta.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom"))
        return {int(one) for one in ids if one is not None}

    def render(self, messages: list[dict], tools: list[dict] | None) -> str | None:
        """With the BOS that the server puts before a prompt by itself."""
        if "tokenizer.chat_template" not in self._meta:
            return None
        text = self._post("/apply-template", {"messages": messages} | ({"tools": tools} if tools else {}))["prompt"]
        bos = self._props.get("bos_token") or ""
        adds = self._meta.get("tokenizer.ggml.add_bos_token")
        return bos + text if adds and not text.startswith(bos) else text

    def tokens(self, text: str) -> list[int]:
        return self._post("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]

    def token(self, number: int) -> str:
        return self._meta["tokenizer.ggml.tokens"][number]

    def text(self, ids: Sequence[int]) -> str:
        if ids and ids[-1] in self.stops:
            ids = ids[:-1]
        return self._post("/detokenize", {"tokens": list(ids)})["content"].strip()

    def answers(self, prompts: Sequence[list[int]], count: int) -> list[list[int]]:
        found = []
        for prompt in prompts:
            found.append(self._complete(prompt, count, return_tokens=True)["tokens"])
        return found

    def log_probabilities(self, prompt: list[int], answer: list[int], *, adapter: bool = True) -> numpy.ndarray:
        rows = numpy.full((len(answer), self._vocabulary), numpy.nan, dtype=numpy.float32)
        for number, top in enumerate(self._at_once(prompt, answer) or self._one_by_one(prompt, answer)):
            rows[number, [one["id"] for one in top]] = [one["logprob"] for one in top]
        return rows

    def scores(self, rows: Sequence[list[int]]) -> list[float]:
        raise NotImplementedError("no reward model is written as GGUF")

    def close(self) -> None:
        self._http.close()
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def _at_once(self, prompt: list[int], answer: list[int]) -> list[list[dict]] | None:
        """What it says before each token, by letting it answer: None where it answers otherwise.

        Also where a letter is made of several tokens: the server then leaves those out that do not end it.
        """
        said = self._complete(prompt, len(answer), n_probs=self._asked, return_tokens=True)
        steps = said.get("completion_probabilities") or []
        if said["tokens"][: len(answer)] != answer or [one["id"] for one in steps] != answer:
            return None
        return [one["top_logprobs"] for one in steps]

    def _one_by_one(self, prompt: list[int], answer: list[int]) -> Iterator[list[dict]]:
        """One request a token. It is made to answer with a letter, which changes nothing of what it says before that."""
        for number in range(len(answer)):
            more = {"n_probs": self._asked, "logit_bias": [[self._letter, 1000.0]]}
            said = self._complete([*prompt, *answer[:number]], 1, **more)
            yield said["completion_probabilities"][0]["top_logprobs"]

    @cached_property
    def _letter(self) -> int:
        return self.tokens("a")[-1]

    @property
    def _asked(self) -> int:
        return min(self._vocabulary, _MOST)

    def _complete(self, prompt: list[int], count: int, **more: object) -> dict:
        greedy = {"temperature": 0, "samplers": ["top_k"], "top_k": 1, "repeat_penalty": 1.0, "cache_prompt": True}
        return self._post("/completion", {"prompt": prompt, "n_predict": count, "stream": False} | greedy | more)

    def _post(self, path: str, body: dict) -> dict:
        return self._checked(lambda: self._http.post(path, json=body))

    def _get(self, path: str) -> dict:
        return self._checked(lambda: self._http.get(path))

    def _checked(self, ask) -> dict:
        try:
            answer = ask()
            answer.raise_for_status()
            return answer.json()
        except httpx.HTTPStatusError as error:
            raise PipelineError(f"llama.cpp refuses it: {error.response.text[:300]}") from None
        except httpx.HTTPError:
            raise self._died() from None

    def _wait(self) -> None:
        """Until the model is loaded."""
        end = time.monotonic() + _START
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise self._died()
            try:
                if self._http.get("/health").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
        raise self._died()

    def _died(self) -> PipelineError:
        self._process.kill()
        self._process.wait()
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        told = [line for line in lines if "error" in line.lower() or "assert" in line.lower()] or lines
        return PipelineError("llama.cpp cannot load it:\n" + "\n".join(told[-3:]))


def read_metadata(model: Path) -> dict:
    """What a GGUF file says of itself, by key."""
    from gguf import GGUFReader

    reader = GGUFReader(model)
    return {name: field.contents() for name, field in reader.fields.items()}
