"""By which of its fields a row says whether its answer is wanted, told by the rows of its file."""

from collections import defaultdict
from collections.abc import Iterable

from pipeline.data.read.reader import Row
from pipeline.data.shapes.fields import renamed
from pipeline.data.shapes.labels import find_label_fields, may_be_label
from pipeline.data.source import Source


class LabelFields:
    """Those of each file of a source: told by the first of its rows that have them."""

    def __init__(self, source: Source):
        self.source = source
        self._known: dict[str, dict[str, bool]] = {}  # by file: a field, and whether it is a label

    def of(self, rows: Iterable[Row]) -> dict[str, frozenset[str]]:
        """By file, what is known after these rows as well."""
        by_file: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_file[row.file].append(row)
        for file, some in by_file.items():
            known, values = self._known.setdefault(file, {}), [row.value for row in some if isinstance(row.value, dict)]
            told = {name for value in values for name in value if may_be_label(name) and value[name] is not None}
            told |= {name for name in self.source.columns if may_be_label(name)}
            if new := told - known.keys():
                found = label_fields_in(some, self.source)
                known |= {name: name in found for name in new}
        return {file: frozenset(name for name, is_one in self._known[file].items() if is_one) for file in by_file}


def label_fields_in(rows: Iterable[Row], source: Source) -> frozenset[str]:
    """As the first rows of a source tell, by their names in data.columns."""
    columns = source.columns
    values = (row.value for row in rows if not row.problem and isinstance(row.value, dict))
    named = (renamed(value, columns) for value in values if set(columns.values()) <= value.keys())
    return find_label_fields(named, columns)
