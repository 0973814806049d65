"""What kind of rows a file has, told by the rows."""

import pytest
from conftest import write_rows

from pipeline.data.prepare.kinds import kind_of
from pipeline.data.source import Data
from pipeline.errors import PipelineError


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
