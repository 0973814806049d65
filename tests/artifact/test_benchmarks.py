"""Results of benchmarks: kept by what was asked of whom, found wherever they are, and refused where they were edited."""

import json

import pytest

from pipeline.artifact import benchmarks
from pipeline.errors import PipelineError

ASKED, SAME, OTHER = {"task": "a/b c", "limit": 5}, {"limit": 5, "task": "a/b c"}, {"task": "a/b c", "limit": 6}
SFT, DPO = {"weights": "1"}, {"weights": "2"}


def side(policy: dict) -> dict:
    return {"policy": policy, "results": {}}


def kept(runs, stage="dpo", before=SFT, after=DPO):
    folder = runs / "tiny" / stage / "0123456789ab" / benchmarks.FOLDER
    return benchmarks.keep(folder, ASKED, {"before": before and side(before), "after": side(after), "differences": {}})


def test_what_was_after_one_stage_is_found_before_the_next_and_the_other_way_round(tmp_path):
    file = kept(tmp_path)
    assert file.parent.is_dir() and "/" not in file.name.replace(".json", "")
    for policy in (SFT, DPO):
        assert benchmarks.found(tmp_path, SAME, policy) == side(policy)
    assert (
        benchmarks.found(tmp_path, OTHER, DPO) is None and benchmarks.found(tmp_path, ASKED, {"weights": "3"}) is None
    )


def test_what_is_no_artifact_is_found_too(tmp_path):
    folder = tmp_path / benchmarks.ELSEWHERE / "abc"
    benchmarks.keep(folder, ASKED, {"before": None, "after": side(DPO), "differences": {}})
    assert benchmarks.found(tmp_path, ASKED, DPO) == side(DPO)


@pytest.mark.parametrize("edit", [lambda text: text.replace('"2"', '"9"'), lambda text: text[:40], lambda _: "[]"])
def test_an_edited_result_is_refused(tmp_path, edit):
    file = kept(tmp_path)
    file.write_text(edit(file.read_text()))
    with pytest.raises(PipelineError, match=r"digest does not match|is no result"):
        benchmarks.found(tmp_path, ASKED, SFT)


def test_a_later_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "SCHEMA", 2)
    file = kept(tmp_path)
    monkeypatch.undo()
    assert json.loads(file.read_text())["schema"] == 2
    with pytest.raises(PipelineError, match="has schema 2; this version reads 1"):
        benchmarks.read(file)
