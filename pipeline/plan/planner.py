"""What a command would do, and why: decided from the recipe, the data and the artifacts, without torch or a network."""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from pipeline.artifact.attempt import Attempt, all_attempts, attempts
from pipeline.artifact.digests import Digests, canonical, difference, fingerprint, weights_sha256
from pipeline.artifact.lock import held
from pipeline.artifact.manifest import MANIFEST
from pipeline.data.read.files import DECIDING, container, files_of
from pipeline.data.source import Data, Part, Rows
from pipeline.data.tokens.template import named
from pipeline.errors import PipelineError
from pipeline.hub import data_set, known_commit, settle
from pipeline.model import backend
from pipeline.model.backend import Backend
from pipeline.model.base import Base, base_of, made_for, repository_of, shown
from pipeline.plan import graph, trackers
from pipeline.plan.parents import bases_of, where_it_lies
from pipeline.plan.step import CONTINUE, EVALUATE, RUN, RUNNING, UP_TO_DATE, Parent, Step
from pipeline.recipe import function
from pipeline.recipe.fields import LORA, fields_of, what
from pipeline.recipe.going_on import CHANGEABLE, unchangeable
from pipeline.recipe.recipe import Recipe
from pipeline.stage import specs


class Planner:
    """Plans the stages of one recipe over one runs folder."""

    def __init__(self, recipe: Recipe, runs: Path, policy: str | None = None, *, remember: bool = True):
        self.recipe = recipe
        self.runs = runs
        self.folder = runs / recipe.name
        self.policy = policy  # overrides the parent of the first goal
        self.digests = Digests(runs / ".digests.json" if remember else None)
        self._named: Base | None = None

    def overridden(self, goals: Iterable[str]) -> str | None:
        """The stage that starts from the policy given on the command line: the first of the goals."""
        return next(name for name in specs() if name in set(goals)) if self.policy else None

    def plan(self, goals: Iterable[str], fresh: Iterable[str] = ()) -> list[Step]:
        """The goals and what they stand on, parents first; those in `fresh` get another attempt.

        Raises PipelineError for what cannot be run.
        """
        self._named = None  # what it was may have changed since the last plan
        overridden = self.overridden(goals)
        names = graph.ordered(self.recipe, goals, overridden)
        self._check_data(names)
        steps: dict[str, Step] = {}
        for name in names:
            above = self.recipe.parent(name) if name != overridden else None
            step = self.step(
                name,
                steps.get(above),
                steps.get(self.recipe.reward(name)),
                fresh=name in fresh,
                policy=self.policy if name == overridden else None,
            )
            steps[name] = replace(step, why=f"{step.why}; {step.note}") if step.note else step
        self.digests.save()
        self._check_trackers(steps.values())
        return list(steps.values())

    def step(
        self,
        name: str,
        above: Step | None,
        rewarding: Step | None = None,
        *,
        fresh: bool = False,
        policy: str | None = None,
    ) -> Step:
        """One stage, given the steps of its parent stage and of its reward model's."""
        if first := [step.stage for step in (above, rewarding) if step and step.state in (RUN, CONTINUE, RUNNING)]:
            return Step(
                name, RUN, f"after {' and '.join(first)}", after=first[0], backend=self._backend(name, above, policy)
            )
        parent = self._parent(name, above, policy)
        base = self._base(parent)
        note = self._check_base(name, parent) if parent and not above else ""
        reward = self._reward(name, rewarding, base)
        if base.identity is None:
            chosen = self._backend(name, above, policy, base)
            return Step(name, RUN, "the base's commit is resolved at run", base=base, parent=parent, backend=chosen)
        if unknown := self._unknown(name):
            chosen = self._backend(name, above, policy, base)
            why = f"the commit of {', '.join(unknown)} is resolved at run"
            return Step(name, RUN, why, base=base, parent=parent, backend=chosen)
        given = self.recipe.given(name, full=self.trains_model(name, parent))
        self._check_adapter(name, parent, above)
        inputs = self._inputs(name, parent, base, given, reward)
        common = {"inputs": inputs, "parent": parent, "base": base, "given": given, "reward": reward, "note": note}
        backend_of = partial(self._backend, name, above, policy, base)
        stage_folder = self.folder / name
        tries = attempts(stage_folder, fingerprint(inputs))
        newest, finished = (tries[-1] if tries else None), [one for one in tries if one.finished]
        if fresh and tries and (newest.finished or newest.number == 1):
            made = Attempt(stage_folder / f"{fingerprint(inputs)}-{newest.number + 1}")
            return Step(
                name,
                RUN,
                f"FRESH: attempt {made.number}, beside {newest.folder.name}",
                attempt=made,
                backend=backend_of(),
                **common,
            )
        if finished and not fresh:
            return self._finished(name, finished[-1], common, backend_of)
        if newest:
            return self._unfinished(name, newest, common | {"backend": backend_of()})
        why, changes = self._why(stage_folder, inputs)
        made = Attempt(stage_folder / fingerprint(inputs))
        return Step(name, RUN, why, changes, attempt=made, backend=backend_of(), **common)

    def _finished(self, name: str, attempt: Attempt, common: dict, backend_of: Callable[[], Backend]) -> Step:
        attempt.check_sizes()
        if attempt.manifest["evaluation"]["sha256"] != self.evaluation_sha256(name):
            plain = Backend(backend.TRANSFORMERS, "evaluation alone")
            return Step(
                name, EVALUATE, "the evaluation changed; the weights stay", attempt=attempt, backend=plain, **common
            )
        why = f"trained {attempt.manifest['finished'][:16].replace('T', ' ')}"
        with suppress(PipelineError):  # what cannot be had is no matter where nothing is to be trained
            trained_with, asked = attempt.manifest["run"]["backend"], backend_of()
            if asked.name != trained_with and asked.why == backend.ASKED:
                why = f"trained with {trained_with}; FRESH=1 (--fresh) trains it with {asked.name}"
        return Step(name, UP_TO_DATE, why, attempt=attempt, **common)

    def _unfinished(self, name: str, attempt: Attempt, common: dict) -> Step:
        if held(attempt):
            return Step(name, RUNNING, "another run is working on it", attempt=attempt, **common)
        checkpoints = attempt.checkpoints()
        if not checkpoints:
            when = "before its first checkpoint" if attempt.inputs else "before it began"
            return Step(name, RUN, f"it was stopped {when}", attempt=attempt, **common)
        step = checkpoints[0][0]
        begun = json.loads((attempt.folder / "run.json").read_text(encoding="utf-8"))["backend"]
        asked = common["backend"]
        if asked.name != begun and asked.why == backend.ASKED:
            raise PipelineError(
                f"{name}: {attempt.folder} was begun with {begun} and cannot go on with {asked.name}.",
                f"Continue it with {begun} (leave the switch out), or start another attempt with --fresh (FRESH=1).",
            )
        common["backend"] = Backend(begun, "begun with it")
        return Step(name, CONTINUE, f"from step {step}", attempt=attempt, from_step=step, **common)

    def _backend(self, name: str, above: Step | None, policy: str | None, base: Base | None = None) -> Backend:
        """What will load and run the model. `base` is None where the parent is still to be built."""
        config = self.recipe.model.config
        wanted, own = self.recipe.wants_unsloth(name)
        alone = above is None and not (policy or self.recipe.stage(name).policy)
        return backend.choose(
            name,
            specs()[name],
            wanted,
            own=own,
            method=self._adapter(name)["method"],
            model_type=backend.model_type(base, config),
            from_scratch=alone and config is not None,
        )

    def _why(self, stage_folder: Path, inputs: dict) -> tuple[str, tuple[str, ...]]:
        earlier = next((one for one in all_attempts(stage_folder) if one.inputs), None)
        if earlier is None:
            return "never run before", ()
        changes = tuple(self.renamed(inputs["stage"], change) for change in difference(earlier.inputs, inputs))
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        return f"{changes[0] if changes else 'its inputs changed'}{more}", changes

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

    def _parent(self, name: str, above: Step | None, policy: str | None) -> Parent | None:
        if above:
            found = Parent(above.attempt.output, above.attempt.manifest["weights_sha256"], above.stage, above.attempt)
        elif policy := policy or self.recipe.stage(name).policy:
            found = self._folder(name, Path(policy).expanduser())
        else:
            return None
        if found.attempt and specs().get(found.attempt.manifest["stage"]) and found.attempt.manifest["head"] == "score":
            raise PipelineError(
                f"{name}: policy: {found.folder} is a reward model, which is never a policy.",
                "Name the adapter of a stage that trains a policy.",
            )
        return found

    def _reward(self, name: str, step: Step | None, base: Base) -> Parent | None:
        """The reward model of a stage; it has to stand on the policy's base."""
        if step:
            found = Parent(step.attempt.output, step.attempt.manifest["weights_sha256"], step.stage, step.attempt)
        elif (folder := self.recipe.reward(name)) is not None:
            found = self._folder(name, Path(folder).expanduser(), "reward")
        else:
            return None
        if found.is_model:
            raise PipelineError(
                f"{name}: reward: {found.folder} is a whole model; the roles of {name} share one base.",
                "Train the reward model as an adapter.",
            )
        if found.attempt and found.attempt.manifest["head"] != "score":
            raise PipelineError(f"{name}: reward: {found.folder} is a policy.", "Name the adapter of a reward stage.")
        if found.attempt and base.identity and found.attempt.manifest["base"]["identity"] != base.identity:
            raise PipelineError(
                f"{name}: the reward model {found.folder} stands on another base than the policy.",
                "Train both on the same model.id, or name another reward.",
            )
        return found

    def _folder(self, name: str, folder: Path, role: str = "policy") -> Parent:
        """A parent that the user names by its folder: an artifact of this pipeline, or any adapter."""
        if (folder / MANIFEST).is_file():
            attempt = Attempt(folder.resolve())
        elif folder.name in ("adapter", "model") and (folder.parent / MANIFEST).is_file():
            attempt = Attempt(folder.resolve().parent)
        else:
            if not (folder / "adapter_config.json").is_file():
                raise PipelineError(
                    f"{name}: {role}: {folder}: {'has no adapter_config.json' if folder.is_dir() else 'no such folder'}.",
                    "Name an adapter folder. A whole model is a base: name it as model.id.",
                )
            return Parent(folder.resolve(), weights_sha256(folder, self.digests))
        attempt.check_sizes()
        return Parent(attempt.output, attempt.manifest["weights_sha256"], attempt.manifest["stage"], attempt)

    def _base(self, parent: Parent | None) -> Base:
        """What the parent's adapter stands on; a parent that is a whole model is the base itself."""
        if parent and parent.is_model:
            return Base({"sha256": parent.sha256}, str(parent.folder.resolve()))
        if parent and parent.attempt:
            said = parent.attempt.manifest["base"]
            if said["identity"] == self._named_base().identity:
                return self._named_base()  # wherever it lies now
            return Base(said["identity"], where_it_lies(said["source"], parent.attempt), said["commit"])
        if parent and self.recipe.model.config is not None:
            raise PipelineError(
                f"policy: {parent.folder} was not made by this pipeline, so its base has to be named.",
                "Set model.id to the base that the adapter was trained on.",
            )
        return self._named_base()

    def _named_base(self) -> Base:
        """The base that the recipe names."""
        if self._named is None:
            self._named = base_of(self.recipe, self.folder, self.digests)
        return self._named

    def _check_base(self, name: str, parent: Parent) -> str:
        """Refuse a policy, named by its folder, that was made for another base than the recipe's; a note where that
        cannot be told."""
        own = self._named_base()
        if parent.attempt:
            identities = list(bases_of(parent.attempt))
            same = any(self._is_named(one) for one in identities if one) or (None if None in identities else False)
            said = parent.attempt.manifest["base"]
            theirs = shown(said["identity"], where_it_lies(said["source"], parent.attempt))
        else:
            theirs = parent.adapter_config.get("base_model_name_or_path") or "a base that is not named"
            same = made_for(parent.adapter_config.get("base_model_name_or_path"), own, self.digests)
        mine = shown(own.identity or {}, own.source)
        if same is None:
            return f"whether {parent.folder.name} was made for {mine} cannot be told: it names {theirs}"
        if same:
            return ""
        source, _, commit = theirs.partition("@")
        revision = f" and model.revision: {commit}" if commit else ""
        raise PipelineError(
            f"{name}: policy: {parent.folder} was made for another base, {theirs}; {self.recipe.path} names {mine}.",
            f"Set model.id: {source}{revision}, or name an adapter of {mine} as the policy.",
        )

    def _is_named(self, identity: dict) -> bool:
        """Whether it is the base that the recipe names. One made by this pipeline is known without its tokenizer_config."""
        own = self._named_base()
        if own.identity is None:  # its commit is not known yet
            return identity.get("id") == own.source
        if identity == own.identity:
            return True
        local = own.source is not None and own.commit is None
        return local and identity == {"sha256": weights_sha256(Path(own.source), self.digests)}

    def trains_model(self, name: str, parent: Parent | None) -> bool:
        """Whether the stage trains every weight, not an adapter."""
        if parent is None and self.recipe.model.config is not None:
            return True  # from scratch: there is nothing to adapt
        full = self._adapter(name)["method"] == "full"
        if full and specs()[name].rewarded_by:
            if parent and not parent.is_model:
                return False  # the parent's adapter goes on, whatever the rest of the recipe tunes
            raise PipelineError(
                f"{name}: adapter.method full: its four roles share one frozen base, so it trains an adapter.",
                f"Give stages.{name}.adapter: {{method: lora}}.",
            )
        if full and parent and not parent.is_model:
            raise PipelineError(
                f"{name}: adapter.method full on top of the adapter of {parent.stage or parent.folder}: that would have "
                "to be merged into the base first, and nothing is ever merged on the way.",
                "Use full tuning in every stage, or an adapter in this one.",
            )
        return full

    def _check_adapter(self, name: str, parent: Parent | None, above: Step | None) -> None:
        """Refuse what a stage says of its adapter where an adapter goes on that has it otherwise.

        Between stages of the recipe that was done when it was read.
        """
        if not parent or parent.is_model or (above and self.recipe.incoming_adapter(name)[0]):
            return
        has, fields = parent.adapter_config, fields_of(LORA)
        for key, value in self.recipe.own_adapter(name).items():
            if key in (*CHANGEABLE, "method"):
                continue
            goes_on = has.get(key, fields[key].default)
            if _unordered(fields[key].normalized(value)) != _unordered(fields[key].normalized(goes_on)):
                what = unchangeable(key, goes_on, f"the adapter {parent.folder}")
                raise PipelineError(
                    f"{self.recipe.path}: stages.{name}.adapter.{key}: {what}",
                    f"A new adapter is made where {name} starts from a base: without a policy.",
                )

    def _changed_adapter(self, name: str, parent: Parent | None) -> dict:
        """What a stage sets on the adapter of its parent that goes on, as far as that has it otherwise."""
        if not parent or parent.is_model:
            return {}
        own, has = self.recipe.own_adapter(name), parent.adapter_config
        return {key: float(own[key]) for key in CHANGEABLE if key in own and own[key] != has.get(key)}

    def _adapter(self, name: str) -> dict:
        return dict(self.recipe.stage(name).adapter)

    def _inputs(self, name: str, parent: Parent | None, base: Base, given: dict, reward: Parent | None) -> dict:
        recipe, data = self.recipe, self.recipe.stage(name).data
        adapter: object = "all weights" if self.trains_model(name, parent) else "the parent's"
        if adapter == "the parent's" and (parent is None or parent.is_model):
            fields = {key: value for key, value in self._adapter(name).items() if key != "method"}
            adapter = {"method": "lora"} | what("LoraConfig", fields)
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
            "train": what(specs()[name].config, given),
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

    def planned_files(self, name: str, inputs: dict) -> dict[str, str]:
        """By their paths in the recipe what the files of a stage were when it was planned; none is read again."""
        data, held_out = self.recipe.stage(name).data, inputs["data"]["held_out"]
        held_out = held_out["files"] if isinstance(held_out, dict) else held_out
        own = ([held_out] if isinstance(held_out, str) else held_out) if data.held_out_rows else []
        paths = [path for rows in data.sources for path in files_of(rows)]
        return dict(zip(paths, [*inputs["data"]["files"], *own], strict=True))

    def _unknown(self, name: str) -> list[str]:
        """The data sets of a stage whose commit only the hub can tell."""
        sets = self.recipe.stage(name).data.data_sets()
        return list(dict.fromkeys(f"hub:{one.name}" for one in sets if not known_commit(one, self.folder)))

    def resolve_commits(self, steps: Iterable[Step]) -> bool:
        """Settle the commits of what the steps take from the hub; whether any was unknown, so that to plan again tells more.

        Raises PipelineError where the hub cannot be asked.
        """
        steps = list(steps)
        new = any(self._unknown(step.stage) for step in steps)
        for repository in {one for step in steps for one in self.recipe.stage(step.stage).data.data_sets()}:
            settle(repository, self.folder)
        if any(step.base and step.base.identity is None for step in steps):
            settle(repository_of(self.recipe), self.folder)
            new = True
        return new

    def _reward_inputs(self, name: str, reward: Parent | None) -> dict:
        settings = self.recipe.stage(name)
        what: dict = {"reward": reward.sha256 if reward else None, "reward_function": None}
        if settings.reward_function:
            file, _, function = settings.reward_function.rpartition(":")
            what["reward_function"] = {
                "sha256": self.digests.of(Path(file)),
                "name": function,
                "weight": settings.reward_function_weight,
            }
        return what

    def evaluation_sha256(self, name: str) -> str:
        """What the figures depend on beside the weights."""
        evaluation = self.recipe.stage(name).evaluation
        what = evaluation.model_dump(exclude={"batch_size"})
        if evaluation.score_function:
            what["score_function"] = self.digests.of(Path(evaluation.score_function.rpartition(":")[0]))
        return sha256(canonical(what)).hexdigest()

    def _check_trackers(self, steps: Iterable[Step]) -> None:
        """Those of the stages that are to be trained: a missing package would stop them at their first step."""
        to_train = [step.stage for step in steps if step.state in (RUN, CONTINUE)]
        reported = {name: self.recipe.stage(name).train.get("report_to") for name in to_train}
        wrong = dict(one for name, report_to in reported.items() for one in trackers.missing(name, report_to))
        if wrong:
            raise PipelineError("\n".join(wrong), "\n".join(dict.fromkeys(wrong.values())))

    def _check_data(self, names: Iterable[str]) -> None:
        """All missing files of all stages at once."""
        missing, fixes = [], []
        for name in names:
            stage = self.recipe.stage(name)
            for rows in stage.data.sources:
                try:
                    files_of(rows)
                except PipelineError as error:
                    missing.append(f"{name}: {error.what}")
                    fixes.append(error.fix)
            keys = {
                "evaluation.score_function": stage.evaluation.score_function,
                "reward_function": stage.reward_function,
            }
            for key, one in keys.items():
                if one and (wrong := function.problem(one)):
                    missing.append(f"{name}: {key}: {wrong}")
                    fixes += [function.FIX] if Path(one.rpartition(":")[0]).is_file() else []
        if missing:
            raise PipelineError(
                f"{self.recipe.path}:\n  " + "\n  ".join(missing),
                "\n".join(dict.fromkeys(fixes)) or "Paths are relative to the folder you run in.",
            )


def _unordered(value: object) -> object:
    return sorted(map(str, value)) if isinstance(value, list) else value
