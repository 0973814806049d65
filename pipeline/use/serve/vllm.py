"""The same models served by vLLM (https://docs.vllm.ai), where a GPU and more than a few clients are at hand."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.use.serve.start import Place
from pipeline.use.subject import Subject

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank may be
_PROGRAM = "VLLM"  # the environment variable that says where it is installed


def program() -> str:
    """Its program: vLLM pins another torch, so it lies in an environment of its own."""
    found = shutil.which(os.environ.get(_PROGRAM, "vllm"))
    if not found:
        raise PipelineError(
            "--engine vllm: vLLM is not installed.",
            "It wants an environment of its own: python -m venv ~/vllm && ~/vllm/bin/pip install vllm; "
            f"then {_PROGRAM}=~/vllm/bin/vllm align serve --engine vllm ...",
        )
    return found


def command(vllm: str, subjects: Sequence[Subject], place: Place, most_rows: int) -> list[str]:
    """What starts it: a whole model, or one base with each adapter as a LoRA module. The key goes by the environment.

    Raises PipelineError for what vLLM would refuse, or would answer otherwise than it was trained.
    """
    first, adapters = subjects[0], [one for one in subjects if one.is_adapter]
    if len({(one.base.source, one.base.commit) for one in subjects}) > 1 or len(subjects) - len(adapters) > 1:
        raise PipelineError(
            f"--engine vllm: {', '.join(one.name for one in subjects)} stand on several bases; vLLM serves one.",
            "Name those of one base.",
        )
    if first.model.bits == 8:
        raise PipelineError(
            "--engine vllm: vLLM quantizes a base to 4 bits on the way, and not to the 8 bits that this was trained on.",
            "Leave --engine out, or serve what align merge writes.",
        )
    _check_words(subjects)
    made = [vllm, "serve", first.base.source, "--host", place.host, "--port", str(place.port)]
    made += ["--tokenizer", str(first.folder), "--dtype", first.model.dtype, "--max-num-seqs", str(most_rows)]
    made += ["--revision", first.base.commit] if first.base.commit else []
    made += ["--quantization", "bitsandbytes"] if first.model.load_in_4bit else []
    made += ["--trust-remote-code"] if first.model.trust_remote_code else []
    whole = [one.name for one in subjects if not one.is_adapter]
    made += ["--served-model-name", *(whole or ["base"])]
    if adapters:
        rank = max(_rank(one) for one in adapters)
        made += ["--enable-lora", "--max-lora-rank", str(next(one for one in _RANKS if one >= rank))]
        made += ["--max-loras", str(len(adapters)), "--lora-modules"]
        made += [json.dumps({"name": one.name, "path": str(one.folder)}) for one in adapters]
    return made


def start(subjects: Sequence[Subject], place: Place, most_rows: int) -> None:
    """Becomes vLLM's process."""
    made = command(program(), subjects, place, most_rows)
    place.bound().close()
    key = {"VLLM_API_KEY": place.key} if place.key else {}
    os.execve(made[0], made, os.environ | key)


def _rank(subject: Subject) -> int:
    """The adapter's largest rank. Raises PipelineError where vLLM's LoRA has no place for what it holds."""
    said = json.loads((subject.folder / "adapter_config.json").read_text(encoding="utf-8"))
    rank = max([said.get("r", 0), *(said.get("rank_pattern") or {}).values()])
    reasons = {
        "it is no LoRA adapter": said.get("peft_type") != "LORA",
        "it has tokens that the base has not": bool(said.get("trainable_token_indices")),
        f"it trained {', '.join(said.get('modules_to_save') or ())} whole": bool(said.get("modules_to_save")),
        "it is a DoRA adapter": bool(said.get("use_dora")),
        "it trained biases": said.get("bias", "none") != "none",
        f"its rank is {rank}": rank > _RANKS[-1],
    }
    for reason, holds in reasons.items():
        if holds:
            raise PipelineError(
                f"--engine vllm: vLLM takes {subject.name} as no LoRA module: {reason}.",
                f"Merge it first (align merge {subject.name}), and name the merged folder.",
            )
    return rank


def _check_words(subjects: Sequence[Subject]) -> None:
    """vLLM renders every conversation with one tokenizer and template."""
    first, *others = subjects
    for other in others:
        for name in ("tokenizer.json", "chat_template.jinja"):
            if _bytes(first.folder / name) != _bytes(other.folder / name):
                raise PipelineError(
                    f"--engine vllm: {first.name} and {other.name} differ in their {name}, and vLLM has one for all.",
                    "Name those of one template.",
                )


def _bytes(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None
