"""A stage whose answers are judged: by an address, or by the recipe's reward model; found out before it trains if it cannot."""

import json

import pytest
from conftest import align, attempt, manifest, plan, refused
from judge_server import better, judging


def with_judge(stage: str, judge: str) -> tuple[str, str]:
    return "--set", f"stages.{stage}.evaluation.judge={judge}"


def test_figures_come_from_the_judge_and_his_key_stays_with_him(built, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "very-secret")
    with judging(better(lambda _, answer: len(answer))) as server:
        judge = f"{{url: '{server.url}', model: by-length, key_from: JUDGE_KEY, against: reference}}"
        said = align("run", "sft", "-r", "micro.yaml", *with_judge("sft", judge), cwd=built).stdout
        assert {one.key for one in server.asked} == {"Bearer very-secret"}
    kept = manifest(built, "sft")
    before, after, judged = kept["metrics"]["before"], kept["metrics"]["after"], kept["judge"]
    assert judged["by"] == "by-length" and judged["after"]["pairs"] == judged["before"]["pairs"] == after["n"] == 8
    assert before.keys() >= {"win_rate_over_reference"} and after["win_rate_over_reference"] == 0  # all are shorter
    assert "win_rate_over_reference" in kept["differences"]
    folder, shown = attempt(built, "sft"), " ".join(said.split())
    assert "by-length judged 8 answers against the reference answers: 0 won, 8 lost, 0 even" in shown
    assert "win rate over reference" in (built / "runs" / "micro" / "report.html").read_text()
    assert len((folder / "verdicts.jsonl").read_text().splitlines()) >= 8
    assert not any(b"very-secret" in one.read_bytes() for one in (built / "runs").rglob("*") if one.is_file())
    # Where the judge lives changes no figure; what he is asked does.
    moved = judge.replace(server.url, "http://127.0.0.1:9/v1")
    assert plan(built, *with_judge("sft", moved))["sft"]["state"] == "up to date"
    other = moved.replace("reference", "before")
    assert plan(built, *with_judge("sft", other))["sft"]["why"].startswith('evaluation.judge.against: "reference"')
    align("run", "sft", "-r", "micro.yaml", cwd=built)  # asked no more, nothing of it is left
    assert "judge" not in manifest(built, "sft")
    monkeypatch.delenv("JUDGE_KEY")
    lacking = "there is no JUDGE_KEY in the environment, and the run needs it"
    assert lacking in align("plan", "-r", "micro.yaml", *with_judge("sft", other), cwd=built).stdout
    assert lacking in refused(built, "run", "-r", "micro.yaml", *with_judge("sft", other))


def test_against_the_answers_before_an_even_rate_is_a_half(built):
    with judging(lambda one: "A") as server:
        judge = f"{{url: '{server.url}', model: the-first}}"
        align("run", "sft", "-r", "micro.yaml", *with_judge("sft", judge), cwd=built)
    kept = manifest(built, "sft")
    found = kept["judge"]["after"]
    assert found["by place"] + found.get("same", 0) == found["pairs"] == 8 and found["by place"] > 0
    assert kept["metrics"]["after"]["judged_win_rate"] == 0.5 and "judged_win_rate" not in kept["metrics"]["before"]
    assert kept["differences"]["judged_win_rate"] == {"value": 0, "low": 0, "high": 0}


def test_the_recipes_reward_model_judges_and_is_trained_first(built):
    judge = with_judge("dpo", "{reward: true, against: reference}")
    align("run", "dpo", "-r", "micro.yaml", *judge, cwd=built)
    kept = manifest(built, "dpo")
    assert kept["judge"]["weights_sha256"] == manifest(built, "reward")["weights_sha256"]
    assert kept["judge"]["after"]["pairs"] == 8 and 0 <= kept["metrics"]["after"]["win_rate_over_reference"] <= 1
    with_reward = plan(built, "--set", "stages.reward.train.learning_rate=1e-4", *judge, "dpo")
    assert with_reward["reward"]["state"] == "run" and list(with_reward).index("reward") < list(with_reward).index(
        "dpo"
    )
    said = refused(built, "plan", "-r", "micro.yaml", *with_judge("sft", "reward"))
    assert "sft: evaluation.judge: reward: reward stands on sft itself" in said


def test_the_reward_model_agrees_with_what_ppo_is_told_of_its_answers(built):
    """Read off the same head at the same token: the rate is the share of rows whose mean_reward rose."""
    align("run", "ppo", "-r", "micro.yaml", *with_judge("ppo", "reward"), cwd=built)
    was, now = (json.loads((attempt(built, "ppo") / f"{when}.json").read_text()) for when in ("before", "after"))
    pairs = zip(
        was["each"]["mean_reward"], now["each"]["mean_reward"], was["completions"], now["completions"], strict=True
    )
    wanted = [0.5 if before == after else float(b > a) for a, b, before, after in pairs]
    assert now["each"]["judged_win_rate"] == pytest.approx(wanted)


def test_a_judge_that_is_not_there_is_found_out_before_the_first_step(built):
    judge = with_judge("dpo", "{url: 'http://127.0.0.1:9/v1', model: none}")
    said = refused(built, "run", "dpo", "--fresh", "-r", "micro.yaml", *judge)
    assert "evaluation.judge: http://127.0.0.1:9/v1: unreachable" in said and "Start the judge" in said
    assert not list((built / "runs" / "micro" / "dpo").glob("*-2/checkpoints/checkpoint-*"))
