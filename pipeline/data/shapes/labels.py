"""Whether an answer is wanted: the labels of rows for KTO, however they are named and written."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache

from pipeline.data.shapes.fields import BadRow

# What can be nothing else (TRL has label, LLaMA-Factory kto_tag or a name of one's own), and what may also be a class.
NAMES = {"kto_tag", "kto_label", "desirable", "is_desirable", "is_good", "is_chosen", "is_preferred", "is_wanted"}
NAMES |= {"thumbs_up", "liked"}
POSSIBLE_NAMES = {"label", "tag", "feedback", "rating", "verdict", "thumbs", "good", "wanted", "preferred", "accepted"}
POSSIBLE_NAMES |= {"chosen"}
WANTED = {"true", "yes", "1", "+1", "good", "chosen", "accepted", "desirable", "desired", "wanted", "preferred"}
WANTED |= {"thumbs up", "thumb up", "up", "like", "liked", "upvote", "upvoted", "👍"}
UNWANTED = {"false", "no", "0", "-1", "bad", "rejected", "undesirable", "undesired", "unwanted", "dispreferred"}
UNWANTED |= {"thumbs down", "thumb down", "down", "dislike", "disliked", "downvote", "downvoted", "👎"}
LABELED = "labeled as unwanted"  # how the reason begins
_MOST = 0.8  # of the values; beside them a few may be slips


class Unwanted(BadRow):
    """A row that says of itself that its answer is not to be learned."""


def is_wanted(value: object) -> bool | None:
    """What a label says; None where it is none."""
    if isinstance(value, int | float):
        value = int(value) if value in (-1, 0, 1) else value
        return {-1: False, 0: False, 1: True}.get(value)
    words = _plain(value).replace("_", " ") if isinstance(value, str) else ""
    words = words.removesuffix(".0")
    return True if words in WANTED else False if words in UNWANTED else None


@lru_cache
def may_be_label(field: object) -> bool:
    """By its name."""
    return _plain(field) in NAMES | POSSIBLE_NAMES


def label_fields(rows: Iterable[object], mapped: Collection[str] = ()) -> frozenset[str]:
    """The fields of a file's rows that are labels; `mapped` are those that data.columns names.

    A label or a tag may as well be the class that a text is of: it is one of these only where nearly all of its values
    say wanted or unwanted, which cannot be told from a single row.
    """
    found: dict[str, list] = defaultdict(list)
    for row in rows:
        for field in row if isinstance(row, dict) else ():
            if may_be_label(field):
                found[field].append(row[field])
    return frozenset(
        field
        for field, values in found.items()
        if _plain(field) in NAMES or field in mapped or _are_labels([value for value in values if value is not None])
    )


def check_wanted(row: dict, labels: Collection[str]) -> None:
    """Raises BadRow where a label cannot be understood, Unwanted where one says so."""
    for field, shown, said in _labels(row, labels):
        if not said:
            raise Unwanted(f'{LABELED} ("{field}" is {shown}): not something to learn')


def wanted(row: dict, labels: Collection[str]) -> bool | None:
    """What the labels of a row say; None where it has none. Raises BadRow where they cannot be understood, or differ."""
    found = list(_labels(row, labels))
    if len({said for *_, said in found}) > 1:
        told = " and ".join(f'"{field}" is {shown}' for field, shown, _ in found)
        raise BadRow(f"its labels differ: {told}")
    return found[0][-1] if found else None


def _labels(row: dict, labels: Collection[str]) -> Iterator[tuple[str, str, bool]]:
    """(field, its value as it is shown, whether that says wanted).

    `labels` are the fields that the file's rows have for it; what is one beyond doubt need not be among them.
    """
    for field, value in row.items():
        if field not in labels and not _is_surely_label(field, isinstance(value, bool)):
            continue
        said = is_wanted(value)
        shown = json.dumps(value, ensure_ascii=False, default=str)
        if said is None:
            raise BadRow(f'"{field}" is {shown}; a label says wanted (true, 1, good) or unwanted (false, 0, bad)')
        yield field, shown, said


@lru_cache
def _is_surely_label(field: object, is_bool: bool) -> bool:
    return _plain(field) in (NAMES | POSSIBLE_NAMES if is_bool else NAMES)


def _are_labels(values: list) -> bool:
    if any(isinstance(value, bool) for value in values):
        return True
    numbers = {float(value) for value in values if _is_number(value)}
    if not (numbers <= {0, 1} or numbers <= {-1, 1}):  # there are more classes than two
        return False
    understood = sum(is_wanted(value) is not None for value in values)
    return bool(values) and understood >= _MOST * len(values)


def _is_number(value: object) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _plain(name: object) -> str:
    return str(name).strip().lower().replace("-", "_").replace(" ", "_")
