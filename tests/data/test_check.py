"""What a check of data finds: the figures of the rows that are good, whatever else there is."""

import pytest
from conftest import write_rows

from pipeline.data.check import check
from pipeline.data.source import Data
from pipeline.data.tokens.encoder import Encoder
from pipeline.data.tokens.words import Words
from pipeline.model.tokenizer import train


def test_a_bad_row_changes_no_figure_of_the_others(tmp_path):
    encoder, rows = Encoder(train(["number 1"], 300)), [{"text": f"number {n}"} for n in range(4000)]
    reports = []
    for name, some in (("good", rows), ("bad", [{"text": ""}, *rows])):
        write_rows(tmp_path / f"{name}.jsonl", some)
        reports.append(check(Data(path=str(tmp_path / f"{name}.jsonl")), "text", encoder, threads=2))
    good, bad = reports
    assert (good.lengths, good.histogram) == (bad.lengths, bad.histogram) and len(bad.bad) == 1


@pytest.mark.parametrize(
    "kind, row, long",
    [
        ("text", {"text": "one two three"}, 3),
        ("prompt", {"prompt": "one two"}, 2),
        ("preference", {"prompt": "one", "chosen": "two three", "rejected": "two"}, 3),
        ("conversation", {"prompt": "one", "completion": "two three"}, 3),
    ],
)
def test_every_kind_of_row_is_as_long_as_its_words(tmp_path, kind, row, long):
    write_rows(tmp_path / "rows.jsonl", [row])
    report = check(Data(path=str(tmp_path / "rows.jsonl"), held_out=0.0), kind, Words())
    assert report.lengths[100] == long and report.sample[0].text.strip() == "one"
