"""GRPO and RLOO on the micro chain: their tokens, their rewards, their reference, and their resume."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import align, attempt, manifest
from peft import AutoPeftModelForSequenceClassification
from rollouts import GROUPS, write_rollouts
from safetensors.torch import load_file
from stage_runs import adapter_of, silent, stage_run, without_clock
from transformers import AutoTokenizer

from pipeline.errors import MachineError, PipelineError
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe

ADAPTER = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def grouped(chain, tmp_path_factory) -> Path:
    """A folder in which both have been run."""
    folder = tmp_path_factory.mktemp("rollouts")
    write_rollouts(folder, chain)
    align("run", *GROUPS, "-r", "micro.yaml", cwd=folder)
    return folder


@pytest.fixture
def stage_of(grouped, tmp_path, monkeypatch):
    """A stage as its process would set it up, without running it."""
    monkeypatch.chdir(grouped)

    def prepare(name: str, *overrides: str, folder: Path = tmp_path, said: list | None = None):
        folder.mkdir(exist_ok=True)
        report = (lambda kind, **fields: said.append((kind, fields))) if said is not None else silent
        return stage_run("micro.yaml", name, *overrides, folder=folder, report=report)

    return prepare


def notes(said: list) -> str:
    return "\n".join(fields["text"] for kind, fields in said if kind == "note")


def logged(folder: Path, stage: str) -> list[dict]:
    return [json.loads(line) for line in (attempt(folder, stage) / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", GROUPS)
def test_the_policy_is_trained_and_starts_from_its_reference(grouped, stage):
    before, after = (adapter_of(grouped, one) for one in ("sft", stage))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    said = manifest(grouped, stage)
    assert said["parents"].keys() == ({"policy", "reward"} if stage == "grpo" else {"policy"})
    assert {"mean_reward", "reward_right", "kl"} <= said["metrics"]["after"].keys()
    assert said["tokens"] > 0


def test_every_reward_is_logged_by_its_name_and_in_the_total(grouped):
    for stage, weights in {"rloo": {"right": 1, "brief": 0.5}, "grpo": {"model": 1, "right": 2}}.items():
        for line in logged(grouped, stage):
            if "reward" in line:
                total = sum(weight * line[f"rewards/{name}/mean"] for name, weight in weights.items())
                assert line["reward"] == pytest.approx(total, abs=1e-5)
                assert {"kl", "completions/mean_length", "groups_without_signal"} <= line.keys()


@pytest.mark.parametrize("stage", GROUPS)
def test_what_is_answered_are_the_tokens_of_the_account_in_groups(stage_of, stage):
    run = stage_of(stage)
    trainer = run.trainer(run.models.at_the_start())
    seen, generate = [], trainer._generate_single_turn

    def watched(prompt_ids, *more):
        seen.append(prompt_ids)
        return generate(prompt_ids, *more)

    trainer._generate_single_turn = watched
    trainer.args.max_steps = 2
    trainer.train()
    ours = {tuple(ids) for ids in run.rows.prepared.trained["prompt_ids"]}
    groups = trainer.num_generations
    for prompts in seen:
        assert len(prompts) == trainer.args.generation_batch_size
        assert {tuple(ids) for ids in prompts} <= ours
        for first in range(0, len(prompts), groups):
            assert len({tuple(ids) for ids in prompts[first : first + groups]}) == 1
    eos, pad = trainer.processing_class.eos_token_id, trainer.processing_class.pad_token_id
    assert trainer.eos_token_ids == trainer.generation_config.eos_token_id == [eos]
    for part in trainer._buffered_inputs:
        for ids, mask in zip(part["completion_ids"].tolist(), part["completion_mask"].tolist(), strict=True):
            said = ids[: sum(mask)]
            assert eos not in said[:-1]
            assert said[-1] == eos or len(said) == trainer.max_completion_length
            assert set(ids[len(said) :]) <= {pad}


def test_the_reward_model_is_an_adapter_on_the_same_base_and_scores_as_it_does_alone(stage_of, grouped):
    run = stage_of("grpo")
    model = run.models.at_the_start()
    trainer = run.trainer(model)
    assert set(model.peft_config) == {"default", "ref", "reward"}
    names = dict(model.named_parameters())
    assert sum("embed_tokens" in name and name.endswith("weight") for name in names) == 1
    assert {name for name, one in names.items() if one.requires_grad} == {name for name in names if ".default." in name}
    folder = attempt(grouped, "reward") / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    alone = AutoPeftModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, pad_token_id=tokenizer.pad_token_id
    ).eval()
    prompts = [list(ids) for ids in run.rows.prepared.trained["prompt_ids"][:3]]
    said = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in (" red", " blue, it is", " green")]
    examples = [run.rows.prepared.examples(run.rows.prepared.trained)[n] for n in range(3)]
    found = trainer.reward_funcs[0](prompts=prompts, completion_ids=said, row=[0, 1, 2])
    suffix = run.models.reward._suffix
    with torch.no_grad():
        ids = [prompt + response + suffix for prompt, response in zip(prompts, said, strict=True)]
        wanted = [float(alone(input_ids=torch.tensor([one])).logits) for one in ids]
    assert found == pytest.approx(wanted, abs=1e-5)
    total = run.models.reward(model, examples, prompts, said)
    assert total.tolist() == pytest.approx(
        [
            score + 2 * right
            for score, right in zip(
                found,
                (
                    float(text == example.columns["answer"])
                    for text, example in zip(("red", "blue", "green"), examples, strict=True)
                ),
                strict=True,
            )
        ],
        abs=1e-5,
    )


@pytest.mark.parametrize(("stage", "beta", "there"), [("grpo", 0, False), ("rloo", 0, False), ("rloo", 0.05, True)])
def test_there_is_a_reference_where_beta_is_not_0(stage_of, stage, beta, there):
    run = stage_of(stage, f"stages.{stage}.train.beta={beta}")
    model = run.models.at_the_start()
    run.trainer(model)
    assert ("ref" in model.peft_config) == there


@pytest.mark.parametrize("stage", GROUPS)
def test_responses_are_sampled_as_the_recipe_says_and_not_as_the_base_was_published(stage_of, stage):
    run = stage_of(stage)
    trainer = run.trainer(run.models.at_the_start())
    trainer.model.eval()
    prompts = [list(ids) for ids in run.rows.prepared.trained["prompt_ids"][:4]]

    def sampled():
        torch.manual_seed(0)
        return trainer._generate(prompts)[1]

    plain = sampled()
    trainer.model.generation_config.update(repetition_penalty=5.0, no_repeat_ngram_size=1, min_p=0.5)
    assert sampled() == plain


@pytest.mark.parametrize("stage", GROUPS)
def test_a_reference_that_is_not_the_parent_stops_the_stage(stage_of, stage):
    run = stage_of(stage)
    trainer = run.trainer(run.models.at_the_start())
    for name, parameter in trainer.model.named_parameters():
        if ".ref." in name:
            parameter.data.add_(0.5)
    with pytest.raises(MachineError, match=r"kl is .* before the first step"):
        trainer.train()


@pytest.mark.parametrize("stage", GROUPS)
def test_from_every_checkpoint_it_goes_on_to_the_same_end_inside_a_rollout_too(stage_of, grouped, tmp_path, stage):
    """A rollout lasts four optimizer steps of grpo, and a pass over the prompts ends on the way."""
    whole = attempt(grouped, stage)
    wanted = adapter_of(grouped, stage)
    steps = sorted(int(one.name[11:]) for one in (whole / "checkpoints").glob("checkpoint-*"))
    assert steps == list(range(1, 13))
    for step in (1, 2, 5, 6, 8, 11):
        folder = tmp_path / str(step)
        run = stage_of(stage, folder=folder)
        (folder / "checkpoints").mkdir()
        name = f"checkpoint-{step}"
        shutil.copytree(whole / "checkpoints" / name, folder / "checkpoints" / name)
        trainer = run.trainer(run.models.at_the_start())
        trainer.train(resume_from_checkpoint=str(folder / "checkpoints" / name))
        found = load_file(folder / "checkpoints" / "checkpoint-12" / ADAPTER)
        assert all(torch.equal(wanted[key], found[key]) for key in wanted), step
        assert trainer.tokens == manifest(grouped, stage)["tokens"]
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert lines and without_clock(lines) == without_clock(logged(grouped, stage)[-len(lines) :])


def test_it_warns_where_nothing_can_be_learned_and_no_response_ends(stage_of):
    said = []
    # A pattern that no response of bytes fits: every reward is 0.
    run = stage_of("rloo", "stages.rloo.reward_functions={none: {function: format, pattern: 'never this'}}", said=said)
    trainer = run.trainer(run.models.at_the_start())
    trainer.args.logging_steps = trainer.state.logging_steps = 1
    trainer.processing_class.eos_token = trainer.processing_class.pad_token  # nothing ends
    trainer.train()
    assert "got the same reward" in notes(said)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.grpo.train.num_generations=1", "must be at least 2, since each response is judged by the others"),
        ("stages.grpo.train.num_generations=3", "must go into per_device_train_batch_size * steps_per_generation"),
        ("stages.grpo.train.max_completion_length=64", "leave no room for a prompt in 64"),
        ("stages.grpo.train.max_completion_length=null", "a response has to end"),
        ("stages.grpo.train.use_vllm=true", "vLLM is not installed"),
        ("stages.grpo.train.vllm_mode=server", "cannot take effect with use_vllm: false; it does with true"),
        ("stages.grpo.train.reward_weights=[1.0, 2.0]", "set weight beside each of reward_functions instead"),
        ("stages.grpo.train.loss_type=grop", "did you mean grpo?"),
        ("stages.grpo.train.beta=-1", "must be 0 or more"),
        ("stages.grpo.reward_functions={right: numbr}", "did you mean number?"),
        ("stages.grpo.reward_functions={right: {function: number, colum: a}}", "did you mean column?"),
        ("stages.grpo.reward_functions={right: format}", "pattern: is missing"),
        ("stages.grpo.reward_functions={model: number}", "the reward model's own name"),
        (
            "stages.grpo.reward_functions={right: {function: number, column: solution}}",
            'prompts.jsonl:1: "solution" is not there',
        ),
        ("stages.grpo.reward_functions={right: number}", '"answer" has no number in it'),
        ("stages.grpo.reward_functions={mine: 'mine.py:score'}", "takes wanted, which no row has; they have answer"),
        ("stages.grpo.reward_function=mine.py:score", "stands beside reward_functions"),
        ("stages.dpo.reward_functions={right: number}", "dpo takes no reward"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(grouped, stage_of, override, words):
    (grouped / "mine.py").write_text("def score(completions, wanted):\n    return [0.0] * len(completions)\n")
    with pytest.raises(PipelineError) as caught:
        run = stage_of("grpo", override)
        run.rows.prepare()
    assert words in " ".join(str(caught.value).split())


def test_what_is_done_another_way_is_the_same_artifact(grouped, monkeypatch):
    monkeypatch.chdir(grouped)

    def print_of(*overrides: str) -> str:
        return Planner(load_recipe("micro.yaml", overrides), Path("runs")).plan(["grpo"])[-1].fingerprint

    as_written = print_of()
    assert print_of("stages.grpo.reward_functions.right.timeout=7") == as_written
    named = "{exact: {function: exact_match, pattern: '^[a-z]+', weight: 2}}"
    assert print_of(f"stages.grpo.reward_functions={named}") == as_written
    in_pieces = ("per_device_train_batch_size=2", "gradient_accumulation_steps=4", "steps_per_generation=8")
    assert print_of(*(f"stages.grpo.train.{one}" for one in in_pieces)) == as_written
    assert print_of("stages.grpo.train.steps_per_generation=8") != as_written
    assert print_of("stages.grpo.reward_functions.right.weight=1") != as_written
