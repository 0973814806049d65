"""What fits a card, as a user asks: `align plan` with --gpu, --memory and --fit, from a config.json alone."""

import json
import os
from pathlib import Path

import pytest
from conftest import align, plan

from benchmarks.memory import CONFIGS
from pipeline.artifact.attempt import Attempt
from pipeline.errors import PipelineError
from pipeline.plan.memory import card, lengths
from pipeline.plan.memory.earlier_runs import ENOUGH, EarlierRuns
from pipeline.plan.memory.fit import fitted
from pipeline.plan.memory.reckoned import reckon
from pipeline.plan.planner import Planner
from pipeline.recipe import yaml_lines
from pipeline.recipe.reading import load_recipe

COMMIT = "0" * 40
CHECKPOINTED = "train.gradient_checkpointing=true"
RECIPE = """\
name: card
use_unsloth: false
model: {id: some/llama, dtype: bfloat16}
train: {per_device_train_batch_size: 4, gradient_accumulation_steps: 4, gradient_checkpointing: false}
evaluation: {max_rows: 50}
stages:
  sft: {data: {path: chat.jsonl}, train: {max_length: 2048}}
  reward: {data: {path: pairs.jsonl}}
  dpo: {data: {path: pairs.jsonl}, train: {precompute_ref_log_probs: false}}
  ppo: {data: {path: prompts.jsonl}}
"""


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A recipe on a Llama of 8 billion parameters, of which the hub's cache has the config.json."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--some--llama"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "config.json").write_text(json.dumps(CONFIGS["Llama-3.1-8B"]))
    for name in ("chat", "pairs", "prompts"):
        Path(f"{name}.jsonl").touch()
    Path("card.yaml").write_text(RECIPE)
    return tmp_path


def needs(*overrides: str, goals=("sft", "reward", "dpo", "ppo")) -> dict:
    recipe = load_recipe(Path("card.yaml"), overrides)
    planner = Planner(recipe, Path("runs"))
    return {one.stage: one for one in reckon(planner, planner.plan(goals))}


def test_less_is_needed_of_what_takes_less(there):
    """In the order that people expect, each by the part that it is about."""
    plain = needs()["sft"].need

    def of(part: str, *overrides: str) -> int:
        return needs(*overrides)["sft"].need.parts.get(part, 0)

    assert of("base", "model.load_in_4bit=true") < of("base", "model.load_in_8bit=true") < plain.parts["base"]
    assert of("base", "model.dtype=float32") == 2 * plain.parts["base"]
    assert of("adapter", "adapter.r=32") == 2 * plain.parts["adapter"]
    assert of("optimizer", "train.optim=adamw_8bit") < plain.parts["optimizer"] == 2 * plain.parts["adapter"]
    assert of("optimizer", "train.optim=paged_adamw_8bit") == 0
    assert of("activations", "train.gradient_checkpointing=true") < plain.parts["activations"] / 5
    assert of("activations", "model.attn_implementation=eager") > plain.parts["activations"]
    assert of("activations", "train.max_length=1024", "stages.sft.train.max_length=1024") < plain.parts["activations"]


def test_each_stage_has_the_roles_that_it_needs(there):
    found = {stage: one.need.parts for stage, one in needs().items()}
    one = found["sft"]["adapter"]
    assert found["dpo"]["reference"] == one and "reference" not in found["sft"]
    assert "logits" not in found["reward"]
    assert found["reward"]["base"] == found["sft"]["base"] - 2 * 128256 * 4096  # a score model has no output embeddings
    assert found["ppo"]["other roles"] == 3 * one  # reference, value and reward
    assert found["ppo"]["optimizer"] == 2 * found["sft"]["optimizer"]
    kept = needs("stages.dpo.train.precompute_ref_log_probs=true")["dpo"].need.parts
    assert "reference" not in kept
    whole = needs("adapter={method: full}", goals=("sft", "dpo"))["dpo"].need.parts
    assert whole["reference"] == whole["base"] == found["sft"]["base"]  # a second model


def test_the_plan_says_whether_it_fits_and_of_what_it_consists(there):
    said = align("plan", "sft", "-r", "card.yaml", "--gpu", "16", "--memory", cwd=there, env=os.environ).stdout
    assert "too much" in said and "compared with a card of 16 GB, of which 15.7 GiB can be used" in said
    assert "the peak is in a training step" in said and "activations" in said and "█" in said
    assert "2048 tokens (the most that a row may have: none is prepared yet) and prompts of 512 (a guess)" in said
    rows = json.loads(align("plan", "-r", "card.yaml", "--gpu", "80", "--json", cwd=there, env=os.environ).stdout)
    memory = {row["stage"]: row["memory"] for row in rows}
    assert memory["sft"]["fits"] is (memory["sft"]["left"] >= 0)
    assert sum(memory["sft"]["parts"].values()) == memory["sft"]["bytes"]
    assert {row["about_seconds"] for row in rows} == {None}


def test_a_card_can_be_chosen_before_there_are_data(there):
    """What a recipe needs is told from max_length; that it cannot be run yet is told, too, in words and in JSON."""
    with_data = {stage: one.need.bytes for stage, one in needs().items()}
    Path("chat.jsonl").unlink()
    Path("prompts.jsonl").unlink()
    options = ("plan", "-r", "card.yaml", "--gpu", "24")
    done = align(*options, "--memory", "--fit", "12", cwd=there, env=os.environ, check=False)
    assert done.returncode == 2
    assert "into the recipe, for a card of 12 GB" in done.stdout and done.stdout.count("the peak is in") == 4
    assert "sft: chat.jsonl: no such file" in done.stdout and "ppo: prompts.jsonl: no such file" in done.stdout
    assert "pairs.jsonl: no such file" not in done.stdout
    done = align(*options, "--json", cwd=there, env=os.environ, check=False)
    rows = {row["stage"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 2 and {stage: row["memory"]["bytes"] for stage, row in rows.items()} == with_data
    assert rows["sft"]["missing"] == ["chat.jsonl: no such file."] and rows["dpo"]["missing"] == []
    assert "once its data are there" in rows["sft"]["why"] and "once" not in rows["dpo"]["why"]
    with pytest.raises(PipelineError, match=r"chat\.jsonl: no such file"):
        needs(goals=["sft"])  # as a run plans it


def test_what_is_to_spare_is_turned_into_speed(there):
    """For each stage that fits as well without computing activations again; not where the rest would be too little."""
    said = align("plan", "-r", "card.yaml", "--set", CHECKPOINTED, "--fit", "192", cwd=there, env=os.environ).stdout
    assert "every stage fits a card of 192 GB as it stands" in said
    lines = said.partition("and faster with what is to spare")[2].splitlines()
    assert "up to 33% less to compute" in lines[0] and lines[1] == "train: {gradient_checkpointing: false}"
    options = ("--set", CHECKPOINTED, "--set", "stages.sft.train.max_length=512", "--fit", "40", "--json")
    rows = json.loads(align("plan", "-r", "card.yaml", *options, cwd=there, env=os.environ).stdout)
    room = {row["stage"]: row["room"] for row in rows if "room" in row}
    faster = needs("stages.sft.train.max_length=512")
    assert {stage for stage, one in faster.items() if one.need.bytes < 0.92 * card.named(40).bytes} == room.keys()
    assert 0 < len(room) < len(rows) and all(faster[stage].need.bytes == one["bytes"] for stage, one in room.items())


@pytest.mark.parametrize("gib", [24, 16, 12])
def test_what_makes_it_fit_is_a_recipe_with_the_same_global_batch(there, gib):
    before = needs()
    fits = fitted(list(before.values()), card.named(gib), None)
    assert all(one.fits for one in fits)
    pairs = [f"{'.'.join(path)}={json.dumps(value)}" for one in fits for path, value in one.changes.items()]
    after = needs(*pairs)
    for stage, one in after.items():
        assert one.need.bytes <= card.named(gib).bytes
        assert one.need.bytes == next(fit.need.bytes for fit in fits if fit.stage == stage)
        batch = [
            each.setting.train["per_device_train_batch_size"] * each.setting.train["gradient_accumulation_steps"]
            for each in (before[stage], one)
        ]
        assert batch == [16, 16]


def test_the_lines_are_yaml_that_goes_into_the_recipe(there):
    said = align("plan", "-r", "card.yaml", "--fit", "12", cwd=there, env=os.environ).stdout
    lines = said.partition("into the recipe")[2].splitlines()[1:]
    text = "\n".join(line for line in lines if " then needs " not in line)
    changes = yaml_lines.load(text, "lines").value
    assert changes["model"] == {"load_in_4bit": True}
    written = yaml_lines.load(RECIPE, "recipe").value
    written["model"] |= changes["model"]
    for stage, sections in changes.get("stages", {}).items():
        for section, keys in sections.items():
            written["stages"][stage][section] = written["stages"][stage].get(section, {}) | keys
    Path("card.yaml").write_text(json.dumps(written))
    assert all(one.left(card.named(12)) >= 0 for one in needs().values())


def test_each_of_several_processes_has_the_whole_model_and_its_share_of_the_rows(there):
    """4 rows x 4 passes: two processes have two of the passes each, eight half a row of none. DDP keeps the gradients twice."""
    one, two = needs()["sft"], needs("launch.processes=2")["sft"]
    assert two.need.parts["base"] == one.need.parts["base"]
    assert two.need.parts["DDP's buckets"] == two.need.parts["gradients"] == one.need.parts["gradients"]
    assert two.setting.micro == 4 and not needs("launch.processes=4")["sft"].setting.accumulates
    shared = needs("launch.processes=2", "train.gradient_accumulation_steps=1", goals=["sft"])["sft"]
    assert shared.setting.micro == 2 and shared.need.tokens["rows"] == 2
    assert shared.need.parts["activations"] < 0.6 * one.need.parts["activations"]
    rolled = [needs(f"launch.processes={number}")["ppo"].setting.rollout for number in (1, 2)]
    assert rolled[1] == rolled[0] // 2  # of 16 responses each samples its own
    assert "DDP's buckets" not in needs("launch.processes=2")["ppo"].need.parts  # it adds them up by itself


def test_of_a_cut_model_each_process_has_a_part_and_whole_layers_for_a_while(there):
    cut = ("launch.processes=4", "launch.strategy=fsdp")
    goals = ("sft", "reward", "dpo")
    whole, parts = needs("launch.processes=4", goals=goals), needs(*cut, goals=goals)
    for stage in goals:
        before, now = whole[stage].need.parts, parts[stage].need.parts
        for name in ("base", "adapter", "optimizer", *(["reference"] if stage == "dpo" else [])):
            assert now[name] == pytest.approx(before[name] / 4, rel=1e-3), (stage, name)
        # The embeddings, of 1 GiB or, with a head that is apart, twice that, and at most two layers of 0.42.
        outside = 2 if stage != "reward" else 1
        assert outside * 0.97 < now["whole layers"] / 2**30 < outside + 0.9
        assert parts[stage].need.bytes < whole[stage].need.bytes
    assert "whole layers" not in needs(goals=["sft"])["sft"].need.parts  # one process
    of_four, of_one = (
        needs(*how, "model.load_in_4bit=true", goals=["sft"])["sft"].need.parts["base"] for how in (cut, cut[:1])
    )
    scales = 32 * 218_103_808 / 64 * (1 + 4 / 256)  # of the layers' weights, whole in each process
    assert of_four == pytest.approx((of_one + 3 * scales) / 4, rel=1e-3)
    waiting = needs(*cut, "launch.offload=cpu", goals=["sft"])["sft"].need.parts
    assert not {"base", "adapter", "optimizer"} & set(waiting) and waiting["whole layers"]


def test_a_part_of_the_model_for_each_is_proposed_where_nothing_else_makes_it_fit(there):
    full = ("adapter={method: full}", "train.gradient_checkpointing=true")
    goals = ("sft", "dpo")
    for processes, gib, wanted in ((4, 80, False), (4, 40, True), (1, 40, False), (4, 8, False)):
        found = needs(*full, f"launch.processes={processes}", goals=goals)
        fits = fitted(list(found.values()), card.named(gib), None)
        pairs = [f"{'.'.join(path)}={json.dumps(value)}" for one in fits for path, value in one.changes.items()]
        assert any('strategy="fsdp"' in pair for pair in pairs) is wanted, (processes, gib)
        assert all(one.fits for one in fits) is (processes == 4 and gib >= 40)
        if wanted:
            after = needs(*full, f"launch.processes={processes}", *pairs, goals=goals)
            assert {stage: one.need.bytes for stage, one in after.items()} == {
                one.stage: one.need.bytes for one in fits
            }
    # MiSS was not seen to go in parts of 4 bits: its parts have to wait in the host's memory.
    for method, wanted in (("lora", {"fsdp", True}), ("miss", {"fsdp", "cpu"})):
        found = needs(f"adapter={{method: {method}}}", "launch.processes=4", goals=["sft"])
        (fit,) = fitted(list(found.values()), card.named(6.5), None)
        said = {value for path, value in fit.changes.items() if path[-1] in ("strategy", "offload", "load_in_4bit")}
        assert said == wanted and fit.fits
        pairs = [f"{'.'.join(path)}={json.dumps(value)}" for path, value in fit.changes.items()]
        after = needs(f"adapter={{method: {method}}}", "launch.processes=4", *pairs, goals=["sft"])
        assert after["sft"].need.bytes == fit.need.bytes
    with_ppo = needs("launch.processes=4", "adapter.r=4000")  # which samples responses, and needs all of it
    assert not any(
        ("launch", "strategy") in one.changes for one in fitted(list(with_ppo.values()), card.named(12), None)
    )


def test_groups_of_answers_are_sampled_fewer_at_a_time_where_that_makes_it_fit(there):
    groups = "stages={grpo: {data: {path: prompts.jsonl}, reward_functions: {brief: {function: length, at_most: 8}}}}"
    more = "{num_generations: 8, per_device_train_batch_size: 8, gradient_accumulation_steps: 4, max_completion_length: 1024}"
    recipe = (groups, f"stages.grpo.train={more}", "model.load_in_4bit=true")
    before = needs(*recipe, goals=["grpo"])
    (fit,) = fitted(list(before.values()), card.named(12), None)
    assert fit.fits and before["grpo"].left(card.named(12)) < 0
    pairs = [f"{'.'.join(path)}={json.dumps(value)}" for path, value in fit.changes.items()]
    after = needs(*recipe, *pairs, goals=["grpo"])["grpo"]
    assert after.need.bytes == fit.need.bytes and after.setting.rollout < before["grpo"].setting.rollout
    assert after.setting.rollout % 8 == 0


@pytest.mark.parametrize("processes", [2, 4])
def test_what_makes_it_fit_can_be_dealt_out(there, processes):
    found = needs(f"launch.processes={processes}", goals=["sft", "dpo"])
    fits = fitted(list(found.values()), card.named(16), None)
    pairs = [f"{'.'.join(path)}={json.dumps(value)}" for one in fits for path, value in one.changes.items()]
    assert all(one.fits for one in fits) and pairs
    for one in needs(f"launch.processes={processes}", *pairs, goals=["sft", "dpo"]).values():
        train, own = one.setting.train, one.setting.own
        each, passes = "per_device_train_batch_size", "gradient_accumulation_steps"
        assert train[each] * train[passes] == 16 == processes * own[each] * own[passes]


def test_the_plan_of_several_says_what_each_has(there):
    options = ("plan", "sft", "-r", "card.yaml", "--processes", "4", "--memory", "--gpu", "24")
    said = align(*options, "--strategy", "fsdp", cwd=there, env=os.environ).stdout
    assert "each GPU needs" in said and "whole layers" in said
    assert "in each of 4 processes, each with a part of the model" in said
    said = align(*options, cwd=there, env=os.environ).stdout
    assert "DDP's buckets" in said and "in each of 4 processes, each with the whole model" in said


def test_where_nothing_makes_it_fit_it_says_what_would(there):
    fits = fitted(list(needs("adapter={method: full}", goals=("sft",)).values()), card.named(24), None)
    assert not fits[0].fits
    said = "; ".join(fits[0].otherwise)
    assert "an adapter instead of all weights" in said and "a card of" in said and "a smaller base" in said


def test_where_only_an_evaluation_does_not_fit_it_says_what_leaving_it_out_gives(there):
    advised = 0
    long = ("evaluation.max_new_tokens=32768", "stages.sft.train.max_length=512")  # an answer's keys and values
    for gib in (6, 7, 8, 9, 10, 12):
        found = needs("evaluation.batch_size=1", *long, goals=("sft",))
        (fit,) = fitted(list(found.values()), card.named(gib), None)
        without = needs("evaluation.max_rows=0", *long, goals=("sft",))
        possible = fitted(list(without.values()), card.named(gib), None)[0].fits
        said = any("evaluation: {max_rows: 0}" in one for one in fit.otherwise)
        assert said is (possible and not fit.fits)
        advised += said
    assert advised


def test_nothing_is_said_of_a_base_that_is_not_at_hand(there):
    said = align("plan", "sft", "-r", "card.yaml", "--set", "model.id=other/model", cwd=there, env=os.environ).stdout
    assert "not known" in said and "hf download other/model config.json" in said


@pytest.mark.parametrize("said", ["T4", "Tesla T4", "nvidia-t4"])
def test_a_card_goes_by_its_name_with_what_is_really_there(there, said):
    """14.7 GiB of the 16 that it is sold with, and no bfloat16."""
    out = align("plan", "sft", "-r", "card.yaml", "--gpu", said, cwd=there, env=os.environ).stdout
    assert "compared with T4, of which 14.7 GiB" in out and "T4 has no bfloat16" in out
    assert card.asked_for("Tesla V100-SXM2-16GB").bytes >> 20 == 16056 and card.asked_for("T4 16GB").name == "T4"
    assert card.asked_for("16GB") == card.asked_for("16") and card.asked_for("4090").name == "RTX 4090"
    assert card.asked_for("rtx4090") == card.asked_for("NVIDIA GeForce RTX 4090") != card.asked_for("24")


def test_what_makes_it_fit_an_old_card_is_a_type_that_it_has(there):
    found = list(needs("model.dtype=float32", goals=("sft",)).values())
    types = {name: fitted(found, card.asked_for(name), None)[0].changes["model", "dtype"] for name in ("T4", "A10")}
    assert types == {"T4": "float16", "A10": "bfloat16"}
    small = list(needs("stages.sft.train.max_length=64", "model.load_in_4bit=true", goals=("sft",)).values())
    (fit,) = fitted(small, card.asked_for("T4"), None)  # it would fit, in a type that is slow there
    assert dict(fit.changes) == {("model", "dtype"): "float16"}


def test_a_card_that_nobody_knows_is_told_with_those_that_are(there):
    done = align("plan", "sft", "-r", "card.yaml", "--gpu", "T5", cwd=there, check=False, env=os.environ)
    assert done.returncode == 2 and "--gpu T5: is neither a number of GB nor a card" in done.stdout
    assert "T4" in done.stdout and "RTX 4090" in done.stdout


def test_shorter_rows_are_advised_only_where_they_would_do(there):
    def advised(gib: float, length: int) -> bool:
        found = list(needs("evaluation.max_rows=0", f"stages.sft.train.max_length={length}", goals=("sft",)).values())
        (fit,) = fitted(found, card.named(gib), None)
        return any("rows that are shorter" in one for one in fit.otherwise)

    assert advised(16, 32768) and not advised(2, 1024)


@pytest.mark.parametrize("wrong", ["0", "-4", "1e9", "nan"])
def test_a_size_that_no_card_has_is_refused(there, wrong):
    done = align("plan", "sft", "-r", "card.yaml", "--gpu", wrong, cwd=there, check=False, env=os.environ)
    assert done.returncode == 2 and "is no size of a card in GB" in done.stdout


def test_rows_that_are_prepared_say_how_long_they_are(built, monkeypatch):
    """And those of other data, or another max_length, do not."""
    monkeypatch.chdir(built)
    planner = Planner(load_recipe(Path("micro.yaml"), []), Path("runs"))
    found = lengths.known(planner, "dpo")
    assert 0 < found["prompt"] < found["row"] <= 48 and found["rows"] > 0
    one = {each.stage: each for each in reckon(planner, planner.plan(["dpo"]))}["dpo"]
    assert one.need.tokens["length"] == found["row"] and one.need.tokens["of"] == "rows"
    other = Planner(load_recipe(Path("micro.yaml"), ["stages.dpo.train.max_length=40"]), Path("runs"))
    assert lengths.known(other, "dpo") == {}


def test_a_manifest_has_what_was_planned_and_why_nothing_was_measured(built):
    rows = plan(built)
    for stage in ("sft", "dpo", "ppo"):
        said = Attempt(
            Path(rows[stage]["folder"]) if Path(rows[stage]["folder"]).is_absolute() else built / rows[stage]["folder"]
        )
        memory = said.manifest["memory"]
        assert memory["planned"] > 0 and memory["in"] and memory["not_measured"] == "trained on a CPU"


def test_runs_that_were_measured_set_the_margin_when_enough_of_them_tell(tmp_path):
    def ran(number: int, planned: int, reserved: int) -> None:
        folder = tmp_path / "some" / "stage" / f"{number}"
        folder.mkdir(parents=True)
        said = {"stage": "s", "steps": 1, "seconds": {"training": 1}, "memory": {"planned": planned}}
        (folder / "manifest.json").write_text(json.dumps(said | {"peak_bytes": {"gpu_reserved": reserved}}))

    for number in range(ENOUGH - 1):
        ran(number, 1000, 1050 + number)
    ran(8, 1000, 9000)  # something else took it
    assert EarlierRuns(tmp_path).margin() is None
    ran(9, 1000, 1200)
    assert EarlierRuns(tmp_path).margin() == 1.2


def test_runs_of_several_processes_set_no_margin(tmp_path):
    for number in range(ENOUGH):
        folder = tmp_path / "one" / "sft" / str(number)
        folder.mkdir(parents=True)
        said = {"stage": "sft", "steps": 1, "seconds": {"training": 1}, "memory": {"planned": 100}}
        said |= {"peak_bytes": {"gpu_reserved": 130}, "run": {"processes": 2 if number else 1}}
        (folder / "manifest.json").write_text(json.dumps(said))
    assert EarlierRuns(tmp_path).margin() is None


def test_a_stage_takes_about_as_long_as_its_last_run(built, monkeypatch):
    monkeypatch.chdir(built)

    def seconds(*changes: str) -> dict[str, float | None]:
        planner = Planner(load_recipe(Path("micro.yaml"), [f"stages.sft.{change}" for change in changes]), Path("runs"))
        return {one.stage: one.seconds for one in reckon(planner, planner.plan(["sft"]))}

    ran = next(Path("runs/micro/sft").glob("*/manifest.json"))
    took = json.loads(ran.read_text())["seconds"]["training"]
    found = seconds("train.learning_rate=1e-4")
    assert found["pretrain"] is None  # it is up to date
    assert found["sft"] == pytest.approx(took, rel=0.5)
    assert seconds("train.max_steps=24")["sft"] == pytest.approx(2 * found["sft"])  # it ran for 12
    # Streamed, other steps read other rows, which are not prepared.
    assert seconds("train.max_steps=24", "data.streaming=true", "data.held_out=0")["sft"] is None
