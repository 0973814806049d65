"""The notebooks: their cells are Python and commands that there are, and they run to their end with a tiny model on a CPU."""

import ast
import importlib.util
import json
import os
import shutil
import sys

import pytest
from conftest import PROJECT, attempt
from lessons import NOTEBOOKS, asked

MISSING = [name for name in ("nbclient", "ipykernel", "gguf") if importlib.util.find_spec(name) is None]
LITTLE = """\
name: little
model: {{id: {model}, dtype: float32}}
adapter: {{method: lora, r: 4, lora_alpha: 8}}
threads: 1
train: {{per_device_train_batch_size: 4, max_length: 48, max_steps: 2}}
evaluation: {{max_new_tokens: 6, max_rows: 4}}
stages:
  sft: {{data: {{path: {rows}/chat.jsonl, held_out: 0.2}}}}
  dpo: {{data: {{path: {rows}/pairs.jsonl, held_out: 0.2}}}}
"""
notebooks = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)


def code(notebook) -> list[tuple[list[str], str]]:
    """The tags and the text of each cell of code."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [
        (cell["metadata"].get("tags", []), "".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"
    ]


def parameters(notebook) -> dict[str, str]:
    given: dict[str, str] = {}
    exec(next(text for tags, text in code(notebook) if "parameters" in tags), given)
    return {name: value for name, value in given.items() if name.isupper()}


@notebooks
def test_its_cells_parse_and_its_commands_are_such(notebook):
    given, known = parameters(notebook), 0
    for _, text in code(notebook):
        if text.startswith("%%"):
            continue
        ast.parse("\n".join(line for line in text.splitlines() if not line.startswith(("!", "%"))))
        for line in text.splitlines():
            if line.startswith(("!make ", "!.venv/bin/align ")):
                known += len(asked(line[1:].format(**given)))
    assert known >= 4 and (PROJECT / given["RECIPE"]).is_file()


@notebooks
def test_it_has_no_outputs(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}, of the extras notebooks and gguf")
@notebooks
def test_it_runs_to_its_end(notebook, chain, tmp_path):
    """As it stands, but for the cell that installs, and with another recipe; its `.venv` is this very environment."""
    import nbformat
    from nbclient import NotebookClient

    _workshop(tmp_path)
    (tmp_path / "recipes").mkdir()
    model = attempt(chain, "pretrain") / "model"
    (tmp_path / "recipes" / "little.yaml").write_text(LITTLE.format(model=model, rows=chain))
    opened = nbformat.read(notebook, as_version=4)
    for cell in opened.cells:
        tags = cell.metadata.get("tags", [])
        if "install" in tags:
            cell.source = ""
        if "parameters" in tags:
            cell.source += '\nRECIPE = "recipes/little.yaml"'
    NotebookClient(opened, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    said = ["".join(output.get("text", "") for output in cell.get("outputs", [])) for cell in opened.cells]
    assert any("What was learned" in one for one in said) and any("sft: " in one for one in said)
    assert (tmp_path / "mine" / "Modelfile").is_file() and list((tmp_path / "mine").glob("*.gguf"))


def _workshop(folder) -> None:
    """What a clone has, so that `make` finds nothing to install."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(PROJECT / name, folder)
    (folder / "stages").symlink_to(PROJECT / "stages")
    align = folder / ".venv" / "bin" / "align"
    align.parent.mkdir(parents=True)
    align.write_text(f'#!/bin/sh\nPYTHONPATH="{PROJECT}" exec "{sys.executable}" -m pipeline.cli "$@"\n')
    align.chmod(0o755)
    (align.parent / "python").symlink_to(sys.executable)
    later = (folder / "constraints.txt").stat().st_mtime + 9
    for name in (".ready", ".ready-gguf"):
        (folder / ".venv" / name).touch()
        os.utime(folder / ".venv" / name, (later, later))
