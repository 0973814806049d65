"""What is held out is near to the share, though a prompt is never on both sides with some of its rows."""

import random
from io import StringIO
from pathlib import Path
from tempfile import mkdtemp

import numpy
import pytest
from conftest import align, write_rows
from prepared import encode, lines, plain_tokenizer, prepared, prompts_of
from rich.console import Console

from pipeline.console import data_report
from pipeline.console.screen import Screen
from pipeline.data.prepare import split
from pipeline.data.prepare.one_pass import prepare
from pipeline.data.shapes.examples import example_of
from pipeline.data.shapes.sameness import prompt_hash as number_of
from pipeline.data.source import Data, Part
from pipeline.data.tokens.encoder import Encoder


def rows_of(*sizes, name="", more=""):
    """For each size so many rows that ask the same."""
    return [
        {"prompt": f"{name} {number}?{more}", "completion": f"a{n}"}
        for number, size in enumerate(sizes)
        for n in range(size)
    ]


def made(folder, rows, share=0.3, **options):
    write_rows(folder / "rows.jsonl", rows)
    found = prepared(folder / "rows.jsonl", held_out=share, folder=folder, **options)
    trained, held_out = prompts_of(found)
    assert not trained & held_out and len(found.trained) == found.account.trained
    assert len(found.held_out) == found.account.held_out
    return found.account, held_out


@pytest.mark.parametrize("name", "abcdefgh")
def test_a_prompt_that_most_rows_ask_is_not_held_out(tmp_path, name):
    rows = rows_of(9, 1, name=name)  # it may be either side's by its hash
    account, held_out = made(tmp_path, rows)
    assert account.held_out <= 1 and f"{name} 0?" not in held_out
    assert made(tmp_path, random.Random(0).sample(rows, 10)) == (account, held_out)


def by_the_hash(rows, share):
    examples = [example_of(row, "conversation") for row in rows]
    return {one.prompt for one in examples if number_of(one) < share * 2**64}


def test_the_rest_of_the_split_stays_by_the_hash(tmp_path):
    rows = held_out_by_the_hash("200?", *[1] * 200, 300)
    chosen = by_the_hash(rows, 0.3)
    account, held_out = made(tmp_path, rows)
    assert held_out == {prompt for prompt in chosen if "200?" not in prompt} and 40 <= account.held_out <= 80
    for sizes in ([1] * 200, [4] * 100):
        rows = rows_of(*sizes)
        assert made(tmp_path, rows)[1] == by_the_hash(rows, 0.3)


def held_out_by_the_hash(prompt, *sizes, share=0.3, more=""):
    """Rows among which this prompt would be held out."""
    some = (rows_of(*sizes, name=name, more=more) for name in "abcdefghijklmnop")
    return next(rows for rows in some if any(prompt in one for one in by_the_hash(rows, share)))


def test_without_repeated_prompts_nothing_is_moved_however_far_chance_went():
    for seed in range(50):
        numbers = numpy.random.default_rng(seed).integers(0, 2**64, 12, dtype=numpy.uint64)
        for share in (0.01, 0.3, 0.9):
            assert not split.given_back(numbers, 12, share).any() and not split.taken(numbers, share).any()


@pytest.mark.parametrize(
    "sizes, share, back",
    [
        ([9], 0.3, 9),  # of ten: none is nearer to three than nine
        ([5, 1, 1, 1], 0.3, 5),
        ([4, 4, 1], 0.3, 4),
        ([3, 2], 0.3, 0),
        ([6], 0.6, 0),
    ],
)
def test_the_largest_go_back_as_long_as_that_comes_nearer(sizes, share, back):
    numbers = numpy.repeat(numpy.arange(len(sizes), dtype=numpy.uint64), sizes)
    assert split.given_back(numbers, 10, share).sum() == back


def test_where_none_would_be_held_out_one_repeated_prompt_is(tmp_path):
    name = next(name for name in "abcdefghijklmnop" if not by_the_hash(rows_of(3, 3, 3, 3, name=name), 0.25))
    assert made(tmp_path, rows_of(3, 3, 3, 3, name=name), 0.25)[0].held_out == 3
    assert made(tmp_path, rows_of(6, 6, name=name), 0.05)[0].held_out == 0  # ten times as many as were asked for


def test_long_texts_move_with_all_their_pieces(tmp_path):
    tokenizer, texts = plain_tokenizer("word"), [{"text": f"{n % 2} " + "word " * 40} for n in range(20)]
    columns, found = encode(tokenizer, tmp_path, texts, "text", held_out=0.2, max_length=20)
    assert found.account.held_out in (0, 10) and found.account.trained == 20 - found.account.held_out
    assert sum(found.trained[:]["first"]) == found.account.trained and len(columns) > found.account.trained


def test_what_is_moved_is_weighed_and_listed_as_any_trained_row(tmp_path):
    for name in "ab":
        rows = held_out_by_the_hash(" 0?", 30, *[1] * 10, more=name + " what" * 40)
        write_rows(tmp_path / f"{name}.jsonl", rows)
    parts = [Part(path=str(tmp_path / f"{name}.jsonl"), weight=weight) for name, weight in (("a", 0.8), ("b", 0.2))]
    encoder, moved = Encoder(plain_tokenizer("what is it"), 24), 0
    for share in (0.05, 0.1, 0.3):
        data = Data(mixture=parts, held_out=share)
        found = prepare(data, "conversation", encoder, Path(mkdtemp(dir=tmp_path)))
        account = found.account.summary()
        listed = [(line["file"], line["line"]) for line in lines(found, "truncated.jsonl")]
        gone = [(line["file"], line["line"]) for line in lines(found, "rejected.jsonl")]
        assert account["read"] == 80 and account["truncated"] == len(listed) == account["trained"] + account["held_out"]
        assert len(set(listed)) == len(listed) and not set(listed) & set(gone) and len(gone) == account["dropped"]
        assert len(found.trained) == account["trained"] and len(found.held_out) == account["held_out"] <= 40
        moved += any(number_of(one) < share * 2**64 for one in found.examples(found.trained))
    assert moved


@pytest.mark.parametrize("sizes, told", [((60, 1, 1), True), ((1,) * 60, False)])
def test_a_share_that_cannot_be_had_is_told_of_a_file_and_of_a_stage(tmp_path, sizes, told):
    account, _ = made(tmp_path, rows_of(*sizes))
    checked = align("data", "check", "rows.jsonl", "--held-out", "0.3", cwd=tmp_path).stdout
    screen = Screen(Console(file=StringIO(), width=200))
    data_report.of_stage(screen, account.summary())
    for said in (checked, screen.console.file.getvalue()):
        assert (f"{account.held_out} held out, where data.held_out asks for 0.3 of the rows" in said) == told
