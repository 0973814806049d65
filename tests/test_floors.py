"""The house: each room stands on the floors below it, and none reaches up."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROJECT

from pipeline.recipe.sections import StageSection
from pipeline.stage import specs

ENGINE = PROJECT / "pipeline"
# From the ground up; rooms of one line stand beside each other. The list is also how CONTRIBUTING.md tells it.
FLOORS = [
    "errors installing ranks section stage wording",
    "reward.verifiable",
    "artifact hub",
    "data.shapes",
    "data.source",
    "data.read",
    "data.tokens",
    "data.prepare",
    "data.check",
    "model.adapters",
    "recipe",
    "model",
    "evaluate",
    "reward",
    "plan",
    "start",
    "ppo",
    "train.job",
    "train.loop",
    "train.trackers",
    "train",
    "console",
    "report",
    "run",
    "chain",
    "use",
    "cli",
    "reference",
]
FLOOR = {f"pipeline.{room}": number for number, line in enumerate(FLOORS) for room in line.split()}
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "unsloth",
    "datasets",
    "bitsandbytes",
    "accelerate",
    "numpy",
    "pyarrow",
}
# What other tools call the stages, and what a new recipe begins with.
FOREIGN = {
    "pipeline.recipe.foreign",
    "pipeline.start.axolotl",
    "pipeline.start.axolotl_data",
    "pipeline.start.llama_factory",
    "pipeline.start.llama_factory_data",
    "pipeline.start.trl_arguments",
    "pipeline.start.trl_command",
    "pipeline.start.trl_data",
    "pipeline.start.goals",
}
# Where a longer text may have a stage's name: a hint that gives one for example, a loss that is called like it.
NAMED_IN_TEXTS = {
    "pipeline.cli.compare",
    "pipeline.data.shapes.kinds.conversation",
    "pipeline.data.shapes.kinds.labeled",
    "pipeline.data.shapes.kinds.preference",
    "pipeline.model.adapters.prompts",
    "pipeline.plan.tuning",
    "pipeline.recipe.effect",
    "pipeline.train.rows",
}
# Below the plan, as CONTRIBUTING.md says; each is imported where it is needed.
MAY_BE_HEAVY = {
    "pipeline.model.adapters.bias_tuner",
    "pipeline.model.adapters.bottleneck_tuner",
    "pipeline.model.adapters.lora_forms",
    "pipeline.model.adapters.prompted",
    "pipeline.model.census",
    "pipeline.model.counted",
    "pipeline.model.freezing",
    "pipeline.model.adapter_tensors",
    "pipeline.model.loader",
    "pipeline.model.new_tokens",
    "pipeline.model.parts",
    "pipeline.model.proofs",
    "pipeline.model.quantization",
    "pipeline.model.saving",
    "pipeline.model.tokenizer",
    "pipeline.reward.adapter",
    "pipeline.reward.reward",
}
LIGHT = (
    "pipeline",
    "pipeline.chain",
    "pipeline.cli.main",
    "pipeline.plan.planner",
    "pipeline.run.run",
    "pipeline.report.page",
    "pipeline.data.read.reader",
)


def files() -> Iterator[tuple[Path, str]]:
    """Every file of the engine with its module's name."""
    for path in sorted(ENGINE.rglob("*.py")):
        yield path, ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str | None:
    """The longest of the rooms that a module is in."""
    inside = [name for name in FLOOR if module == name or module.startswith(f"{name}.")]
    return max(inside, key=len, default=None)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of what a file imports of the engine, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node.lineno, whole if room(whole) != room(node.module) else node.module
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.startswith("pipeline"))


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every string of a file, also inside of f-strings, but for docstrings."""
    tree = ast.parse(path.read_text())
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.lineno, node.value


def test_every_file_is_in_a_room():
    stray = [module for path, module in files() if room(module) is None and path.name != "__init__.py"]
    assert not stray, f"{stray} stand in no room: move them into one, or add a floor to FLOORS and to CONTRIBUTING.md"


def test_no_room_reaches_up():
    wrong = [
        f"{path.relative_to(PROJECT)}:{line} imports {module}, which is above it"
        for path, own in files()
        for line, module in imported(path)
        if room(own) and room(module) and FLOOR[room(module)] > FLOOR[room(own)]
    ]
    assert not wrong, "\n".join(wrong) + "\nMove what both need down to the lower floor, or hand it in as an argument."


def test_rooms_of_one_floor_do_not_stand_on_each_other():
    pairs = {(room(own), room(module)) for path, own in files() for _, module in imported(path)}
    circles = [f"{one} and {other}" for one, other in pairs if one and other and one < other and (other, one) in pairs]
    assert not circles, f"{circles} import each other: one of the two has what belongs into a third"


@pytest.mark.parametrize("module", LIGHT)
def test_the_light_floors_load_nothing_heavy(module):
    code = f"import sys, {module}; print(sorted({HEAVY} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert loaded == "[]", f"{module} loads {loaded}: import it in the function that needs it, or on a higher floor"


def test_from_the_plan_down_only_what_is_named_imports_heavy_libraries():
    heavy = set()
    for path, module in files():
        if room(module) and FLOOR[room(module)] <= FLOOR["pipeline.plan"] and room(module) != "pipeline.evaluate":
            for node in ast.parse(path.read_text()).body:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                heavy |= {
                    module for name in names if name.partition(".")[0] in ("torch", "transformers", "trl", "peft")
                }
    assert heavy == MAY_BE_HEAVY, "import it in the function that needs it, or name it here and in CONTRIBUTING.md"


def test_the_formatter_lays_everything_out():
    """What needs `fmt: skip` to be read is data: a template, words to be split, a shorter name."""
    here = [path for room in ("pipeline", "stages", "tests") for path in (PROJECT / room).rglob("*.py")]
    kept_out = [str(path.relative_to(PROJECT)) for path in here if "# fmt" + ": " in path.read_text()]
    assert kept_out == []


def test_the_engine_names_no_stage_and_stages_import_no_other():
    for path in (PROJECT / "stages").glob("*.py"):
        names = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert not any(name.startswith("stages") for name in names), f"{path}: a stage knows no other stage"
    names = specs().keys() - StageSection.model_fields  # a role, as recipes say it, is no stage
    for path, module in files():
        for line, text in strings(path) if module not in FOREIGN else ():
            for name in names:
                in_words = module not in NAMED_IN_TEXTS and re.search(rf"(^|\s){name}(?![\w./-])", text)
                assert text != name and not in_words, f"{path}:{line} names the stage {name}: ask its Spec instead"


def test_no_two_files_of_tests_have_the_same_name():
    """pytest takes the second for the first, and leaves its tests out."""
    names = Counter(file.name for file in (PROJECT / "tests").rglob("*.py"))
    assert [name for name, times in names.items() if times > 1 and name != "__init__.py"] == []
