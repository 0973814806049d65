"""Rows prepared as a stage would, for the tests that look at them."""

import json
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

from conftest import write_rows

from pipeline.data.prepare.one_pass import Prepared, prepare
from pipeline.data.prepare.table import tokens
from pipeline.data.source import Data
from pipeline.data.tokens.encoded import IGNORED
from pipeline.data.tokens.encoder import Encoder
from pipeline.data.tokens.template_files import named
from pipeline.model.tokenizer import prepare as prepare_tokenizer
from pipeline.model.tokenizer import train

QUESTIONS = [{"prompt": f"What is {n}?", "completion": f"It is {n}, so they say"} for n in range(40)]


def plain_tokenizer(words: str):
    """A small one with the plain template, learned from some words."""
    made = train([words] * 5, 300)
    made.chat_template = named("plain")
    return made


def tokenizer_with(template, words="what is red? a colour"):
    """As a stage would have it, with a named template."""
    made = train([words] * 5, 300)
    return prepare_tokenizer(
        made, SimpleNamespace(model=SimpleNamespace(template=template, pad_token=None, id="m"))
    ).tokenizer


def tokenizer_of(template):
    """Its template has a name, or is Jinja."""
    tokenizer = tokenizer_with(template if template.isalnum() else "plain")
    tokenizer.chat_template = tokenizer.chat_template if template.isalnum() else template
    return tokenizer


def learned(tokenizer, row) -> list[str]:
    """What carries loss, run by run."""
    runs, before = [], IGNORED
    for label in row["labels"]:
        if label != IGNORED:
            runs += [[]] if before == IGNORED else []
            runs[-1].append(label)
        before = label
    return [tokenizer.decode(run).strip() for run in runs]


def prepared(path: Path, kind: str = "conversation", tokenizer=None, folder: Path | None = None, **options) -> Prepared:
    """`options` are those of Data and, where there is a tokenizer, max_length and through_suffix."""
    own = {name: options.pop(name) for name in ("max_length", "through_suffix") if name in options}
    data = Data(path=str(path), **({"held_out": 0.0} | options))
    encoder = tokenizer and Encoder(tokenizer, on_too_long=data.on_too_long, learn=data.learn, **own)
    found = prepare(data, kind, encoder, Path(mkdtemp(dir=folder)))
    found.account.summary()  # it adds up
    return found


def made_of(folder: Path, rows: list[dict], **options) -> Prepared:
    """As `prepared`, of rows that are not in a file yet."""
    write_rows(folder / "rows.jsonl", rows)
    return prepared(folder / "rows.jsonl", folder=folder, **options)


def encode(tokenizer, folder: Path, rows: list[dict], kind: str = "conversation", **options):
    """The token columns of rows, and all that became of them."""
    write_rows(folder / "rows.jsonl", rows)
    found = prepared(folder / "rows.jsonl", kind, tokenizer, folder, **options)
    assert found.account.read == len(rows)
    return list(tokens(found.trained)), found


def lines(found: Prepared, name: str) -> list[dict]:
    """What one of the lists says."""
    file = found.folder / name
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def reasons(found: Prepared) -> list[str]:
    return [line["reason"] for line in lines(found, "rejected.jsonl")]


def prompts_of(found: Prepared) -> list[set[str]]:
    """The prompts of the trained and of the held-out rows."""
    return [{one.prompt for one in found.examples(side)} for side in (found.trained, found.held_out)]
