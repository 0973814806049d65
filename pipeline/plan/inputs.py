"""What goes into the fingerprint of a stage: everything that says *what* is trained, and nothing of how.

`Inputs.of` is the list. Two runs with the same inputs are the same artifact; a key that is left at its default must leave
them as they were, so that artifacts made before it came stay up to date.
"""

from hashlib import sha256
from pathlib import Path

from pipeline.artifact.digests import Digests, canonical, difference
from pipeline.data.read.files import DECIDING, container, files_of
from pipeline.data.source import Data, Part, Rows
from pipeline.data.tokens.template_files import named
from pipeline.errors import PipelineError
from pipeline.hub import data_set, known_commit
from pipeline.model.adapters import METHODS, method_of
from pipeline.model.base import Base
from pipeline.plan.step import Parent, Step
from pipeline.recipe.fields import fields_of, hashed
from pipeline.recipe.going_on import is_full, unchangeable
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.rewards import Named
from pipeline.stage import specs


class Inputs:
    """The inputs of the stages of one recipe."""

    def __init__(self, recipe: Recipe, folder: Path, digests: Digests):
        self.recipe, self.folder, self.digests = recipe, folder, digests  # `folder` is the recipe's own in runs/

    def of(self, name: str, parent: Parent | None, base: Base, given: dict, reward: Parent | None) -> dict:
        recipe, data = self.recipe, self.recipe.stage(name).data
        adapter: object = "all weights" if self.trains_model(name, parent) else "the parent's"
        if adapter == "the parent's" and (parent is None or parent.is_model):
            fields = self._adapter(name)
            method = METHODS[fields.pop("method")]
            adapter = {"method": method.name} | hashed(method.config, fields)
        model: dict = {"dtype": recipe.model.dtype, "load_in_4bit": recipe.model.load_in_4bit}
        if parent is None:  # what comes after inherits them
            template = recipe.model.template
            model |= {
                "template": sha256(named(template).encode()).hexdigest() if template else None,
                "pad_token": recipe.model.pad_token,
            }
        return {
            "stage": name,
            "policy": parent.sha256 if parent else None,
            **(self._reward_inputs(name, reward) if specs()[name].rewarded_by else {}),
            "base": base.identity,
            "model": model,
            "adapter": adapter,
            **({"adapter_changes": changes} if (changes := self._changed_adapter(name, parent)) else {}),
            "data": {
                **self.contents(name),
                **({"mixture": [self._part(part) for part in data.mixture]} if data.mixture else {}),
                "on_bad_row": data.on_bad_row,
                "on_too_long": data.on_too_long,
                **data.unusual(),
            },
            "train": hashed(specs()[name].config, given, specs()[name].trained),
            "seed": recipe.seed,
        }

    def contents(self, name: str) -> dict:
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
                found.append((path, one.at(known_commit(one, self.folder))))
            else:
                suffix = container(path) if container(path) in DECIDING else ""
                found.append((path, self.digests.of(Path(path)) + suffix))
        return found

    def _part(self, part: Part) -> dict:
        """How many of the files a part of a mixture has, and how they are read."""
        return {"files": len(files_of(part)), **part.unusual()}

    def _held_out(self, data: Data) -> float | str | list[str] | dict:
        """A share as it is; a file by its digest, as ever, and several by theirs; of a split also its name."""
        rows = data.held_out_rows
        if not rows:
            return data.held_out
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

    def _reward_inputs(self, name: str, reward: Parent | None) -> dict:
        what: dict = {"reward": reward.sha256 if reward else None, "reward_function": None}
        functions = {one.key: self._reward_function(one) for one in self.recipe.stage(name).rewards}
        if "reward_function" in functions:
            return what | functions
        # By what they are: what the log calls them is no reason to train again.
        return what | ({"reward_functions": list(functions.values())} if functions else {})

    def _reward_function(self, named: Named) -> dict:
        if judge := named.built_in:
            return {"built_in": named.function, "options": judge.model_dump(mode="json"), "weight": named.weight}
        file, _, function = named.function.rpartition(":")
        return {"sha256": self.digests.of(Path(file)), "name": function, "weight": named.weight}

    def evaluation_sha256(self, name: str) -> str:
        """What the figures depend on beside the weights."""
        evaluation = self.recipe.stage(name).evaluation
        what = evaluation.model_dump(exclude={"batch_size"})
        if evaluation.score_function:
            what["score_function"] = self.digests.of(Path(evaluation.score_function.rpartition(":")[0]))
        return sha256(canonical(what)).hexdigest()

    def evaluation_changes(self, name: str, was: dict) -> list[str]:
        """What is measured otherwise than with the settings `was`, one line a key; of a function its file, where no key is."""
        now = self.recipe.stage(name).evaluation.model_dump(exclude={"batch_size"})
        was = {key: value for key, value in was.items() if key != "batch_size"}
        file = str(now["score_function"]).rpartition(":")[0]
        return list(difference(was, now, "evaluation")) or [f"content of {file}"]

    def trains_model(self, name: str, parent: Parent | None) -> bool:
        """Whether the stage trains every weight, not an adapter."""
        if parent is None and self.recipe.model.config is not None:
            if specs()[name].rewarded_by:
                raise PipelineError(
                    f"{name}: has no policy to start from: a model made from model.config has learned nothing yet.",
                    "Add a stage before it, such as sft, or name a policy.",
                )
            return True  # from scratch: there is nothing to adapt
        full = is_full(self._adapter(name)["method"])
        if full and specs()[name].rewarded_by:
            if parent and not parent.is_model:
                return False  # the parent's adapter goes on, whatever the rest of the recipe tunes
            raise PipelineError(
                f"{name}: adapter.method full: its roles share one frozen base, so it trains an adapter.",
                f"Give stages.{name}.adapter: {{method: lora}}.",
            )
        self._check_several(name, parent)
        if full and parent and not parent.is_model:
            raise PipelineError(
                f"{name}: adapter.method full on top of the adapter of {parent.stage or parent.folder}: that would have "
                "to be merged into the base first, and nothing is ever merged on the way.",
                "Use full tuning in every stage, or an adapter in this one.",
            )
        return full

    def _check_several(self, name: str, parent: Parent | None) -> None:
        """Refuse a stage that needs several adapters on one base where the method allows one."""
        spec, goes_on = specs()[name], parent is not None and not parent.is_model
        method = (
            method_of(parent.adapter_config.get("peft_type", "")) if goes_on else METHODS[self._adapter(name)["method"]]
        )
        if method and not method.beside and not method.whole and spec.rewarded_by:
            raise PipelineError(
                f"{name}: of method {method.name} only one adapter can stand on a base, and here reference and reward "
                "stand on it beside the policy.",
                "Set adapter.method: lora.",
            )

    def check_adapter(self, name: str, parent: Parent | None, above: Step | None) -> None:
        """Refuse what a stage says of its adapter where an adapter goes on that has it otherwise.

        Between stages of the recipe that was done when it was read.
        """
        if not parent or parent.is_model or (above and self.recipe.incoming_adapter(name)[0]):
            return
        has, own = parent.adapter_config, self.recipe.own_adapter(name)
        method, wanted = method_of(has.get("peft_type", "")), self._adapter(name)["method"]
        if method is None or (own and wanted != method.name):
            is_ = method.name if method else str(has.get("peft_type"))
            raise PipelineError(
                f"{self.recipe.path}: stages.{name}: the adapter {parent.folder} goes on here, whose method is {is_}"
                + ("." if method is None else f", not {wanted}."),
                f"Name one of {', '.join(one.name for one in METHODS.values() if one.config)}."
                if method is None
                else f"Leave stages.{name}.adapter out, or give the method {is_}.",
            )
        fields = fields_of(method.config)
        for key, value in own.items():
            if key in (*method.changeable, "method"):
                continue
            goes_on = has.get(key, fields[key].default)
            if _unordered(fields[key].normalized(value)) != _unordered(fields[key].normalized(goes_on)):
                what = unchangeable(key, goes_on, f"the adapter {parent.folder}", method.name)
                raise PipelineError(
                    f"{self.recipe.path}: stages.{name}.adapter.{key}: {what}",
                    f"A new adapter is made where {name} starts from a base: without a policy.",
                )

    def _changed_adapter(self, name: str, parent: Parent | None) -> dict:
        """What a stage sets on the adapter of its parent that goes on, as far as that has it otherwise."""
        if not parent or parent.is_model:
            return {}
        own, has = self.recipe.own_adapter(name), parent.adapter_config
        method = method_of(has.get("peft_type", ""))
        keys = method.changeable if method else ()
        return {key: float(own[key]) for key in keys if key in own and own[key] != has.get(key)}

    def _adapter(self, name: str) -> dict:
        return dict(self.recipe.stage(name).adapter)

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


def reference_key(inputs: dict) -> str:
    """What a frozen reference's log-probabilities of the rows depend on: its weights, the rows, the length they are cut to."""
    what = {key: inputs[key] for key in ("policy", "base", "model", "data")}
    what |= {key: inputs["train"].get(key) for key in ("max_length", "ld_alpha")}
    return f"reference-{sha256(canonical(what)).hexdigest()[:12]}"


def _unordered(value: object) -> object:
    return sorted(map(str, value)) if isinstance(value, list) else value
