"""The file of LLaMA-Factory, of Axolotl or of TRL as a recipe, with what became of every key of it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline import stage
from pipeline.errors import PipelineError
from pipeline.start import axolotl, llama_factory, trl_arguments, trl_command
from pipeline.start.chained import chained
from pipeline.start.translation import BY_DEFAULT, Translation, read, text_of
from pipeline.start.written import flow, paragraph, recipe_text

TOOLS = (llama_factory, axolotl, trl_arguments)


def translated(path: Path, stage_name: str | None = None) -> Translation:
    """`stage_name` is what a file of TRL's arguments is for, where it does not say it.

    Raises PipelineError for a file that is none of theirs, or asks for what is not there at all.
    """
    written = text_of(path)
    source = trl_command.read(path, written) if trl_command.is_command(path, written) else read(path, written)
    tool = next((one for one in TOOLS if one.is_its(source.value)), None)
    if tool is None:
        if isinstance(source.value, dict) and {"model", "train_dataset"} <= source.value.keys():
            raise PipelineError(
                f"{path}: is a file of LLaMA-Factory's v1, which is not translated yet.",
                "Write it in the form with model_name_or_path and stage, or begin with `align init --model ... --data ...`.",
            )
        raise PipelineError(
            f"{path}: is neither a file of LLaMA-Factory (model_name_or_path and stage, dataset or finetuning_type) nor "
            "one of Axolotl (base_model), nor of TRL (dataset_name or datasets, or a saved command).",
            "Fields of TRL's own configs need no translation: put them under train; see `align recipe show`.",
        )
    translation = Translation(tool.NAME, source)
    translation.tree["name"] = _as_name(path)
    if tool is not trl_arguments and stage_name is not None:
        raise PipelineError(f"{path}: a file of {tool.NAME} says itself what it trains.", "Leave --stage out.")
    try:
        if tool is trl_arguments:
            trl_arguments.translate(translation, path, stage_name)
        else:
            tool.translate(translation, path)
    except (TypeError, ValueError, AttributeError) as error:
        raise PipelineError(
            f"{path}: a value in it is of another kind than {tool.NAME} takes: {error}.", "Mend it there first."
        ) from error
    translation.settle()
    translation.tell_rest()
    translation.tree = _ordered(translation.tree)
    return translation


def text(translations: Sequence[Translation], command: str, to: Path) -> str:
    """The recipe of one or several files, with what is to be known of each on top."""
    tree, origins = chained(translations)
    if len(translations) > 1:
        tree["name"] = _as_name(to)
    head = [f"Translated by `{command}`.", *(line for one in translations for line in _head(one)), ""]
    return recipe_text(head, _ordered(tree), origins)


def report(translation: Translation) -> list[tuple[str, list[str]]]:
    """Headings, each with its lines: what became of the file."""
    lines = translation.given
    taken = [
        f"{_with_value(origin.partition(' (')[0], lines)} -> {'.'.join(place)}"
        for place, origin in translation.origins.items()
        if origin != BY_DEFAULT
    ]
    lost, harmless = (
        [
            f"{f'line {line}: ' if line else ''}{key}: {value}: {why}"
            for line, key, value, why in sorted(
                {(one.line, one.key, _short(one.value), one.why) for one in translation.dropped if one.lost is which}
            )
        ]
        for which in (True, False)
    )
    return [
        ("Still to do", [*translation.to_do, *lost]),
        ("What means something else here", translation.means),
        ("What was taken over", taken),
        (
            "What was not taken over, and why",
            [*harmless, *([f"empty or off: {', '.join(translation.off)}"] if translation.off else [])],
        ),
    ]


def _head(translation: Translation) -> list[str]:
    head = ["", f"{Path(translation.source.file).name}, of {translation.of}"]
    for title, entries in report(translation):
        if entries and title != "What was taken over":  # that stands behind each value
            head += [f"{title}:"]
            for entry in entries:
                head += paragraph(entry)
    return head


def _as_name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.") or "mine"


def _with_value(key: str, given: Mapping) -> str:
    return ", ".join(f"{one}: {_short(given[one])}" for one in key.split(", "))


def _short(value: object) -> str:
    written = flow(value)
    return written if len(written) <= 60 else f"{written[:57]}..."


def _ordered(tree: dict) -> dict:
    """As recipes are written: the model first, the stages last, and in a stage its data first."""
    first = ("name", "model", "adapter", "use_unsloth", "seed", "launch", "evaluation")
    ordered = {key: tree[key] for key in first if key in tree}
    stages = {name: tree["stages"][name] for name in stage.specs() if name in tree["stages"]}
    inner = ("data", "policy", "reward", "reward_functions", "train", "evaluation")
    kept = {name: {key: one[key] for key in inner if one.get(key)} for name, one in stages.items()}
    return ordered | {"stages": kept}
