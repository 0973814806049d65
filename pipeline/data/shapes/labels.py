"""Whether an answer is wanted: the labels of rows for KTO, however they are named and written."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Any

from pipeline.data.shapes.fields import BadRow

# What can be nothing else (TRL has label, LLaMA-Factory kto_tag or a name of one's own), and what may also be a class.
NAMES = {"kto_tag", "kto_label", "desirable", "is_desirable", "is_good", "is_chosen", "is_preferred", "is_wanted"}
NAMES |= {"thumbs_up", "liked", "is_correct", "is_accepted"}
POSSIBLE_NAMES = {"label", "tag", "feedback", "rating", "verdict", "thumbs", "good", "wanted", "preferred", "accepted"}
POSSIBLE_NAMES |= {"chosen", "correct", "评价", "評價", "标签", "標籤", "好坏", "反馈"}
# Of these true says that the answer is not wanted.
OPPOSITE = {
    "is_bad",
    "is_rejected",
    "is_undesirable",
    "is_unwanted",
    "is_wrong",
    "is_incorrect",
    "is_disliked",
    "disliked",
}
OPPOSITE |= {"undesirable", "thumbs_down"}
POSSIBLE_OPPOSITE = {"bad", "rejected", "unwanted", "wrong", "incorrect"}
NAMES |= OPPOSITE
POSSIBLE_NAMES |= POSSIBLE_OPPOSITE
YES, NO = {"true", "yes", "1", "+1", "是"}, {"false", "no", "0", "-1", "否"}
WANTED_WORDS = {
    "good",
    "chosen",
    "accepted",
    "desirable",
    "desired",
    "wanted",
    "preferred",
    "correct",
    "好",
    "对",
    "赞",
    "正确",
}
WANTED_WORDS |= {"thumbs up", "thumb up", "up", "like", "liked", "upvote", "upvoted", "👍", "喜欢"}
UNWANTED_WORDS = {
    "bad",
    "rejected",
    "undesirable",
    "undesired",
    "unwanted",
    "dispreferred",
    "incorrect",
    "坏",
    "错",
    "踩",
    "错误",
}
UNWANTED_WORDS |= {
    "thumbs down",
    "thumb down",
    "down",
    "dislike",
    "disliked",
    "downvote",
    "downvoted",
    "👎",
    "不好",
    "不喜欢",
}
# What a text about which the row asks may be as well; of a judgment, which these names have, it is plain.
MOODS = {"positive": True, "pos": True, "negative": False, "neg": False}
JUDGMENTS = {"feedback", "rating", "verdict", "thumbs"}
SAYS_UNWANTED = "labeled as unwanted"  # how the reason begins
_MOST = 0.8  # of the values; beside them a few may be slips


class Unwanted(BadRow):
    """A row that says of itself that its answer is not to be learned."""


def is_wanted(value: object, field: object = "label") -> bool | None:
    """What a label says; None where it is none."""
    yes = not _says_unwanted(field)
    if isinstance(value, int | float):
        return {-1: not yes, 0: not yes, 1: yes}.get(int(value)) if value in (-1, 0, 1) else None
    words = _plain(value).replace("_", " ").removesuffix(".0") if isinstance(value, str) else ""
    if words in YES | NO:
        return (words in YES) == yes
    return True if words in WANTED_WORDS else False if words in UNWANTED_WORDS else MOODS.get(words)


@lru_cache
def _says_unwanted(field: object) -> bool:
    """Where it says yes."""
    return _plain(field) in OPPOSITE | POSSIBLE_OPPOSITE


@lru_cache
def may_be_label(field: object) -> bool:
    """By its name."""
    return _plain(field) in NAMES | POSSIBLE_NAMES


def find_label_fields(rows: Iterable[object], mapped: Collection[str] = ()) -> frozenset[str]:
    """The fields of a file's rows that are labels; `mapped` are those that data.columns names.

    A label or a tag may as well be the class that a text is of: it is one of these only where nearly all of its values
    say wanted or unwanted, which cannot be told from a single row.
    """
    found: dict[str, list] = defaultdict(list)
    for row in rows:
        if not isinstance(row, dict):
            continue
        for field in row:
            if may_be_label(field):
                found[field].append(row[field])
    return frozenset(
        field
        for field, values in found.items()
        if _plain(field) in NAMES or field in mapped or _are_labels(field, values)
    )


def taken_for_classes(rows: Iterable[object], label_fields: Collection[str]) -> dict[str, list]:
    """The fields that may be labels and are taken for something else, with their values: two of which one says whether
    an answer is wanted, or grades."""
    found: dict[str, dict] = defaultdict(dict)
    for row in rows:
        for field, value in row.items() if isinstance(row, dict) else ():
            if may_be_label(field) and field not in label_fields and isinstance(value, str | int | float):
                found[field][value] = None
    return {
        field: list(values)
        for field, values in found.items()
        if (len(values) == 2 and any(isinstance(value, str) and is_wanted(value) is not None for value in values))
        or (len(values) > 2 and _plain(field) in JUDGMENTS and all(map(_is_number, values)))
    }


def label_fields_of_row(row: dict, label_fields: Collection[str]) -> list[str]:
    """The fields of a row that are labels: those that the file's rows have for it, and what is one beyond doubt."""
    return [
        field
        for field, value in row.items()
        if field in label_fields or _is_surely_label(field, isinstance(value, bool))
    ]


def check_wanted(row: dict, label_fields: Collection[str]) -> None:
    """Raises BadRow where a label cannot be understood, Unwanted where one says so."""
    for field, shown, said in _labels(row, label_fields):
        if not said:
            raise Unwanted(f'{SAYS_UNWANTED} ("{field}" is {shown}): not something to learn')


def wanted(row: dict, label_fields: Collection[str]) -> bool | None:
    """What the labels of a row say; None where it has none.

    Raises BadRow where they cannot be understood, or differ.
    """
    found = list(_labels(row, label_fields))
    if len({said for *_, said in found}) > 1:
        told = " and ".join(f'"{field}" is {shown}' for field, shown, _ in found)
        raise BadRow(f"its labels differ: {told}")
    return found[0][-1] if found else None


def _labels(row: dict, label_fields: Collection[str]) -> Iterator[tuple[str, str, bool]]:
    """(field, its value as it is shown, whether that says wanted)."""
    for field in label_fields_of_row(row, label_fields):
        said, shown = is_wanted(row[field], field), json.dumps(row[field], ensure_ascii=False, default=str)
        if said is None:
            yes, no = ("false, 0", "true, 1") if _says_unwanted(field) else ("true, 1, good", "false, 0, bad")
            raise BadRow(f'"{field}" is {shown}; a label says wanted ({yes}) or unwanted ({no})')
        yield field, shown, said


@lru_cache
def _is_surely_label(field: object, is_bool: bool) -> bool:
    return _plain(field) in (NAMES | POSSIBLE_NAMES if is_bool else NAMES)


def _are_labels(field: object, values: list) -> bool:
    values = [value for value in values if value is not None]
    if any(isinstance(value, bool) for value in values):
        return True
    numbers = {float(value) for value in values if _is_number(value)}
    if not (numbers <= {0, 1} or numbers <= {-1, 1}):  # there are more classes than two
        return False
    plain = [value for value in values if _plain(field) in JUDGMENTS or _plain(value) not in MOODS]
    return bool(plain) and sum(is_wanted(value) is not None for value in plain) >= _MOST * len(values)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _plain(name: object) -> str:
    return str(name).strip().lower().replace("-", "_").replace(" ", "_")
