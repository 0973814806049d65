"""Several sources by weight, and data that are read no further than a training needs."""

import json
from collections import Counter

import pytest
from conftest import align, manifest, write_micro, write_rows
from prepared import lines, plain_tokenizer

from pipeline.artifact.digests import Digests
from pipeline.data.prepare import one_pass
from pipeline.data.prepare.mixture import LEFT_OUT, shares
from pipeline.data.prepare.one_pass import Enough
from pipeline.data.source import Data
from pipeline.data.tokens.encoder import Encoder
from pipeline.errors import PipelineError
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe


@pytest.fixture(scope="module")
def tokenizer():
    return plain_tokenizer("What is a3? It is 3, so they say")


def talks(folder, name: str, number: int) -> str:
    file = folder / f"{name}.jsonl"
    write_rows(file, [{"prompt": f"What is {name}{n}?", "completion": f"It is {n}"} for n in range(number)])
    return str(file)


def made(data: Data, tokenizer, tmp_path, kind="conversation", **options):
    folder = tmp_path / f"made-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    found = one_pass.prepare(data, kind, Encoder(tokenizer, 60), folder, **options)
    counts = found.account.summary()
    assert counts["read"] == counts["trained"] + counts["held_out"] + counts["dropped"]
    return found


def by_source(found) -> Counter[str]:
    return Counter(one.prompt[len("What is ")] for one in found.examples(found.trained))


def test_shares_are_as_the_weights_and_as_many_as_there_are():
    assert shares([1000, 100], [0.5, 0.5]) == [100, 100]
    assert shares([300, 100, 700], [3, 1, 2]) == [300, 100, 200]
    assert shares([10, 0], [1, 1]) == [0, 0]


def test_a_mixture_without_weights_is_all_rows_of_its_parts(tokenizer, tmp_path):
    parts = [{"path": talks(tmp_path, "a", 40)}, {"path": talks(tmp_path, "b", 10)}]
    found = made(Data(mixture=parts, held_out=0.0), tokenizer, tmp_path)
    assert by_source(found) == {"a": 40, "b": 10}


def test_weights_are_kept_to_the_row_and_what_is_left_out_is_listed(tokenizer, tmp_path):
    parts = [{"path": talks(tmp_path, "a", 400), "weight": 0.25}, {"path": talks(tmp_path, "b", 90), "weight": 0.75}]
    found = made(Data(mixture=parts, held_out=0.1), tokenizer, tmp_path)
    taken = by_source(found)
    assert taken["a"] == taken["b"] // 3 and taken["b"] == 90 - by_held_out(found)["b"]
    left_out = [line for line in lines(found, "rejected.jsonl") if line["reason"] == LEFT_OUT]
    assert found.account.dropped_by_reason == {LEFT_OUT: len(left_out)} and not found.account.bad
    assert len({(line["file"], line["line"]) for line in left_out}) == len(left_out)
    again = made(Data(mixture=parts, held_out=0.1), tokenizer, tmp_path)
    assert again.trained[:] == found.trained[:]


def by_held_out(found) -> Counter[str]:
    return Counter(one.prompt[len("What is ")] for one in found.examples(found.held_out))


def compact(folder, name: str, number: int) -> str:
    """An array on one line, so that all its rows have the same place."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps([{"prompt": f"What is {name}{n}?", "completion": f"It is {n}"} for n in range(number)]))
    return str(file)


@pytest.mark.parametrize("weight", [1.0, 100.0])
def test_rows_that_stand_on_one_line_are_rows_of_their_own(tokenizer, tmp_path, weight):
    parts = [
        {"path": compact(tmp_path, "a", 100), "weight": 1},
        {"path": compact(tmp_path, "b", 300), "weight": weight},
    ]
    found = made(Data(mixture=parts, held_out=0.0), tokenizer, tmp_path)
    assert by_source(found) == ({"a": 100, "b": 100} if weight == 1 else {"a": 3, "b": 300})
    assert found.account.trained == len(found.trained)


def test_what_is_left_out_is_not_counted_as_cut(tokenizer, tmp_path):
    parts = [{"path": talks(tmp_path, "a", 80), "weight": 1}, {"path": talks(tmp_path, "b", 20), "weight": 1}]
    folder = tmp_path / "cut"
    folder.mkdir()
    found = one_pass.prepare(Data(mixture=parts, held_out=0.0), "conversation", Encoder(tokenizer, 12), folder)
    assert found.account.trained == 40 == found.account.truncated == len(lines(found, "truncated.jsonl"))
    assert found.account.tokens_cut == sum(line["tokens_cut"] for line in lines(found, "truncated.jsonl"))


def test_each_part_is_written_in_its_own_way(tokenizer, tmp_path):
    (tmp_path / "b.csv").write_text("frage;x\n".replace(";", ",") + "What is b1?,one\n")
    parts = [
        {"path": talks(tmp_path, "a", 2)},
        {"path": str(tmp_path / "b.csv"), "columns": {"prompt": "frage", "completion": "x"}},
    ]
    found = made(Data(mixture=parts, held_out=0.0), tokenizer, tmp_path)
    assert by_source(found) == {"a": 2, "b": 1}


def test_a_long_text_is_one_row_of_a_mixture(tokenizer, tmp_path):
    write_rows(tmp_path / "long.jsonl", [{"text": f"{n} " + "so they say " * 60} for n in range(5)])
    write_rows(tmp_path / "short.jsonl", [{"text": f"It is {n}"} for n in range(20)])
    parts = [
        {"path": str(tmp_path / "long.jsonl"), "weight": 1.0},
        {"path": str(tmp_path / "short.jsonl"), "weight": 2.0},
    ]
    found = made(Data(mixture=parts, held_out=0.0), tokenizer, tmp_path, kind="text")
    places = Counter(place.rpartition("/")[2].partition(".")[0] for place in set(found.trained["place"]))
    assert places == {"long": 5, "short": 10}
    assert len(found.trained) > 15 and found.account.trained == 15


@pytest.mark.parametrize("weights", [None, (0.2, 0.8)])
def test_streaming_reads_no_more_than_is_enough_whatever_the_threads(tokenizer, tmp_path, monkeypatch, weights):
    monkeypatch.setattr(one_pass, "CHUNK", 10)
    parts = [{"path": talks(tmp_path, "a", 1000)}, {"path": talks(tmp_path, "b", 1000)}]
    if weights:
        parts = [part | {"weight": weight} for part, weight in zip(parts, weights, strict=True)]
    data = Data(mixture=parts, streaming=True, held_out=0.1)
    one, two = (made(data, tokenizer, tmp_path, enough=Enough(100), threads=threads) for threads in (1, 2))
    assert one.trained[:] == two.trained[:] and one.account == two.account
    taken = by_source(one)
    assert 100 <= sum(taken.values()) <= 120 and one.account.read < 200 and one.account.partial
    if weights:
        assert taken["b"] == pytest.approx(4 * taken["a"], abs=4)
    else:
        assert abs(taken["a"] - taken["b"]) <= 10
    tokens = made(data, tokenizer, tmp_path, enough=Enough(tokens=2000))
    assert 2000 <= sum(map(len, tokens.trained["input_ids"])) < 3000


def test_where_one_part_ends_the_others_are_not_read_on_in_vain(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(one_pass, "CHUNK", 10)
    parts = [{"path": talks(tmp_path, "a", 2000), "weight": 0.5}, {"path": talks(tmp_path, "b", 30), "weight": 0.5}]
    data = Data(mixture=parts, streaming=True, held_out=0.0)
    one, two = (made(data, tokenizer, tmp_path, enough=Enough(500), threads=threads) for threads in (1, 2))
    assert by_source(one) == {"a": 30, "b": 30} and one.account.read < 100 and one.account.partial
    assert one.account == two.account


def test_what_is_read_to_the_end_is_no_part(tokenizer, tmp_path):
    data = Data(path=talks(tmp_path, "a", 50), streaming=True, held_out=0.0)
    found = made(data, tokenizer, tmp_path, enough=Enough(1000))
    assert found.account.read == 50 and not found.account.partial and "partial" not in found.account.summary()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{path: a.jsonl, mixture: [{path: b.jsonl}]}", "give a path or a mixture, not both"),
        (
            "{mixture: [{path: a.jsonl, weight: 1}, {path: b.jsonl}]}",
            "give every part of the mixture a weight, or none",
        ),
        ("{mixture: [{path: a.jsonl, weight: -1}]}", "mixture.0.weight: must be greater than 0"),
        ("{mixture: [{path: a.jsonl, wieght: 1}]}", "unknown key; did you mean weight?"),
        ("{path: a.jsonl, streaming: true}", "needs train.max_steps"),
        ("{}", "data.path: is missing"),
        ("{mixture: [{path: a.jsonl}], columns: {a: b}, split: c}", "columns, split: beside a mixture it says nothing"),
        ("{mixture: [{path: a.jsonl, weight: .inf}]}", "weight: must be a finite number"),
        ("{path: a.jsonl, held_out: ./a.jsonl}", "held_out means the very rows that are trained on"),
    ],
)
def test_a_recipe_that_cannot_mean_anything_is_refused(tmp_path, data, said):
    (tmp_path / "my.yaml").write_text(f"model: {{id: some/model}}\nstages: {{sft: {{data: {data}}}}}\n")
    with pytest.raises(PipelineError) as error:
        load_recipe(tmp_path / "my.yaml")
    assert said in str(error.value) and "my.yaml:2" in str(error.value)


def test_what_differs_in_its_rows_differs_in_its_fingerprint(tmp_path):
    write_micro(tmp_path)
    for name in ("same.jsonl", "same.txt"):
        (tmp_path / name).write_text((tmp_path / "text.jsonl").read_text())
    a, b, same, text = (str(tmp_path / name) for name in ("text.jsonl", "pairs.jsonl", "same.jsonl", "same.txt"))

    def planned(data: str) -> str:
        loaded = load_recipe(tmp_path / "micro.yaml", [f"stages={{pretrain: {{data: {data}}}}}"])
        return Planner(loaded, tmp_path / "runs", digests=Digests()).plan(["pretrain"])[0].fingerprint

    assert planned(f"{{path: {a}}}") == planned(f"{{path: {same}}}")
    different = [
        f"{{path: {a}}}",
        f"{{path: {text}}}",
        f"{{path: [{a}, {a}]}}",
        f"{{mixture: [{{path: [{a}, {a}]}}, {{path: [{b}]}}]}}",
        f"{{mixture: [{{path: [{a}]}}, {{path: [{a}, {b}]}}]}}",
        f"{{mixture: [{{path: {a}, weight: 1}}, {{path: {b}, weight: 2}}]}}",
    ]
    assert len({planned(data) for data in different}) == len(different)


def test_a_chain_on_a_streamed_mixture(tmp_path):
    write_micro(tmp_path)
    talks(tmp_path, "a", 3000)
    mixture = (
        "stages.sft.data={mixture: [{path: chat.jsonl, weight: 0.5}, {path: a.jsonl, weight: 0.5}], streaming: true}"
    )
    done = align("run", "sft", "-r", "micro.yaml", "--set", mixture, cwd=tmp_path)
    assert "there are more, which max_steps does not need" in done.stdout
    rows = manifest(tmp_path, "sft")["data"]["rows"]
    assert rows["partial"] and rows["dropped_by_reason"] == {LEFT_OUT: rows["dropped"]} and rows["read"] < 3060
    assert manifest(tmp_path, "sft")["steps"] == 12
    heavier = mixture.replace("0.5", "0.4", 1)
    changed = align("plan", "sft", "-r", "micro.yaml", "--set", heavier, cwd=tmp_path).stdout
    assert "weight" in changed
