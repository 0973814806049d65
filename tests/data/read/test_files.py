"""Which files a path means: folders, globs, and what is not there."""

import subprocess
import sys

import pytest
from conftest import PROJECT, write_micro, write_rows
from containers import ROWS

from pipeline.artifact.digests import file_sha256
from pipeline.data.prepare.kinds import kind_of
from pipeline.data.read.files import files
from pipeline.data.source import Data
from pipeline.errors import PipelineError
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe


def test_folders_and_globs_mean_their_files_sorted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = ["d/a.jsonl", "d/b/c.csv.gz", "d/c.TXT", "d/d.parquet"]
    for name in [*wanted, "d/.hidden.jsonl", "d/.git/x.json", "d/README.md", "d/state.json", "d/dataset_info.json"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert files("d") == wanted
    assert files("d/*.json*") == ["d/a.jsonl"]
    assert files("d/**/*.gz") == ["d/b/c.csv.gz"]
    assert files(["d/d.parquet", "d/README.md", "d/b"]) == ["d/d.parquet", "d/README.md", "d/b/c.csv.gz"]
    (tmp_path / "d/[1].jsonl").write_text("x")
    assert files("d/[1].jsonl") == ["d/[1].jsonl"]


def test_paths_that_mean_no_file_say_what_was_looked_for(tmp_path):
    (tmp_path / "empty").mkdir()
    write_rows(tmp_path / "rows.jsonl", ROWS)
    for path, expected in (
        ("empty", ".parquet"),
        ("*.csv", "no file matches"),
        ("row.jsonl", str(tmp_path / "rows.jsonl")),
    ):
        with pytest.raises(PipelineError, match="no ") as error:
            files(str(tmp_path / path))
        assert str(tmp_path / path) in error.value.what and expected in str(error.value)


def test_finding_files_imports_no_table_library():
    heavy = ("pyarrow", "pandas", "datasets")
    code = f"import sys, pipeline.data.read.reader; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=PROJECT, text=True).strip() == "[]"


def test_a_plan_takes_folders_and_keeps_the_fingerprint_of_a_plain_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_micro(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "text.jsonl").rename(tmp_path / "rows" / "text.jsonl")
    (tmp_path / "held").mkdir()
    for part in "ab":
        write_rows(tmp_path / "held" / f"{part}.jsonl", [{"text": part}])

    def step(path, held_out):
        made = load_recipe("micro.yaml", [f"stages.pretrain.data={{path: '{path}', held_out: '{held_out}'}}"])
        return Planner(made, tmp_path / "runs").plan(["pretrain"])[0]

    digests = [file_sha256(tmp_path / name) for name in ("rows/text.jsonl", "held/a.jsonl", "held/b.jsonl")]
    plain = step("rows/text.jsonl", "held/a.jsonl")
    assert (plain.inputs["data"]["files"], plain.inputs["data"]["held_out"]) == ([digests[0]], digests[1])
    assert step("rows", "held/a*").fingerprint == plain.fingerprint
    assert step("ro*/*.jsonl", "held").inputs["data"]["held_out"] == digests[1:]
    with pytest.raises(
        PipelineError, match=r"pretrain: none: no such file(.|\n)*pretrain: held/\*.csv: no file matches"
    ):
        step("none", "held/*.csv")


def test_an_address_is_no_file(tmp_path):
    with pytest.raises(PipelineError) as error:
        kind_of(Data(path="https://example.com/rows.jsonl"))
    assert "an address, which is not read" in str(error.value) and "Download it" in error.value.fix
