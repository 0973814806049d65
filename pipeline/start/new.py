"""A recipe for a model, some files, a goal and a card."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import stage
from pipeline.errors import PipelineError
from pipeline.plan.memory.card import GIB, Card
from pipeline.start.goals import BY_KIND, CHAT, DOMAIN, GOALS, NEEDS, PREFERENCES, TO_BE_CHECKED, VERIFIABLE, Beginning
from pipeline.start.looked import Looked
from pipeline.wording import not_among

_KINDS = {CHAT: {"conversation"}, DOMAIN: {"text"}, PREFERENCES: {"preference", "labeled"}}


@dataclass
class Draft:
    """A recipe before it is written: its keys, what is said behind them, and what is said on top."""

    tree: dict
    behind: dict[tuple[str, ...], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def put(self, path: Sequence[str], value: object, why: str = "") -> None:
        inside = self.tree
        for part in path[:-1]:
            inside = inside.setdefault(part, {})
        inside[path[-1]] = value
        if why:
            self.behind[tuple(path)] = why


def goal_of(goal: str | None, looked: Sequence[Looked]) -> str:
    """The one that is wanted, else the one that the rows are for. Raises PipelineError where no row serves it."""
    if goal is not None and goal not in GOALS:
        raise PipelineError(f"--goal {goal}: {not_among(goal, GOALS)}.", _goals_said())
    kinds = {one.kind for one in looked}
    if goal is None:
        order = (PREFERENCES, CHAT, DOMAIN)
        return next((one for one in order if _KINDS[one] & kinds), VERIFIABLE)
    serves = any(one.answer for one in looked) if goal == VERIFIABLE else bool(_KINDS[goal] & kinds)
    if not serves:
        found = "; ".join(f"{one.path} has {one.kind} rows" for one in looked)
        wanted = "rows with an answer to be checked (a column answer)" if goal == VERIFIABLE else f"{NEEDS[goal]} rows"
        raise PipelineError(f"--goal {goal} needs {wanted}: {found}.", "Bring such a file, or choose another goal.")
    return goal


def _goals_said() -> str:
    return "The goals: " + "; ".join(f"{name}: {what}" for name, what in GOALS.items()) + "."


def draft(name: str, model: str, looked: Sequence[Looked], goal: str, card: Card | None) -> Draft:
    """For a card, or a CPU where there is none. What fits is for the plan to say."""
    made = Draft({"name": name})
    made.put(["model", "id"], model, "a hub id (owner/name) or a folder")
    if card is None:
        made.put(["model", "dtype"], "float32", "on a CPU")
    else:
        why = f"what {card.name} has" if card.half else "float16 on a card before Ampere, such as a T4"
        made.put(["model", "dtype"], card.half or "bfloat16", why)
        if _wants_4_bits(model, card):
            made.put(["model", "load_in_4bit"], True, "QLoRA: the base takes a quarter of its 16-bit size")
    if Path(model).is_dir() and not _has_template(Path(model)):
        tools = any(one.tools for one in looked)
        why = f"the model has none of its own{'; this one shows tools' if tools else ''}"
        made.put(["model", "template"], "qwen" if tools else "chatml", why)
    made.put(["adapter"], {"method": "lora", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"})
    made.behind[("adapter",)] = "`align methods` shows the others; {method: full} trains every weight"
    for begun, files in _stages(looked, goal):
        _put_stage(made, begun, files, card)
    made.tree["stages"] = {one: made.tree["stages"][one] for one in stage.specs() if one in made.tree["stages"]}
    return made


def _stages(looked: Sequence[Looked], goal: str) -> list[tuple[Beginning, list[Looked]]]:
    """Each stage with its files."""
    found: dict[str, tuple[Beginning, list[Looked]]] = {}
    for one in looked:
        checked = goal == VERIFIABLE and one.answer is not None
        begun = TO_BE_CHECKED if checked else BY_KIND.get(one.kind)
        if begun is None:
            raise PipelineError(
                f"{one.path}: has questions alone, and no answer to check a response by.",
                "Bring rows with an answer column, or write a reward function; see docs/how-to/rewards.md.",
            )
        found.setdefault(begun.stage, (begun, []))[1].append(one)
    return list(found.values())


def _put_stage(made: Draft, begun: Beginning, files: list[Looked], card: Card | None) -> None:
    where = ["stages", begun.stage]
    paths = [one.path for one in files]
    checked = files[0].answer if begun is TO_BE_CHECKED else None
    how = [_how(one, checked) for one in files]
    if all(one == how[0] for one in how):
        made.put([*where, "data", "path"], paths[0] if len(paths) == 1 else paths, f"{files[0].kind} rows")
        for key, value in how[0].items():
            made.put([*where, "data", key], value, _WHY[key])
    else:
        parts = [{"path": path} | own for path, own in zip(paths, how, strict=True)]
        made.put([*where, "data", "mixture"], parts, f"{files[0].kind} rows, all of them")
    made.put([*where, "data", "held_out"], 0.05, "measured before and after, and never trained on")
    if bad := [reason for one in files for reason in one.bad]:
        made.put([*where, "data", "on_bad_row"], "error", "the run stops at a bad row; drop leaves them out, listed")
        made.notes += [f"bad row: {reason}" for reason in bad[:3]]
    at_once = 4 if card and card.bytes > 22 * GIB else 2
    train = [*where, "train"]
    made.put([*train, "learning_rate"], begun.learning_rate)
    made.put([*train, "num_train_epochs"], 1.0, "max_steps: 20 instead is a short trial")
    if begun is TO_BE_CHECKED:
        at_once = 8
    else:
        longest, most = max(one.tokens for one in files), _positions(Path(made.tree["model"]["id"]))
        if most and most < longest:
            made.put([*train, "max_length"], most, "tokens; the model has no more positions, and longer rows are cut")
        else:
            made.put([*train, "max_length"], longest, "tokens; the longest of the first rows, about")
    made.put([*train, "per_device_train_batch_size"], at_once, "through the card at once")
    made.put([*train, "gradient_accumulation_steps"], begun.rows // at_once, f"{begun.rows} rows in an update")
    for key, value in (begun.train or {}).items():
        made.put([*train, key], value)
    if begun is TO_BE_CHECKED:
        column, reward = files[0].answer, files[0].reward
        judge = reward if column == "answer" else {"function": reward, "column": column}
        made.put([*where, "reward_functions"], {"right": judge}, f'judged by the column "{column}"')


_WHY = {
    "columns": "the field that is expected, and what it is called there",
    "encoding": "what the files are written in",
}


def _how(one: Looked, checked: str | None) -> dict:
    """What `data` says beside the path. The column by which a response is `checked` keeps its name."""
    columns = {ours: theirs for ours, theirs in one.how.get("columns", {}).items() if theirs != checked}
    return {key: value for key, value in (dict(one.how) | {"columns": columns}).items() if value}


def _wants_4_bits(model: str, card: Card) -> bool:
    """By the size that stands in a name, such as 8B: 16 bits of it would leave less than a quarter of the card."""
    found = re.search(
        r"(?<![\w.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z0-9])", Path(model).name.replace("-", " ").replace("_", " ")
    )
    return found is not None and 2e9 * float(found[1]) > 0.75 * card.bytes


def _positions(folder: Path) -> int | None:
    """How many a local model has; None where that is not told."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None


def _has_template(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    inside = config.is_file() and "chat_template" in config.read_text(encoding="utf-8", errors="replace")
    return inside or (folder / "chat_template.jinja").is_file()
