"""What a stage was set to, by the inputs of its artifact: what differs from the defaults, and all the rest."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from pipeline.model.adapters import METHODS
from pipeline.recipe.fields import fields_of
from pipeline.stage import specs


@dataclass(frozen=True)
class Setting:
    section: str  # "train", "adapter" or "model"; empty for what stands in none
    name: str
    value: object
    default: object = None

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}" if self.section else self.name


def differing(stage: str, inputs: Mapping, always: Collection[str] = ()) -> Iterator[Setting]:
    """What of `train` and `adapter` is other than the default of TRL or PEFT; `always` are told also where they are not."""
    spec = specs().get(stage)
    if spec:
        yield from _differing("train", spec.config, inputs["train"], ())
    adapter = inputs.get("adapter")
    method = METHODS.get(adapter.get("method")) if isinstance(adapter, dict) else None
    if method and not method.whole:
        yield from _differing("adapter", method.config, adapter, always)


def _differing(section: str, config: str, values: Mapping, always: Collection[str]) -> Iterator[Setting]:
    known = fields_of(config)
    for name, value in values.items():
        if name in known:
            default = known[name].normalized(known[name].default)
            if value != default or name in always:
                yield Setting(section, name, value, default)


def every(inputs: Mapping) -> Iterator[Setting]:
    """Each key that says what is trained; digests of files and parents are told elsewhere."""
    for section in ("model", "adapter", "train"):
        values = inputs.get(section)
        if isinstance(values, Mapping):
            yield from (Setting(section, name, value) for name, value in values.items())
        elif values is not None:
            yield Setting("", section, values)
    yield Setting("", "seed", inputs.get("seed"))


def shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value)
