"""Another tool's file on its way to a recipe: each of its keys is put somewhere, or it is said why not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import stage
from pipeline.errors import PipelineError
from pipeline.recipe import foreign, yaml_lines
from pipeline.recipe.fields import fields_of
from pipeline.recipe.mistakes import contradictions
from pipeline.recipe.owned import OWNED

Place = tuple[str, ...]
BY_DEFAULT = "its default there"
REST = "says what another key says, or what is done here anyway"


# Of those that nothing here corresponds to, the ones that are on there where a file does not say otherwise.
_ON_THERE = frozenset("double_quantization enable_thinking shuffle_merged_datasets".split())


class Dropped(NamedTuple):
    """A key that is in no recipe. `line` is 0 where its default is meant, or another file has it; `lost` is what trains otherwise
    without it.
    """

    line: int
    key: str
    value: object
    why: str
    lost: bool = False


@dataclass
class Translation:
    """The recipe so far, and what is to be said of it. `of` is the other tool's name."""

    of: str
    source: yaml_lines.Source
    tree: dict = field(default_factory=dict)
    origins: dict[Place, str] = field(default_factory=dict)  # where a value came from
    defaults: dict[Place, Any] = field(default_factory=dict)  # what the other tool does unasked, where it was put
    means: list[str] = field(default_factory=list)  # what is the same key and another thing
    to_do: list[str] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    off: list[str] = field(default_factory=list)  # keys that were empty, or off
    stage: str = ""

    @property
    def given(self) -> Mapping[str, Any]:
        return self.source.value if isinstance(self.source.value, dict) else {}

    def value(self, key: str, default: Any = None) -> Any:
        found = self.given.get(key)
        return default if found is None else found

    def put(self, place: str, value: object, key: str | None = None) -> None:
        """`train.beta` and its like are the stage's. Without a key the value is what the other tool does unasked."""
        path = tuple(place.split("."))
        if path[0] in ("train", "data", "policy", "evaluation", "reward", "reward_functions"):
            path = ("stages", self.stage, *path)
        inside = self.tree
        for part in path[:-1]:
            inside = inside.setdefault(part, {})
        inside[path[-1]] = value
        if key is None or key not in self.given:
            self.origins[path], self.defaults[path] = BY_DEFAULT, value
            return
        before = self.origins.get(path, BY_DEFAULT).partition(" (")[0].split(", ")
        both = [one for one in before if one in self.given and one != key]  # several keys may say one value together
        self.origins[path] = self._origin(", ".join([*both, key]), key)

    def _origin(self, said: str, key: object) -> str:
        """What said it, and where: a line of the file, or of another that it names."""
        mark = self.source.mark([key])
        return f"{said} (line {mark})" if isinstance(mark, int) else f"{said} ({mark})"

    def said_once(self, what: str) -> None:
        """What means something else for each of several data sets."""
        if what not in self.means:
            self.means.append(what)

    def begin(self, name: str, *keys: str) -> None:
        """The stage, and the keys that say so."""
        self.stage = name
        self.tree.setdefault("stages", {})[name] = {}
        if said := [key for key in keys if self.value(key)]:
            self.origins["stages", name] = self._origin(", ".join(said), said[0])

    def policy(self, key: str, folder: object) -> None:
        """Where the training goes on from; a recipe names no folder that is not there."""
        if Path(str(folder)).expanduser().is_dir():
            self.put("policy", str(folder), key)
        else:
            self.to_do.append(
                f"{key}: {folder} is not there from here: name the adapter's folder as stages.{self.stage}.policy. Without "
                "it the stage begins from the base."
            )
            self.drop(key, "no such folder; see above")

    def renamed(self, key: str, place: str, value: object) -> None:
        """A key that says the same here at another place."""
        self.put(place, value, key)

    def looked_at(self, key: str, value: object) -> None:
        """A key that was read with others, whose place is said by now; switched off, it has none."""
        if value is False:
            self.off.append(key)

    def warmup(self, ratio: object) -> None:
        """`warmup_ratio`, which all of them have: below 1 train.warmup_steps is a share of all steps, too."""
        if self.value("warmup_steps"):
            self.drop("warmup_ratio", "warmup_steps is there, and goes before it")
        else:
            self.put("train.warmup_steps", ratio, "warmup_ratio")

    def share_held_out(self, key: str) -> None:
        """What LLaMA-Factory and Axolotl hold out of the rows themselves: a share where it is below 1, else a number of them."""
        size = self.value(key, 0)
        if not isinstance(size, int | float):
            self.drop(key, "is no number", lost=True)
        elif 0 < size < 1:
            self.put("data.held_out", size, key)
        elif size:
            self.drop(key, "see above")
            self.to_do.append(
                f"{key}: {size}: a number of rows there; data.held_out is a share of them, {size} over how many there are. It is "
                "0.05 where nothing is said."
            )
        elif key in self.given:
            self.drop(key, "none were held out there; see above")

    @property
    def told(self) -> set[str]:
        """The keys of the file of which it is said what became of them."""
        taken = (name for origin in self.origins.values() for name in origin.partition(" (")[0].split(", "))
        dropped = (name for one in self.dropped for name in str(one.key).split(", "))
        return {*taken, *dropped, *map(str, self.off)}

    def tell_rest(self) -> None:
        """Of keys that were only looked at beside others: no key of the file goes without a word."""
        for key in self.given:
            if str(key) not in self.told:
                self.drop(key, REST)

    def drop(self, key: str, why: str, *, lost: bool = False) -> None:
        self.dropped.append(Dropped(self.source.line([key]), key, self.given.get(key), why, lost))

    @property
    def config(self) -> str:
        return stage.specs()[self.stage].config

    def has(self, name: str) -> bool:
        """Whether the stage's trainer has such a field."""
        return name in fields_of(self.config) and name not in OWNED

    def pass_on(self, key: str, value: object) -> None:
        """A key that needs no care of its own: a field of TRL's, or one that is known not to be."""
        if self.has(key):
            complaint = fields_of(self.config)[key].complaint(value)
            if complaint:
                self.drop(key, complaint, lost=True)
            else:
                self.put(f"train.{key}", value, key)
        elif value is False and key not in _ON_THERE:
            self.off.append(key)
        else:
            known = OWNED.get(key) or foreign.answer(key)
            self.drop(key, known or self._why(key, value), lost=not known or foreign.trains_otherwise(key))

    def _why(self, key: str, value: object) -> str:
        meant = foreign.nearest_key(key, "", value)
        if meant != key:
            note = foreign.note(key, value)
            return f"is not translated; {meant} comes nearest{f' ({note})' if note else ''}"
        having = [name for name, spec in stage.specs().items() if key in fields_of(spec.config)]
        if having:
            return f"is no field of this stage's trainer ({', '.join(having)} have it)"
        return f"is no key that is known of {self.of}; look it up before you train"

    def each(self, handlers: Mapping[str, Callable[[object], None]]) -> None:
        """Every key of the file in its order: by its own handler, or passed on."""
        for key, value in self.given.items():
            if value is None or value == "" or value == [] or value == {}:
                self.off.append(key)
            elif key in handlers:
                try:
                    handlers[key](value)
                except (TypeError, ValueError, AttributeError, StopIteration):
                    self.drop(str(key), f"such a value is not known of {self.of}", lost=True)
            else:
                self.pass_on(str(key), value)

    def settle(self) -> None:
        """Take out what the recipe would refuse, and say so: a field that would have no effect, a value of another kind."""
        model = self.tree.get("model", {})
        if model.get("dtype") == "float32" and str(model.get("attn_implementation")).startswith("flash_attention_"):
            self._remove(("model", "attn_implementation"), "takes no float32; transformers chooses")
        while refused := [problem for problem in contradictions(self.tree) if self._removable(problem[0])]:
            for path, what in refused:
                if self._removable(path):
                    self._remove(tuple(map(str, path)), what)

    def _removable(self, path: tuple) -> bool:
        inside: object = self.tree
        for part in path:
            if not isinstance(inside, dict) or part not in inside:
                return False
            inside = inside[part]
        return "train" in path[:-1] or (path[:1] == ("adapter",) and len(path) > 1 and path[-1] != "method")

    def _remove(self, path: Place, what: str) -> None:
        inside = self.tree
        for part in path[:-1]:
            inside = inside[part]
        value, origin = inside.pop(path[-1]), self.origins.pop(path, BY_DEFAULT)
        if self.defaults.get(path, value) != value:  # rather than ours, where the other tool has one
            inside[path[-1]], self.origins[path] = self.defaults[path], BY_DEFAULT
        key = origin.partition(" (")[0]
        if origin != BY_DEFAULT:
            line = self.source.line([key.partition(", ")[0]])
            lost = path[0] == "adapter" or self._is_wrong(path, value)
            self.dropped.append(Dropped(line, key, value, f"as {'.'.join(path)}: {what}", lost))

    def _is_wrong(self, path: Place, value: object) -> bool:
        """Whether a value is none that its field of `train` takes; others have no effect, which loses nothing."""
        found = fields_of(self.config).get(path[-1]) if "train" in path else None
        return bool(found and found.complaint(value))


def text_of(path: Path) -> str:
    """What stands in a file of another tool. Raises PipelineError for one that cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise PipelineError(f"{path}: cannot be read: {reason}.", "Name the YAML file of the other tool.") from None


def read(path: Path, text: str) -> yaml_lines.Source:
    """Raises PipelineError for what is no mapping of keys."""
    source = yaml_lines.load(text, str(path))
    if source.problems:
        where, what = source.problems[0]
        raise PipelineError(f"{source.place(where)}: {what}", "Mend that line first.")
    if not isinstance(source.value, dict):
        raise PipelineError(f"{path}: is no mapping of keys.", "Name the YAML file of the other tool.")
    return source
