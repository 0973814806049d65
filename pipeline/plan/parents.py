"""What a stage stands on: its policy, its reward model, its base."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.digests import Digests, weights_sha256
from pipeline.artifact.manifest import MANIFEST
from pipeline.errors import PipelineError
from pipeline.model.base import Base, base_of, made_for, shown
from pipeline.plan.step import Parent, Step
from pipeline.recipe.recipe import Recipe
from pipeline.stage import specs


class Parents:
    """Finds and checks what the stages of one recipe stand on."""

    def __init__(self, recipe: Recipe, folder: Path, digests: Digests):
        self.recipe, self.folder, self.digests = recipe, folder, digests  # `folder` is the recipe's own in runs/
        self._named: Base | None = None

    def forget(self) -> None:
        """What the named base was may have changed since the last plan."""
        self._named = None

    def policy(self, name: str, above: Step | None, policy: str | None) -> Parent | None:
        if above:
            found = _of_step(above)
        elif policy := policy or self.recipe.stage(name).policy:
            found = self._of_folder(name, Path(policy).expanduser())
        else:
            return None
        if found.attempt and specs().get(found.attempt.manifest["stage"]) and found.attempt.manifest["head"] == "score":
            raise PipelineError(
                f"{name}: policy: {found.folder} is a reward model, which is never a policy.",
                "Name the adapter of a stage that trains a policy.",
            )
        return found

    def reward(self, name: str, step: Step | None, base: Base) -> Parent | None:
        """The reward model of a stage; it has to stand on the policy's base."""
        if step:
            found = _of_step(step)
        elif (folder := self.recipe.reward(name)) is not None:
            found = self._of_folder(name, Path(folder).expanduser(), "reward")
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

    def base(self, parent: Parent | None) -> Base:
        """What the parent's adapter stands on; a parent that is a whole model is the base itself."""
        if parent and parent.is_model:
            return Base({"sha256": parent.sha256}, str(parent.folder.resolve()))
        if parent and parent.attempt:
            said = parent.attempt.manifest["base"]
            if said["identity"] == self.named_base().identity:
                return self.named_base()  # wherever it lies now
            return Base(said["identity"], where_it_lies(said["source"], parent.attempt), said["commit"])
        if parent and self.recipe.model.config is not None:
            raise PipelineError(
                f"policy: {parent.folder} was not made by this pipeline, so its base has to be named.",
                "Set model.id to the base that the adapter was trained on.",
            )
        return self.named_base()

    def named_base(self) -> Base:
        """The base that the recipe names."""
        if self._named is None:
            self._named = base_of(self.recipe, self.folder, self.digests)
        return self._named

    def check_base(self, name: str, parent: Parent) -> str | None:
        """Refuse a policy, named by its folder, that was made for another base than the recipe's; a note where that
        cannot be told."""
        own = self.named_base()
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
            return f"policy: whether {parent.folder} was made for {mine} cannot be told: it names {theirs}"
        if same:
            return None
        source, _, commit = theirs.partition("@")
        revision = f" and model.revision: {commit}" if commit else ""
        raise PipelineError(
            f"{name}: policy: {parent.folder} was made for another base, {theirs}; {self.recipe.path} names {mine}.",
            f"Set model.id: {source}{revision}, or name an adapter of {mine} as the policy.",
        )

    def _is_named(self, identity: dict) -> bool:
        """Whether it is the base that the recipe names.

        One made by this pipeline is known without its tokenizer_config.
        """
        own = self.named_base()
        if own.identity is None:  # its commit is not known yet
            return identity.get("id") == own.source
        if identity == own.identity:
            return True
        if own.source is None or own.commit is not None:
            return False
        return identity == {"sha256": weights_sha256(Path(own.source), self.digests)}

    def _of_folder(self, name: str, folder: Path, role: str = "policy") -> Parent:
        """A parent that the user names by its folder: an artifact of this pipeline, or any adapter."""
        if (folder / MANIFEST).is_file():
            attempt = Attempt(folder.resolve())
        elif folder.name in ("adapter", "model") and (folder.parent / MANIFEST).is_file():
            attempt = Attempt(folder.resolve().parent)
        else:
            if not (folder / "adapter_config.json").is_file():
                raise PipelineError(
                    f"{name}: {role}: {folder}: "
                    f"{'has no adapter_config.json' if folder.is_dir() else 'no such folder'}.",
                    "Name an adapter folder. A whole model is a base: name it as model.id.",
                )
            return Parent(folder.resolve(), weights_sha256(folder, self.digests))
        attempt.check_sizes()
        return Parent(attempt.output, attempt.manifest["weights_sha256"], attempt.manifest["stage"], attempt)


def bases_of(attempt: Attempt) -> Iterator[dict | None]:
    """The identities of the bases that an artifact stands on, down to the first; None where the trace is lost."""
    while True:
        said = attempt.manifest
        yield said["base"]["identity"]
        if said["output"] != "model":
            folder = Path(where_it_lies(said["base"]["source"], attempt))
        elif above := said["parents"].get("policy"):
            folder = Path(where_it_lies(above["folder"], attempt))
        else:
            yield said["inputs"]["base"]
            return
        attempt_below = Attempt(folder.parent)
        if not attempt_below.finished:
            if said["output"] == "model":
                yield None
            return
        attempt = attempt_below


def where_it_lies(source: str, attempt: Attempt) -> str:
    """Where what an earlier stage made lies now: beside what stands on it, wherever runs/ was moved to."""
    here = attempt.folder.resolve().parent.parent.joinpath(*Path(source).parts[-3:])
    return str(here) if (here.parent / MANIFEST).is_file() else source


def _of_step(step: Step) -> Parent:
    """What a stage of the recipe has left."""
    attempt = step.known_attempt
    return Parent(attempt.output, attempt.manifest["weights_sha256"], step.stage, attempt)
