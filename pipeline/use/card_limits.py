"""The limits of a model in plain words, as far as its lineage tells them: what a card is least likely to say by itself."""

from collections.abc import Iterator, Mapping

from pipeline.console.figures import BASELINES, BEATEN_BY, FEW_ROWS, OWN_COLUMN, are_few, name_of, number
from pipeline.recipe.gates import LOWER_IS_BETTER
from pipeline.use.card_text import data_sets, shown
from pipeline.use.usage import NEED_A_BASE

_SMALL = 1000  # rows to train on


def limits(lineage: dict, licenses: Mapping[str, str]) -> Iterator[str]:
    """One sentence each, the gravest first."""
    base, adapter = lineage["base"], lineage["what"] in NEED_A_BASE
    if adapter and not base["repository"]:
        yield "The base exists only where this was trained, and the adapter works on no other."
    if adapter and base["load_in_4bit"]:
        yield "It was trained on the base in 4 bits (NF4); on the base in 16 bits it behaves a little otherwise."
    if adapter and base.get("load_in_8bit"):
        yield "It was trained on the base in 8 bits (LLM.int8); on the base in 16 bits it behaves a little otherwise."
    for one in lineage["stages"]:
        yield from _got_worse(one)
        yield from _beaten(one)
    yield from _small(lineage)
    if "config" in lineage["stages"][0]["inputs"]["base"]:
        yield "The base was made from scratch: it knows nothing but what these stages taught it."
    if lineage["head"] == "score":
        yield "Its scores compare answers to one and the same question; they are no measure across questions."
    yield from _licenses(lineage, licenses)
    yield (
        "Nothing but the figures above was measured: neither safety nor bias, nor any task, language or length beyond these "
        "rows."
    )


def _got_worse(one: dict) -> Iterator[str]:
    before, after = one["metrics"]["before"], one["metrics"]["after"]
    for name, now in after.items():
        was = before.get(name)
        compared = name not in OWN_COLUMN and name not in BASELINES and was is not None and now is not None
        if compared and now != was and (now > was) == (name in LOWER_IS_BETTER):
            yield f"{one['stage']} made the {name_of(name)} worse: {number(was)} before, {number(now)} after."


def _beaten(one: dict) -> Iterator[str]:
    after = one["metrics"]["after"]
    for name, figures in BEATEN_BY.items():
        for figure in figures:
            if after.get(name) is not None and after.get(figure) is not None and after[name] >= after[figure]:
                yield (
                    f"{one['stage']}: {BASELINES[name]} does as well ({number(after[name])}) as the model "
                    f"({number(after[figure])} {name_of(figure)})."
                )


def _small(lineage: dict) -> Iterator[str]:
    stages = lineage["stages"]
    if without := [one["stage"] for one in stages if not one["metrics"]["after"]]:
        yield f"No rows were held out of {', '.join(without)}, so nothing is known of what was learned there."
    if few := [one for one in stages if are_few(one)]:
        told = ", ".join(f"{one['stage']} {one['metrics']['after']['n']}" for one in few)
        yield f"Few rows are held out ({told}): below {FEW_ROWS}, one row more or less moves a share by more than 3%."
    counts = {one["stage"]: one["data"]["rows"]["trained"] for one in stages}
    small = {stage: count for stage, count in counts.items() if isinstance(count, int) and count < _SMALL}
    if small:
        yield f"The data are small: rows trained on in {', '.join(f'{stage} {shown(count)}' for stage, count in small.items())}."


def _licenses(lineage: dict, licenses: Mapping[str, str]) -> Iterator[str]:
    base = lineage["base"]["repository"]
    unknown = [name for name in dict.fromkeys([*([base] if base else []), *data_sets(lineage)]) if name not in licenses]
    if unknown:
        yield f"The license of {', '.join(unknown)} was not known when this card was written."
    if any(not file["name"].startswith("hub:") for one in lineage["stages"] for file in one["data"]["files"]):
        yield "Data that are files of the author's have a license that is not known from here."
