"""Benchmarks: lm-eval asks what was trained as it is, finds what it asked before, and runs nothing of a hub.

lm-eval is 340 MB, so `make test` leaves it out and skips what needs it; CI has a job of its own for it.
"""

import json
import shutil
from pathlib import Path

import pytest
from conftest import align, attempt, refused, write_rows

from pipeline.artifact import benchmarks
from pipeline.errors import PipelineError
from pipeline.recipe.reading import load_recipe
from pipeline.use import packages
from pipeline.use.subject import find
from pipeline.use.tasks import process
from pipeline.use.tasks.start import identity, place_of, start_of
from pipeline.use.tasks.wanted import Wanted

needs_lm_eval = pytest.mark.skipif(
    not packages.installed("lm_eval"),
    reason="lm-eval is not here (340 MB): pip install -c constraints.txt -e .[tasks]",
)
COLOURS = ("red", "blue", "green", "black")
CHOICE = """\
task: colour
dataset_path: json
dataset_kwargs: {data_files: {test: data/asked.jsonl, train: data/shown.jsonl}}
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: [red, blue, green, black]
doc_to_target: "{{completion.split(',')[0]}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
WRITTEN = """\
task: said
dataset_path: json
dataset_kwargs: {data_files: data/asked.jsonl}
test_split: train
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{completion.split(',')[0]}}"
generation_kwargs: {until: [","], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
GROUP = """\
group: both
task: [colour, other]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
"""


@pytest.fixture
def own(chain, tmp_path) -> Path:
    """A folder of tasks with their data, in an order of its own."""
    folder = tmp_path / "own"
    (folder / "data").mkdir(parents=True)
    rows = [json.loads(line) for line in (chain / "chat.jsonl").read_text().splitlines()]
    write_rows(folder / "data" / "asked.jsonl", rows[:24])
    write_rows(folder / "data" / "shown.jsonl", rows[24:40])
    (folder / "colour.yaml").write_text(CHOICE)
    (folder / "said.yaml").write_text(WRITTEN)
    (folder / "other.yaml").write_text("include: colour.yaml\ntask: other\ndoc_to_text: 'Say: {{prompt}}'\n")
    (folder / "both.yaml").write_text(GROUP)
    return folder


@pytest.fixture
def here(chain, monkeypatch):
    monkeypatch.chdir(chain)


def wanted(own: Path, *tasks: str, **how) -> Wanted:
    return Wanted.told(",".join(tasks or ("colour",)), str(own), **how)


def evaluation(chain, own, tmp_path, stage="dpo", *tasks, before=True, **how):
    """(what runs it, what it tells); results go to a folder of the test's."""
    from pipeline.use.tasks.evaluation import Evaluation

    recipe, told = load_recipe(chain / "micro.yaml"), []
    subject = find(stage, recipe, chain / "runs")
    start, _ = start_of(subject, recipe, chain / "runs")
    sides = ({"before": start} if start and before else {}) | {"after": subject}
    place = tmp_path / "runs" / "micro" / stage / "0123456789ab" / benchmarks.FOLDER
    return Evaluation(wanted(own, *tasks, **how), sides, place, tmp_path / "runs", told.append), told


# What needs no lm-eval.


def test_what_cannot_be_meant_is_refused(chain, own, tmp_path):
    assert "no task is named" in refused(chain, "evaluate", "dpo", "-r", "micro.yaml")
    assert Wanted.told(" a, b ,a", None).tasks == ("a", "b")
    (tmp_path / "empty").mkdir()
    for folder, why in (
        ("hub:a/b", "A task can run code"),
        ("https://a/b", "A task can run code"),
        (str(tmp_path / "none"), "no such folder"),
        (str(tmp_path / "empty"), r"has no \*.yaml"),
    ):
        with pytest.raises(PipelineError, match=why):
            Wanted.told("a", folder)


def test_without_lm_eval_it_is_told_how_to_install_it(monkeypatch):
    monkeypatch.setattr(process, "installed", lambda _: False)
    with pytest.raises(PipelineError, match="lm-eval, which is not installed") as error:
        process.check_installed()
    assert "-e .[tasks]" in error.value.fix and "make evaluate" in error.value.fix


def test_before_a_stage_is_the_policy_of_the_stage_before(here, chain, recipe, tmp_path):
    runs = chain / "runs"
    dpo, sft, pretrain = (find(name, recipe, runs) for name in ("dpo", "sft", "pretrain"))
    assert identity(start_of(dpo, recipe, runs)[0]) == identity(sft) != identity(dpo)
    assert identity(start_of(sft, recipe, runs)[0]) == identity(pretrain)
    assert start_of(pretrain, recipe, runs) == (None, "it was made from scratch, so there is nothing before it")
    shutil.copytree(sft.folder, tmp_path / "copied")
    copied = find(str(tmp_path / "copied"), recipe, runs)
    assert identity(copied)["weights"] == identity(sft)["weights"]
    assert "not made by this pipeline" in start_of(copied, recipe, runs)[1]
    assert place_of(copied, runs).parent == runs / benchmarks.ELSEWHERE
    assert identity(sft.without_adapter)["weights"] is None


# What does.


@needs_lm_eval
def test_the_command_asks_keeps_and_shows(built, own):
    asked = ("evaluate", "dpo", "-r", "micro.yaml", "--tasks", "colour,said", "--tasks-path", own, "--chat-template")
    done = align(*asked, "--json", cwd=built)
    colour, said = json.loads(done.stdout)
    assert [one["figure"] for one in colour["figures"] + said["figures"]] == ["acc", "exact_match"]
    (line,) = colour["figures"]
    assert line["questions"] == 24 and line["low"] <= line["difference"] <= line["high"]
    assert colour["before"] == "sft" and Path(built / colour["file"]).parent == attempt(built, "dpo") / "benchmarks"
    assert "dpo, after: said, 24 questions" in done.stderr
    assert "Asked by" in (built / "runs/micro/report.html").read_text()
    assert "dpo on benchmarks, before (sft) and after" in align("status", "dpo", "-r", "micro.yaml", cwd=built).stdout


@needs_lm_eval
def test_what_is_kept_is_not_asked_again(here, chain, own, tmp_path):
    run, told = evaluation(chain, own, tmp_path)
    (first,) = run.run()
    text = first.read_text()
    assert [one for one in told if "questions" in one] == [
        "dpo, after: colour, 24 questions",
        "sft, before: colour, 24 questions",
    ]
    moved = shutil.move(own, tmp_path / "moved")
    for stage, asked in (("dpo", set()), ("sft", {"pretrain, before: colour, 24 questions"})):
        run, told = evaluation(chain, moved, tmp_path, stage)
        (file,) = run.run()
        assert {one for one in told if "questions" in one} == asked
    assert first.read_text() == text and benchmarks.read(file)["after"]["name"] == "sft"
    run, told = evaluation(chain, moved, tmp_path, "dpo", before=False)
    run.run()
    assert first.read_text() == text  # what was before is not lost to who asks without it


@needs_lm_eval
def test_whatever_changes_the_questions_is_asked_anew(own):
    from pipeline.use.tasks.harness import Harness

    def asked(**how) -> dict:
        return Harness(wanted(own, **how)).task("colour").asked

    first = asked()
    assert asked(batch_size=1) == first
    others = [asked(limit=5), asked(few_shot=1), asked(chat_template=True)]
    (own / "colour.yaml").write_text(CHOICE.replace("{{prompt", "Well: {{prompt"))
    others.append(asked())
    (own / "colour.yaml").write_text(CHOICE)
    write_rows(own / "data" / "shown.jsonl", [{"prompt": "?", "completion": "red"}] * 3)
    assert asked() == first and asked(few_shot=1) not in others  # examples count where they are shown
    rows = (own / "data/asked.jsonl").read_text()
    (own / "data/asked.jsonl").write_text(rows.replace("red", "blue", 1))
    others.append(asked())
    assert first not in others and len({json.dumps(one) for one in others}) == len(others)


@needs_lm_eval
@pytest.mark.parametrize("how", [{"chat_template": True}, {"few_shot": 1, "limit": 7}])
def test_figures_are_those_of_lm_eval_itself(here, chain, own, tmp_path, how):
    """lm-eval loads base and adapter in its own way."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    run, _ = evaluation(chain, own, tmp_path, "dpo", "colour", "said", before=False, **how)
    ours = [benchmarks.read(file)["after"] for file in run.run()]
    folder = attempt(chain, "dpo") / "adapter"
    for name, text in (("colour", CHOICE), ("said", WRITTEN)):  # lm-eval itself looks from the current folder
        (own / f"{name}.yaml").write_text(text.replace("data/", f"{own}/data/"))
    theirs = simple_evaluate(
        model="hf",
        model_args={
            "pretrained": str(attempt(chain, "pretrain") / "model"),
            "peft": str(folder),
            "tokenizer": str(folder),
        },
        tasks=["colour", "said"],
        task_manager=TaskManager(include_path=str(own), include_defaults=False),
        device="cpu",
        num_fewshot=how.get("few_shot"),
        limit=how.get("limit"),
        apply_chat_template=how.get("chat_template", False),
        fewshot_as_multiturn=how.get("chat_template", False),
    )
    for side, (task, key) in zip(ours, (("colour", "acc,none"), ("said", "exact_match,none")), strict=True):
        figure = side["results"][task]["figures"][key]
        said = theirs["results"][task]
        assert figure["value"] == pytest.approx(said[key], abs=1e-12)
        assert figure["stderr"] == pytest.approx(said[key.replace(",", "_stderr,")], abs=1e-12)
        metric = key.partition(",")[0]
        assert side["each"][task][key] == [float(one[metric]) for one in theirs["samples"][task]]
    assert len(set(ours[0]["each"]["colour"]["acc,none"])) == 2  # some are right and some wrong


@needs_lm_eval
def test_a_group_has_its_own_figure_and_those_of_its_tasks(here, chain, own, tmp_path):
    run, _ = evaluation(chain, own, tmp_path, "dpo", "both", limit=8)
    said = benchmarks.read(run.run()[0])
    found = {name: one["figures"]["acc,none"]["value"] for name, one in said["after"]["results"].items()}
    assert found["both"] == pytest.approx((found["colour"] + found["other"]) / 2)
    assert said["differences"]["both"]["acc,none"]["how"].startswith("from both standard errors")
    assert said["differences"]["colour"]["acc,none"]["how"].startswith("paired bootstrap")


@needs_lm_eval
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (("data/asked.jsonl", "data/none.jsonl"), "no such file: data/none.jsonl (neither beside it nor in "),
        (
            ("metric: acc", "metric: acccc"),
            "metric acccc would be a script of the hub, which is not run; did you mean acc",
        ),
        (("metric: acc,", "metric: acc, hf_evaluate: true,"), "metric acc would be a script of the hub"),
        (("dataset_path: json", "dataset_path: some/where"), "some/where of the hub, cannot be read"),
        (("task: colour", "task: [colour"), "colour.yaml: cannot be read"),
        (("task: colour", "task: colours"), "--tasks: colour is no task of lm-eval"),
        (("fewshot_split: train", "fewshot_split: train\nnum_fewshot: 0"), "colour says num_fewshot: 0 itself"),
        (("fewshot_split: train", "unsafe_code: true"), "runs code that the model writes"),
    ],
)
def test_bad_tasks_are_refused(here, chain, own, tmp_path, changed, why, monkeypatch):
    from pipeline.use.tasks import harness

    monkeypatch.setattr(harness.Harness, "_managed", own_alone)
    for file in ("said", "other", "both"):
        (own / f"{file}.yaml").unlink()
    (own / "colour.yaml").write_text(CHOICE.replace(*changed))
    run, _ = evaluation(chain, own, tmp_path, few_shot=2)
    with pytest.raises(PipelineError) as error:
        run.run()
    assert why in str(error.value) and not run.place.exists()


def own_alone(self, include_defaults):
    """lm-eval's own tasks take seconds to list."""
    from lm_eval.tasks import TaskManager

    from pipeline.use.tasks.harness import _Factory

    manager = TaskManager(include_path=self.folder, include_defaults=False)
    manager._factory = _Factory(self.folder)
    return manager


@needs_lm_eval
def test_functions_of_a_persons_own_folder_are_run_and_count(here, chain, own, tmp_path):
    (own / "mine.py").write_text("def target(row):\n    return row['completion'].split(',')[0]\n")
    (own / "colour.yaml").write_text(CHOICE.replace("\"{{completion.split(',')[0]}}\"", "!function mine.target"))
    run, _ = evaluation(chain, own, tmp_path, before=False, limit=4)
    first = run.run()
    (own / "mine.py").write_text("def target(row):\n    return 'red'\n")
    run, told = evaluation(chain, own, tmp_path, before=False, limit=4)
    assert run.run() != first and any("questions" in one for one in told)


@needs_lm_eval
def test_no_script_of_the_hub_is_loaded_by_a_function_either(own):
    from pipeline.use.tasks.harness import Harness

    (own / "mine.py").write_text("import evaluate\nmetric = evaluate.load('accuracy')\ntarget = str\n")
    (own / "colour.yaml").write_text(CHOICE.replace("\"{{completion.split(',')[0]}}\"", "!function mine.target"))
    with pytest.raises(PipelineError, match=r"metric accuracy of the hub's `evaluate`, which is a script"):
        Harness(wanted(own)).task("colour")


def requests(*texts: str, **told):
    from types import SimpleNamespace

    return [SimpleNamespace(args=(text, dict(told)), task_name="t") for text in texts]


@needs_lm_eval
@pytest.mark.parametrize("name", ["lora", "prefix", "prompt", "bottleneck", "ia3"])
def test_every_kind_of_adapter_answers_in_a_batch_as_alone(chain, recipe, here, name):
    import torch

    from pipeline.model.adapters import METHODS
    from pipeline.model.loader import Loader
    from pipeline.model.tokenizer import Prepared
    from pipeline.use.loaded import Policy, tokenizer_of
    from pipeline.use.tasks.asked import Asked

    base = find("pretrain", recipe, chain / "runs")
    words = tokenizer_of(base)
    loader = Loader(base.model, 0, base.base, Prepared(words))
    model = loader.model(None, {"method": name, **METHODS[name].defaults}).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.3)
    policy, texts = Policy(base, model, words, "default"), ["Which colour has bana?", "Which?", "The colour of it is"]
    with policy.acting() as acting:
        together, alone = Asked(policy, 3), Asked(policy, 1)
        asked = [((text, " red"), *together._encode_pair(text, " red")) for text in texts]
        scores = [score for score, _ in together._loglikelihood_tokens(asked, disable_tqdm=True)]
        for score, (_, context, answer) in zip(scores, asked, strict=True):
            logits = acting(torch.tensor([context + answer])).logits[0].log_softmax(-1)
            wanted = logits[len(context) - 1 : -1].gather(1, torch.tensor(answer)[:, None]).sum()
            assert score == pytest.approx(float(wanted), abs=1e-4)
        written = [one.generate_until(requests(*texts, until=["!"], max_gen_toks=6), True) for one in (together, alone)]
    assert written[0] == written[1] and len(set(written[0])) > 1
    assert together.max_length == 64 - getattr(model, "virtual_tokens", 0)


@needs_lm_eval
def test_a_published_generation_config_does_not_write_and_what_is_cut_is_counted(policies):
    from pipeline.use.tasks.asked import Asked

    policy = policies[0]
    asked = requests("Which colour has bana?", "Which colour has kolo?", until=["!"], max_gen_toks=8)
    with policy.acting():
        lm = Asked(policy, 2)
        plain = lm.generate_until(asked, True)
        config = policy.transformer.generation_config
        config.repetition_penalty, config.max_length = 50.0, 3
        try:
            assert lm.generate_until(asked, True) == plain
        finally:
            config.repetition_penalty = config.max_length = None
        assert lm.cut == 0
        long = "Which colour has bana? " * 20
        lm.generate_until(requests(long, "?", until=["!"], max_gen_toks=8), True)
        lm.loglikelihood([type("Request", (), {"args": (long, " red"), "task_name": "t"})])
    assert lm.cut == 2
