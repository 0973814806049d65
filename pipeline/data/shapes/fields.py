"""The fields of a row: taken as what they must be, or the reason in words why they cannot be."""

import json
from collections.abc import Mapping


class BadRow(ValueError):
    """A row that cannot be trained on; its text is the reason."""


def text(row: dict, field: str, where: str = "") -> str:
    """A field that must have words in it."""
    value = row.get(field)
    if field not in row:
        raise BadRow(f'{where}has no "{field}"; its fields are {names(row)}')
    if not isinstance(value, str):
        raise BadRow(f'{where}"{field}" is {type_of(value)}, not text')
    if not value.strip():
        raise BadRow(f'{where}"{field}" is empty')
    return value


def optional_text(row: dict, field: str) -> str:
    """A field that may be missing, null or blank: it is then empty."""
    value = row.get(field)
    return "" if value is None or (isinstance(value, str) and not value.strip()) else text(row, field)


def first_present(row: dict, *fields: str) -> str:
    """The first of some fields that a row has; of those that it lacks, the first."""
    return next((field for field in fields if field in row), fields[0])


def from_json(value: object, what: str) -> object:
    """A value that may have been written as JSON text into a text field."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # also of a number with more digits than Python takes
        raise BadRow(f"{what} is not valid JSON") from None


def renamed(row: dict, columns: Mapping[str, str]) -> dict:
    """The row with the names that `columns` ({expected name: the file's name}) gives its fields."""
    for expected, there in columns.items():
        if there not in row:
            raise BadRow(f'has no "{there}", which data.columns maps to "{expected}"; its fields are {names(row)}')
    taken = {*columns, *columns.values()}
    rest = {field: value for field, value in row.items() if field not in taken}
    return {expected: row[there] for expected, there in columns.items()} | rest


def names(row: dict) -> str:
    more = f" and {len(row) - 12} more" if len(row) > 12 else ""
    return (", ".join(map(repr, list(row)[:12])) or "none") + more


def type_of(value: object) -> str:
    types = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true/false",
        int: "a number",
        float: "a number",
    }
    return "null" if value is None else "an empty list" if value == [] else types.get(type(value), "unreadable")
