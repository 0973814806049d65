"""A trial of methods: who may take part, how long each is trained, what is found again, and what is said of it."""

import json
import re
import shutil

import pytest
from conftest import align, refused, write_micro

from pipeline.cli.compare import _draws
from pipeline.console import picture
from pipeline.console.screen import Screen, make_console
from pipeline.console.trial import draw, show
from pipeline.errors import PipelineError
from pipeline.run.common_evaluation import judging
from pipeline.run.contestants import common_start, contestants
from pipeline.run.outcome import verdict
from pipeline.run.reckoning import reckoned_from

SCORE = "def score(prompt, completion):\n    return len(set(completion))\n"
# Two methods that run, and one whose data are not there.
TRIAL = ["compare", "--methods", "dpo", "orpo", "kto", *"-r micro.yaml --seeds 2 --tokens 1200 --json".split()]
for override in (
    "stages.orpo.data={path: pairs.jsonl, held_out: 0.2}",
    "stages.kto.data={path: gone.jsonl}",
    "stages.dpo.evaluation.score_function=score.py:score",
):
    TRIAL += ["--set", override]


@pytest.fixture(scope="module")
def tried(chain, tmp_path_factory):
    """(a folder in which a trial was run, what it found, what it said meanwhile)"""
    folder = tmp_path_factory.mktemp("trial")
    write_micro(folder)
    (folder / "score.py").write_text(SCORE)
    for stage in ("pretrain", "sft"):
        shutil.copytree(chain / "runs" / "micro" / stage, folder / "runs" / "micro" / stage, symlinks=True)
    done = align(*TRIAL, cwd=folder)
    return folder, json.loads(done.stdout), done.stderr


def runs_of(found: dict) -> list[dict]:
    return [run for one in found["contestants"].values() for run in one.get("runs", ())]


def manifests(folder, found: dict) -> list[dict]:
    return [json.loads((folder / run["folder"] / "manifest.json").read_text()) for run in runs_of(found)]


def test_each_starts_from_the_same_policy_with_its_own_seed_and_as_many_tokens(tried):
    folder, found, _ = tried
    made = manifests(folder, found)
    sft = json.loads((folder / "runs/micro/sft/latest/manifest.json").read_text())
    assert [(one["stage"], one["inputs"]["seed"]) for one in made] == [("dpo", 0), ("dpo", 1), ("orpo", 0), ("orpo", 1)]
    assert {one["parents"]["policy"]["sha256"] for one in made} == {sft["weights_sha256"]}
    trained = [one for one in folder.glob("runs/micro/sft/*/manifest.json") if not one.parent.is_symlink()]
    assert len(trained) == 1  # no seed trained it again
    assert len({one["weights_sha256"] for one in made}) == 4
    assert all(one["tokens"] == pytest.approx(1200, rel=0.1) for one in made)
    assert not list(folder.glob("runs/micro/dpo")) and not list(folder.glob("runs/micro/trial/.reckoning"))


def test_all_are_judged_by_one_evaluation(tried):
    _, found, _ = tried
    assert found["figures"] == ["win_rate", "exact_match"] and found["rows"] == {"win_rate": 8, "exact_match": 8}
    for run in runs_of(found):
        assert {"win_rate", "exact_match", "mean_score"} <= run["metrics"].keys()
    for one in (found["contestants"][name] for name in ("dpo", "orpo")):
        figure = one["win_rate"]
        assert figure["low"] <= figure["value"] <= figure["high"] and len(figure["by_seed"]) == 2
        assert figure["value"] == pytest.approx(sum(run["metrics"]["win_rate"] for run in one["runs"]) / 2)
        assert one["seconds"]["min"] > 0 and one["host_bytes"] > 1 << 20


def test_one_that_fails_is_told_and_the_others_go_on(tried):
    _, found, said = tried
    assert "gone.jsonl" in found["contestants"]["kto"]["failed"] and found["verdict"].endswith("failed: kto")
    assert "kto failed and is out, the others go on" in said


def test_what_ran_is_found_and_what_was_lost_is_made_again(tried, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(tried[0], folder, symlinks=True)
    lost = folder / tried[1]["contestants"]["orpo"]["runs"][1]["folder"]
    (lost / "manifest.json").unlink()  # killed while it saved
    (judged := next(folder.glob(f"runs/micro/trial/.judged-*/{lost.name}.json"))).unlink()
    done = align(*TRIAL, cwd=folder)
    found = json.loads(done.stdout)
    assert len(re.findall(r"  found$", done.stderr, re.MULTILINE)) == 3 and "judging 1 runs" in done.stderr
    assert judged.is_file() and [run["metrics"] for run in runs_of(found)] == [
        run["metrics"] for run in runs_of(tried[1])
    ]
    assert found["contestants"]["dpo"]["win_rate"] == tried[1]["contestants"]["dpo"]["win_rate"]


def test_gc_knows_the_runs_as_what_options_made(tried, tmp_path):
    folder = tmp_path / "collected"
    shutil.copytree(tried[0], folder, symlinks=True)
    said = align("gc", "-r", "micro.yaml", "--delete", cwd=folder).stdout
    assert "Nothing can go without --all" in said and "(a run of a trial)" in said and "no such stage" not in said
    align("gc", "-r", "micro.yaml", "--delete", "--all", cwd=folder)
    assert not list(folder.glob("runs/micro/trial/*/manifest.json"))


def test_the_table_fits_and_the_picture_is_drawn(tried, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    console = make_console()
    console.width = 80
    show(Screen(console), tried[1])
    said = capsys.readouterr().out.splitlines()
    head = next(line for line in said if line.startswith("method"))
    table = said[said.index(head) : said.index(head) + 4]
    assert re.split(r"\s{2,}", head.strip()) == ["method", "win rate", "exact match", "tokens", "seconds", "memory"]
    assert [line.split()[0] for line in table[3:]] == ["sft"] and max(map(len, table)) <= 80
    assert any(line.startswith("kto  failed:") for line in said) and tried[1]["verdict"] in " ".join(said)
    draw(tried[1], tmp_path / "trial.png")
    assert (tmp_path / "trial.png").stat().st_size > 10_000


# -- who takes part ----------------------------------------------------------------------------------------


def of(micro, *methods, vary=(), overrides=(), against=None):
    return contestants(micro / "micro.yaml", overrides, methods, vary, against)


def test_values_of_a_key_are_contestants(micro):
    found = of(micro, vary=["stages.dpo.train.beta=0.05,0.1", "stages.dpo.train.loss_type=[sigmoid, sft],ipo"])
    assert [one.name for one in found][:2] == ["dpo beta=0.05 loss_type=[sigmoid, sft]", "dpo beta=0.05 loss_type=ipo"]
    assert len(found) == 4 and {one.stage for one in found} == {"dpo"}
    assert found[-1].load().stage("dpo").train["beta"] == 0.1


def test_stages_of_another_recipe_are_contestants(micro):
    (micro / "other.yaml").write_text((micro / "micro.yaml").read_text().replace("5e-3", "1e-3"))
    found = of(micro, "dpo", against=micro / "other.yaml")
    assert [one.name for one in found] == ["dpo", "dpo other"]
    assert [one.load().stage("dpo").train["learning_rate"] for one in found] == [5e-3, 1e-3]


def test_where_none_is_named_all_that_start_alike_take_part(micro):
    assert [one.name for one in of(micro)] == ["dpo", "ppo"]


def test_what_cannot_be_compared_is_refused(micro):
    def said(*arguments, **options):
        with pytest.raises(PipelineError) as caught:
            common_start(of(micro, *arguments, **options))
        return str(caught.value)

    assert "nothing to be compared with" in said("dpo") and "nothing to be compared" in said("dpo", "dpo")
    assert "no stage kto" in said("dpo", "kto") and "no stage dppo" in said("dppo")
    typo = said("dpo", vary=["stages.dpo.train.betta=1,2"])
    assert typo.startswith("--vary stages.dpo.train.betta=1: ") and "did you mean beta?\n" in typo
    assert "trains a reward model" in said("dpo", "reward")
    assert "stages.ppo.policy=sft" in said("dpo", "ppo", overrides=["stages.ppo.policy=dpo"])
    assert "stages.dpo.train.beta=0.05,0.1,0.3" in said("dpo", vary=["beta=1,2"])
    assert "Name ppo, too" in said("dpo", "sft", vary=["stages.ppo.train.kl_coef=0.1,0.2"])
    with pytest.raises(PipelineError, match=r"nothing judges the answers of dpo\."):
        judging(of(micro, overrides=["evaluation.answer_pattern=null"])[0].load(), None, ["dpo", "dpo"])
    assert [one.name for one in of(micro, "dpo ppo")] == ["dpo", "ppo"]


def test_without_matplotlib_all_else_is_checked_and_the_picture_alone_is_left_out(micro, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(picture, "find_spec", lambda name: None)
        screen = Screen(make_console())
        with screen.console.capture() as said:
            assert not _draws(screen, "make trial")
        assert "make trial installs it" in " ".join(said.get().split())
    assert "no stage dppo" in refused(micro, "compare", "--methods", "dppo", "ppo", "-r", "micro.yaml")


def test_options_of_the_other_comparison_are_refused(micro):
    assert "--seeds: needs --methods" in refused(micro, "compare", "sft", "-r", "micro.yaml", "--seeds", 2, "--json")
    told = refused(micro, "compare", "--methods", "dpo", "ppo", "-r", "micro.yaml", "--steps", 9, "--json")
    assert "--steps: belongs to the comparison of backends" in told


# -- how long, and what is said ----------------------------------------------------------------------------


def test_steps_are_reckoned_from_the_first_ones():
    rows = reckoned_from([100, 210, 300, 400], 40)  # what the last of them began with is left out
    assert (rows.tokens, rows.together, rows.steps_for(1000)) == (4000, 1, 10)
    rollouts = reckoned_from([80, 80, 80, 80, 160, 160, 160, 160, 250], 40)
    assert (rollouts.tokens, rollouts.together) == (800, 4)
    assert rollouts.steps_for(400) == 20 and rollouts.steps_for(70) == 4 and rollouts.steps_for(130) == 8
    assert reckoned_from([50, 100], 2).tokens == 100  # it ended by itself


def test_the_verdict_says_how_sure_it_is():
    def said(by, low, tokens=900):
        figures = {"dpo": {"win_rate": {"value": 0.7, "low": low, "high": 0.75}, "tokens": tokens}}
        figures["kto"] = {"win_rate": {"value": 0.6, "low": 0.55, "high": 0.66}, "tokens": 1000}
        ahead = {"figure": "win_rate", "first": "dpo", "second": "kto", "by": by}
        return verdict({"contestants": figures, "ahead": ahead, "tokens": 1000 if tokens == 900 else 900, "start": {}})

    sure = said({"value": 0.1, "low": 0.05, "high": 0.15}, low=0.67)
    assert sure.startswith("dpo has the highest win rate, 0.700, 0.100 above kto") and "do not overlap" in sure
    assert "chance" not in sure and "NOT the same number of tokens, 1,000: dpo 900" in sure
    alike = said({"value": 0.1, "low": 0.05, "high": 0.15}, low=0.67, tokens=1000)
    assert "NOT" not in alike and alike.endswith("; in whole steps they trained on 1,000 tokens each, not on 900")
    assert "overlap, but on the same rows" in said({"value": 0.1, "low": 0.01, "high": 0.19}, low=0.64)
    assert "the intervals overlap, and chance" in said({"value": 0.1, "low": -0.02, "high": 0.22}, low=0.64)
    assert said({"value": 0.0, "low": -0.1, "high": 0.1}, low=0.6).startswith("Nobody is ahead")
