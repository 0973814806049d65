"""What kind of rows a file has, told by the rows."""

import pytest
from conftest import write_rows

from pipeline.data.prepare import kinds
from pipeline.data.prepare.kinds import kind_of
from pipeline.data.source import Data
from pipeline.errors import PipelineError
from pipeline.stage import Spec, specs


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "a", "completion": "b"}, "conversation"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
        ({"text": "a"}, "text"),
        ({"prompt": "a", "topic": "b"}, "prompt"),
    ],
)
def test_the_kind_of_a_file_is_told_by_its_rows(tmp_path, row, kind):
    write_rows(tmp_path / "rows.jsonl", [row])
    assert kind_of(Data(path=str(tmp_path / "rows.jsonl"))) == kind


def test_a_file_of_no_kind_says_what_it_has(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [{"colour": "red", "shape": "round"}])
    with pytest.raises(PipelineError, match="colour, shape"):
        kind_of(Data(path=str(tmp_path / "rows.jsonl")))


def test_the_stages_that_learn_wanted_answers_alone_are_asked_of_their_specs(monkeypatch):
    assert kinds.learning_wanted() == ["sft"]  # kto learns from both, and pairs have no labels
    mine = Spec(config="SFTConfig", row_kind="conversation", after=())
    monkeypatch.setattr(kinds, "specs", lambda: specs() | {"mine": mine})
    assert kinds.learning_wanted() == ["sft", "mine"]
