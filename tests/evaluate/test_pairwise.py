"""A judge of pairs: asked both ways round, and what it does wrong is told and never taken for a tie."""

import json

import pytest
from judge_server import better, judging

from pipeline.errors import PipelineError
from pipeline.evaluate.pairwise import endpoint
from pipeline.evaluate.pairwise.comparing import Verdicts, counted
from pipeline.evaluate.pairwise.verdicts import Pair, reading
from pipeline.recipe.judging import Judge

PAIRS = [Pair(f"question {n}", "a long answer" if n % 3 else "short", "medium one") for n in range(12)]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(endpoint, "WAIT", 0.0)


def judge(server, **more) -> Judge:
    return Judge(url=server.url, model="a-judge", **more)


def verdicts(server, tmp_path, pairs=PAIRS, **more):
    return Verdicts(judge(server, **more), tmp_path / "verdicts.jsonl").of(pairs)


def test_what_is_said_both_ways_round_counts(tmp_path):
    with judging(better(lambda _, answer: len(answer))) as server:
        found = verdicts(server, tmp_path)
    assert counted(found) == {"pairs": 12, "won": 8, "lost": 4}
    assert len(server.asked) == 24 and {one.parts[1:] for one in server.asked} == {
        *[("a long answer", "medium one"), ("medium one", "a long answer"), ("short", "medium one")],
        ("medium one", "short"),
    }
    assert server.asked[0].body["temperature"] == 0 and server.asked[0].body["model"] == "a-judge"
    lines = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and all(
        {"prompt", "one", "other", "said", "outcome", "judge"} <= line.keys() for line in lines
    )


def test_a_judge_that_goes_by_the_place_gives_ties_and_they_are_told_apart(tmp_path):
    with judging(lambda one: "A") as server:
        found = verdicts(server, tmp_path)
    assert counted(found) == {"pairs": 12, "by place": 12} and {one.worth for one in found} == {0.5}


def test_equal_answers_are_not_asked_about_and_a_said_tie_is_another_one(tmp_path):
    with judging(lambda one: "TIE") as server:
        found = verdicts(server, tmp_path, [Pair("q", "same", "same"), Pair("q", "this", "that")])
    assert [one.outcome for one in found] == ["same", "even"] and len(server.asked) == 2


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("A", "A"),
        (" **b**.", "B"),
        ("Answer B", "B"),
        ("tie", "TIE"),
        ("<think>A is short. B: long</think>\n\nB", "B"),
        ("Both are fine. Verdict: A", "A"),
        ("I compared them.\n\n[[B]]", "B"),
        ("A better answer would name the year.", None),
        ("Verdict: A. On the other hand, the better answer is B", None),
        ("", None),
        ("I cannot help with that.", None),
        ("<think>A or B", None),
    ],
)
def test_a_verdict_is_read_or_it_is_none(said, read):
    assert reading(said) == read


def test_nonsense_refusals_and_silence_are_counted_and_are_no_ties(tmp_path):
    def reply(one):
        number = int(one.parts[0].split()[1])
        if number == 1:
            return "It depends."
        if number == 2:
            return 400, '{"error": "content filter"}'
        if number == 3:
            return None
        return "A" if "long" in one.parts[1] else "B"

    pairs = [Pair(f"q {n}", "a long answer", "another") for n in range(6)]
    with judging(reply) as server:
        found = verdicts(server, tmp_path, pairs, timeout=0.3, tries=2)
    assert counted(found) == {"pairs": 6, "won": 3, "none": 3, "why": {"nonsense": 1, "refused": 1, "timed out": 1}}
    assert [one.worth for one in found] == [1.0, None, None, None, 1.0, 1.0]
    asked = [one.parts[0] for one in server.asked]
    assert [asked.count(f"q {n}") for n in range(6)] == [2, 2, 1, 2, 2, 2]  # what is refused is not tried again


def test_what_fails_for_a_moment_is_tried_again(tmp_path):
    failed = set()

    def reply(one):
        if one.parts not in failed:
            failed.add(one.parts)
            return 503, "busy"
        return "A" if "long" in one.parts[1] else "B"

    with judging(reply) as server:
        assert counted(verdicts(server, tmp_path, [Pair("q", "a long one", "other")])) == {"pairs": 1, "won": 1}


def test_a_judge_that_gives_no_verdict_at_all_is_an_error_with_the_fix(tmp_path):
    with judging(lambda one: "Hm.") as server, pytest.raises(PipelineError) as caught:
        verdicts(server, tmp_path, tries=1, at_once=1)
    assert 'a-judge gave no verdict on any of 8 pairs of answers: 8 nonsense; the first: "Hm."' in str(caught.value)
    assert "A judge has to reply with A, B or TIE" in caught.value.fix and len(server.asked) < 12


def test_what_was_asked_before_is_not_asked_again_but_what_got_no_verdict_is(tmp_path):
    with judging(lambda one: "Hm." if one.parts[0] == "question 4" else "TIE") as server:
        verdicts(server, tmp_path, tries=1)
        (tmp_path / "verdicts.jsonl").open("a").write('{"key": "cut in the mid')
        before = len(server.asked)
        verdicts(server, tmp_path, tries=1)
        assert len(server.asked) == before + 1
        verdicts(server, tmp_path, tries=1, criteria="The shorter one.")
        assert len(server.asked) > before + 20


def test_a_judge_that_is_not_there_is_found_out_at_once(tmp_path):
    with judging(lambda one: "yes") as server:
        Verdicts(judge(server), tmp_path / "v").check()
        gone = server.url
        with pytest.raises(PipelineError, match=r"HTTP 404.*\n.*Correct evaluation.judge: url, model, or options"):
            Verdicts(Judge(url=f"{gone}/wrong", model="x"), tmp_path / "v").check()
    with pytest.raises(PipelineError, match=r"unreachable.*\n.*Start the judge, or correct evaluation.judge.url"):
        Verdicts(Judge(url=gone, model="x", timeout=1), tmp_path / "v").check()


def test_the_key_goes_to_the_judge_and_into_no_message(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "very-secret")
    with judging(lambda one: (401, f"wrong key: {one.key}")) as server, pytest.raises(PipelineError) as caught:
        Verdicts(judge(server, key_from="JUDGE_KEY"), tmp_path / "v").check()
    assert server.asked[0].key == "Bearer very-secret"
    assert "very-secret" not in str(caught.value) and "HTTP 401: wrong key: Bearer ***" in caught.value.what
    assert "evaluation.judge.key_from" in caught.value.fix


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("{url: 'http://x/v1'}", "needs url and model"),
        ("gpt", "must be {url: an address, model: a name}, or reward"),
        ("{url: 'http://me:word@x/v1', model: y}", "holds a name or a password"),
        ("{url: 'x/v1', model: y}", "must be an address, such as"),
        ("{url: 'http://x', model: y, key_from: sk-12345}", "must be the name of an environment variable"),
        ("{url: 'http://x', model: y, options: {stream: true}}", "stream: the pipeline sets it"),
        ("{url: 'http://x', model: y, against: chosen}", "against"),
    ],
)
def test_a_judge_that_could_not_be_asked_is_a_mistake(problems, said, wrong):
    text = f"{{name: a, model: {{id: x}}, evaluation: {{judge: {said}}}, stages: {{sft: {{data: {{path: a}}}}}}}}"
    found = problems(text)
    assert any(wrong in one for one in found) and not any("sk-12345" in one for one in found)
