"""What is published: the files of an artifact as others may have them, the lineage beside them, and the card."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from pipeline.artifact.digests import file_sha256
from pipeline.errors import PipelineError
from pipeline.model.adapters import method_of
from pipeline.use import lineage
from pipeline.use.card import card, marks
from pipeline.use.choice import Chosen
from pipeline.use.known import CARD, Known
from pipeline.use.usage import ADAPTER, NEED_A_BASE

ADAPTER_CONFIG = "adapter_config.json"
BASE_KEYS = ("base_model_name_or_path", "revision")  # in it: where the base is, which is another place for others
_TEXTS = (".json", ".md", ".jinja", "")  # Ollama's Modelfile has no suffix
_LONG = 12
_QUANTIZED = ("load_in_4bit", "load_in_8bit")
_TRACED = re.compile(rb"/[\w./-]{1,300}/site-packages/")  # in the traces that exporters leave in a graph
_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|CREDENTIAL|API_KEY|ACCESS_KEY)", re.IGNORECASE)


@dataclass(frozen=True)
class OnTheHub:
    """Where the base lies for others: a repository, and the commit that was trained on."""

    repository: str
    commit: str | None


@dataclass(frozen=True)
class Publication:
    """`files` by their names in the repository: a path of this machine, or the content where it is written for others."""

    chosen: Chosen
    lineage: dict
    files: Mapping[str, Path | bytes]

    @property
    def marks(self) -> dict:
        return marks(self.lineage)

    @property
    def lacks_base(self) -> bool:
        """Whether nobody else could use it: an adapter whose base is on this machine alone."""
        return self.lineage["what"] in NEED_A_BASE and not self.lineage["base"]["repository"]

    def told(self, known: Known) -> "Publication":
        """With the card."""
        return replace(self, files={**self.files, CARD: card(self.lineage, known).encode()}).checked()

    def checked(self) -> "Publication":
        """Itself, where nothing of it has a path of this machine or a secret. Raises PipelineError."""
        private = _private_words()
        for name, content in self.files.items():
            begin = content if isinstance(content, bytes) else _beginning(content)
            text = isinstance(content, bytes) or (content.suffix in _TEXTS and name != "tokenizer.json")
            # A vocabulary has any short word.
            found = [what for what, word in private.items() if word.encode() in begin and (text or len(word) >= _LONG)]
            if traced := _TRACED.search(begin):
                found.append(f"a path of the machine that made it ({traced[0].decode()})")
            if found:
                where = self.chosen.attempt.folder if isinstance(content, bytes) else content
                raise PipelineError(
                    f"{name}: holds {found[0]}, which is nobody else's business, so nothing is published.",
                    f"Look into {where}.",
                )
        return self

    def write(self, folder: Path) -> None:
        """Put it into a folder that is not there yet, is empty, or holds an earlier publication: whole or not at all."""
        if folder.exists() and not folder.is_dir():
            raise PipelineError(f"{folder}: is a file.", "Name a folder with --to.")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / lineage.FILE).is_file():
            raise PipelineError(
                f"{folder}: is not empty, and holds no publication of this pipeline.", "Name another folder with --to."
            )
        partial = folder.with_name(f".{folder.name}.{os.getpid()}")
        try:
            for name, content in self.files.items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    (partial / name).write_bytes(content)
                else:
                    shutil.copyfile(content, partial / name)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        except OSError as error:
            raise PipelineError(f"{folder}: cannot be written: {error}.", "Name another folder with --to.") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _beginning(file: Path) -> bytes:
    """Its metadata, wherever a format has them: tensors come after."""
    with file.open("rb") as opened:
        return opened.read(64 << 20)


def publication(chosen: Chosen, base: OnTheHub | None = None) -> Publication:
    """What is meant, without its card. `base` says where the base of an adapter is, where that was on no hub.

    Raises PipelineError for what is damaged.
    """
    attempt, exported = chosen.attempt, chosen.export
    files: dict[str, Path | bytes] = dict(chosen.files())
    on_hub = base or _named_base(chosen)
    said = {
        "what": chosen.what,
        "stage": attempt.manifest["stage"],
        "head": attempt.manifest["head"],
        "base": {
            "identity": attempt.manifest["base"]["identity"],
            "repository": on_hub.repository if on_hub else None,
            "commit": on_hub.commit if on_hub else None,
            **{key: on for key, on in attempt.manifest["inputs"]["model"].items() if key in _QUANTIZED},
        },
        "stages": [lineage.public(one.manifest) for one in lineage.chain(attempt)],
    }
    if exported:
        said["export"] = lineage.public_export(exported.said, exported.proof)
    if chosen.what == ADAPTER:
        config = json.loads((attempt.output / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        new_tokens = bool(config.get("trainable_token_indices"))
        method = method_of(config["peft_type"])
        said["adapter"] = {"method": method.name, "r": config.get("r"), "new_tokens": new_tokens}
        said["adapter"] |= {"needs": method.module} if method.module != "peft" else {}
        named = dict(zip(BASE_KEYS, (said["base"]["repository"], said["base"]["commit"]), strict=True))
        if {key: config.get(key) for key in named} != named:
            files[ADAPTER_CONFIG] = _json(config | named)
    said["files"] = {name: _digest(content) for name, content in sorted(files.items())}
    return Publication(chosen, said, files | {lineage.FILE: _json(lineage.sealed(said))})


def _named_base(chosen: Chosen) -> OnTheHub | None:
    """A base that was a repository of the hub from the first stage on."""
    identity = lineage.chain(chosen.attempt)[0].manifest["inputs"]["base"]
    if "id" not in identity:
        return None
    on = chosen.attempt.manifest["base"]["identity"]
    below = chosen.what in NEED_A_BASE and on != identity  # an adapter on a model that a stage made of it
    return None if below else OnTheHub(identity["id"], identity["commit"])


def _private_words() -> dict[str, str]:
    """What must not go up: where things are on this machine, and secrets of the environment."""
    from huggingface_hub import get_token

    words = {"a path of this machine": f"{Path.cwd()}/", "the path of the home folder": f"{Path.home()}/"}
    words |= {f"the value of {key}": value for key, value in os.environ.items() if _SECRET.search(key)}
    words["the hub's token"] = get_token() or ""
    return {what: word for what, word in words.items() if len(word) > 5}


def _digest(content: Path | bytes) -> dict:
    if isinstance(content, bytes):
        return {"size": len(content), "sha256": sha256(content).hexdigest()}
    return {"size": content.stat().st_size, "sha256": file_sha256(content)}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
