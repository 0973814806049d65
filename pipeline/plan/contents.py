"""What is in the files of the stages: what stands for their rows in a fingerprint, and which file it is of."""

from pathlib import Path

from pipeline.artifact.digests import Digests
from pipeline.data.read.files import DECIDING, container, files_of
from pipeline.data.source import Data, Rows
from pipeline.hub import data_set, known_commit
from pipeline.recipe.recipe import Recipe


class Contents:
    """Digests and commits of the data of one recipe."""

    def __init__(self, recipe: Recipe, folder: Path, digests: Digests):
        self.recipe, self.folder, self.digests = recipe, folder, digests  # `folder` is the recipe's own in runs/

    def of(self, name: str) -> dict:
        """What is in the files of a stage: digests and commits, which stand for its rows."""
        data = self.recipe.stage(name).data
        return {
            "files": [what for part in data.parts for _, what in self.identities(part)],
            "held_out": self._held_out(data),
        }

    def identities(self, rows: Rows) -> list[tuple[str, str]]:
        """(path, what its rows are): a data set of the hub by its commit, which has to be known; a file by its digest.

        The digest does not tell how a file is read: where the suffix does, it is added.
        """
        found = []
        for path in files_of(rows):
            if one := data_set(path, rows.revision):
                found.append((path, one.at(str(known_commit(one, self.folder)))))
            else:
                suffix = container(path) if container(path) in DECIDING else ""
                found.append((path, self.digests.of(Path(path)) + suffix))
        return found

    def _held_out(self, data: Data) -> float | str | list[str] | dict:
        """A share as it is; a file by its digest, as ever, and several by theirs; of a split also its name."""
        if isinstance(data.held_out, float):
            return data.held_out
        rows = data.held_out_rows
        assert rows is not None  # only a share has none of its own
        digests = [what for _, what in self.identities(rows)]
        if rows.config is not None or rows.split is not None:
            return {"files": digests, "config": rows.config, "split": rows.split}
        return digests[0] if len(digests) == 1 else digests

    def files(self, name: str, inputs: dict) -> dict[str, str]:
        """By their paths in the recipe what the files of a stage were when it was planned; none is read again."""
        data, held_out = self.recipe.stage(name).data, inputs["data"]["held_out"]
        held_out = held_out["files"] if isinstance(held_out, dict) else held_out
        own = ([held_out] if isinstance(held_out, str) else held_out) if data.held_out_rows else []
        paths = [path for rows in data.sources for path in files_of(rows)]
        return dict(zip(paths, [*inputs["data"]["files"], *own], strict=True))

    def renamed(self, name: str, change: str) -> str:
        """A changed file by its path, not by its number in the list of digests."""
        data = self.recipe.stage(name).data
        paths = {
            f"data.files[{number}]": path
            for number, path in enumerate(file for part in data.parts for file in files_of(part))
        }
        if data.held_out_rows:
            held_out = files_of(data.held_out_rows)
            paths |= {f"data.held_out[{number}]": path for number, path in enumerate(held_out)}
            paths |= {f"data.held_out.files[{number}]": path for number, path in enumerate(held_out)}
            paths["data.held_out"] = ", ".join(data.held_out_rows.paths)
        key, _, values = change.partition(": ")
        return f"content of {paths[key]}: {values}" if key in paths else change

    def unknown(self, name: str) -> list[str]:
        """The data sets of a stage whose commit only the hub can tell."""
        sets = self.recipe.stage(name).data.data_sets()
        return list(dict.fromkeys(f"hub:{one.name}" for one in sets if not known_commit(one, self.folder)))
