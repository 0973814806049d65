"""lm-eval's tasks and a person's own: found by name, read without running anything of a hub, and known by content.

Nothing of a task is run but what is lm-eval's own or lies in the folder that a person named: a metric that lm-eval does
not have would be a script of the hub, and is refused. Data sets are files: `datasets` runs no script of theirs.
"""

import glob
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import evaluate
import httpx
import yaml
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from lm_eval.api import metrics  # noqa: F401  (registers them)
from lm_eval.api.registry import metric_registry
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import load_yaml

from pipeline.artifact.digests import canonical, file_sha256
from pipeline.errors import PipelineError
from pipeline.use.tasks.wanted import Wanted
from pipeline.wording import did_you_mean

_NEAREST = 4


@dataclass(frozen=True)
class Task:
    """A task, or a group of tasks, ready to be asked once."""

    name: str
    built: list  # of lm-eval's Task or Group
    leaves: Mapping[str, object]  # lm-eval's tasks by name
    manager: TaskManager
    asked: dict  # all that is asked, by content


class Harness:
    """Where tasks are found. lm-eval's own 14,000 take seconds to list, and are listed only where they are needed."""

    def __init__(self, wanted: Wanted):
        self.wanted = wanted
        self.folder = Path(wanted.folder).expanduser().resolve() if wanted.folder else None
        evaluate.load = _no_script
        if self.folder:
            _check_yaml(self.folder)

    def names(self) -> list[str]:
        """The tasks that are asked for; `mmlu_*` means every one of that name. Raises PipelineError for an unknown one."""
        found = []
        for name in self.wanted.tasks:
            matching = [one for one in self._manager.all_tasks if fnmatch(one, name)] if "*" in name else [name]
            if not matching or (name == matching[0] and name not in self._manager.all_tasks):
                raise self._unknown(name)
            found += matching
        return list(dict.fromkeys(found))

    def task(self, name: str) -> Task:
        """Built anew, with its data. Raises PipelineError where these cannot be read, or it would run code of a hub."""
        manager = self._manager
        with self._reading(name):
            built = manager._load_spec(name)
        built = built if isinstance(built, list) else [built]
        leaves = manager.load(list(built))["tasks"]
        for leaf in leaves.values():
            self._check(leaf)
        return Task(name, built, leaves, manager, self._asked(name, leaves))

    @cached_property
    def _manager(self) -> TaskManager:
        if self.folder:
            own = self._managed(include_defaults=False)
            if all(_stands_alone(name, own.task_index) for name in self.wanted.tasks):
                return own
        return self._managed(include_defaults=True)

    def _managed(self, include_defaults: bool) -> TaskManager:
        manager = TaskManager(include_path=self.folder, include_defaults=include_defaults)
        manager._factory = _Factory(self.folder)
        return manager

    def _unknown(self, name: str) -> PipelineError:
        names = self._manager.all_tasks
        begun = [one for one in names if one.startswith(name)][:_NEAREST]
        near = begun or get_close_matches(name.lower(), names, n=_NEAREST)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        where = f" and none in {self.wanted.folder}" if self.folder else ""
        return PipelineError(
            f"--tasks: {name} is no task of lm-eval {version('lm-eval')}{where}{hint}",
            "Name one that is there; your own tasks' YAML files lie in the folder of --tasks-path.",
        )

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        factory = self._manager._factory
        try:
            yield
        except PipelineError:
            raise
        except (OSError, ValueError, httpx.HTTPError, DatasetGenerationError, RuntimeError) as error:
            source = factory.last.get("dataset_path")
            why = next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__)
            if source and not _is_local(source):
                config = factory.last.get("dataset_name")
                named = f"{source} ({config})" if config else source
                raise PipelineError(
                    f"{name}: its data set, {named} of the hub, cannot be read: {why}",
                    "It is downloaded at the first use: connect this machine, or copy the hub's cache (HF_HOME) from one "
                    "that has it; where it is gated, log in with `hf auth login`. Local tasks (--tasks-path) need no network.",
                ) from None
            at = (factory.last.get("metadata") or {}).get("config_source", name)
            raise PipelineError(f"{name}: cannot be read: {why}", f"Mend its YAML or its data: {at}") from error

    def _check(self, leaf) -> None:
        name, few_shot = leaf.task_name, self.wanted.few_shot
        if leaf.OUTPUT_TYPE not in ("generate_until", "loglikelihood", "loglikelihood_rolling", "multiple_choice"):
            raise PipelineError(
                f"{name}: its output_type, {leaf.OUTPUT_TYPE}, is not for a language model.", "Leave it out."
            )
        if getattr(leaf, "UNSAFE_CODE", False):
            raise PipelineError(f"{name}: runs code that the model writes, which is not done here.", "Leave it out.")
        if getattr(leaf, "MULTIMODAL", False):
            raise PipelineError(f"{name}: asks about images or sound, and the model reads text.", "Leave it out.")
        if few_shot and leaf.get_config("num_fewshot") == 0:
            raise PipelineError(
                f"--few-shot: {name} says num_fewshot: 0 itself, so lm-eval would show no examples.", "Leave it out."
            )

    def _asked(self, name: str, leaves: Mapping) -> dict:
        code = sorted(self.folder.rglob("*.py")) if self.folder else []
        return {
            "task": name,
            "tasks": {one: self._content(leaf) for one, leaf in sorted(leaves.items())},
            "group": _plain(self._group(name)),
            "functions": {str(path.relative_to(self.folder)): file_sha256(path) for path in code},
            "few_shot": self.wanted.few_shot,
            "limit": self.wanted.limit,
            "chat_template": self.wanted.chat_template,
            "lm_eval": version("lm-eval"),
        }

    def _group(self, name: str) -> dict | None:
        entry: Entry = self._manager.task_index[name]
        return load_yaml(entry.yaml_path, resolve_func=False) if entry.kind is Kind.GROUP and entry.yaml_path else None

    def _content(self, leaf) -> dict:
        config = _plain(leaf.dump_config())
        config.get("metadata", {}).pop("config_source", None)  # where it lies
        if _is_local(config.get("dataset_path")):
            for key in ("dataset_path", "dataset_kwargs"):
                config.pop(key, None)
        shots = self.wanted.few_shot if self.wanted.few_shot is not None else leaf.get_config("num_fewshot")
        return {
            "config": config,
            "questions": _digest(leaf.eval_docs),
            "examples": _digest(leaf.fewshot_docs()) if shots else None,
        }


def _stands_alone(name: object, index: Mapping[str, Entry]) -> bool:
    """Whether a task, or every task of a group, is in this index."""
    entry = index.get(name) if isinstance(name, str) else None
    if entry is None or entry.kind is Kind.TAG:
        return False
    return entry.kind is not Kind.GROUP or all(_stands_alone(one, index) for one in (entry.cfg or {}).get("task") or ())


class _Factory(TaskFactory):
    """lm-eval's, which looks for a local task's data beside its YAML, and refuses scripts of a hub."""

    def __init__(self, folder: Path | None):
        super().__init__()
        self.folder = folder
        self.last: dict = {}  # the config that is being built

    def _load_full_config(self, entry: Entry, overrides: dict | None = None) -> dict:
        config = super()._load_full_config(entry, overrides)
        self.last = config
        if self.folder and entry.yaml_path and Path(entry.yaml_path).resolve().is_relative_to(self.folder):
            _beside(config, Path(entry.yaml_path).resolve())
        for one in config.get("metric_list") or ():
            _check_metric(entry, one.get("metric"), one.get("hf_evaluate"))
        return config


def _check_metric(entry: Entry, metric: object, of_hub: object) -> None:
    if callable(metric) or (metric in metric_registry and not of_hub):
        return
    raise PipelineError(
        f"{entry.yaml_path or entry.name}: metric {metric} would be a script of the hub, which is not run"
        f"{did_you_mean(str(metric), metric_registry.keys())}.",
        "Name a metric of lm-eval's, or a !function of your own beside the YAML.",
    )


def _beside(config: dict, file: Path) -> None:
    """Paths of its data as they are written beside `file`, its YAML; lm-eval itself looks from the current folder."""
    source, told = config.get("dataset_path"), dict(config.get("dataset_kwargs") or {})
    if isinstance(source, str) and source not in _PACKAGED_DATASETS_MODULES:
        if (file.parent / source).exists():
            config["dataset_path"] = str(file.parent / source)
        return  # files of a folder, or of a data set of the hub, are named from there
    for key in ("data_files", "data_dir"):
        if key in told:
            config["dataset_kwargs"] = told = told | {key: _placed(told[key], file, key)}


def _placed(value: object, file: Path, key: str) -> object:
    if isinstance(value, Mapping):
        return {split: _placed(one, file, key) for split, one in value.items()}
    if isinstance(value, list):
        return [_placed(one, file, key) for one in value]
    if not isinstance(value, str) or "://" in value:
        return value
    for path in (file.parent / value, Path(value).absolute()):
        if path.exists() or glob.glob(str(path), recursive=True):
            return str(path)
    raise PipelineError(
        f"{file}: dataset_kwargs.{key}: no such file: {value} (neither beside it nor in {Path.cwd()}).",
        "Mend the path, or put the file there.",
    )


def _check_yaml(folder: Path) -> None:
    """lm-eval passes over files that it cannot read; who wrote one wants to know."""
    for path in sorted(folder.glob("**/*.yaml")):
        try:
            load_yaml(path, resolve_func=False)
        except (yaml.YAMLError, ValueError, OSError) as error:
            raise PipelineError(f"{path}: cannot be read: {' '.join(str(error).split())}", "Mend it.") from None


def _no_script(path: str, *_, **__):
    raise PipelineError(
        f"A task asks for the metric {path} of the hub's `evaluate`, which is a script and is not run.",
        "Leave the task out.",
    )


def _is_local(source: object) -> bool:
    return source is None or source in _PACKAGED_DATASETS_MODULES or Path(str(source)).exists()


def _plain(value: object) -> object:
    """As JSON has it; a function by its name, its text stands elsewhere."""
    named = lambda one: getattr(one, "__qualname__", None) or type(one).__name__  # noqa: E731
    return json.loads(json.dumps(value, default=named))


def _digest(rows) -> str:
    digest = sha256()
    for row in rows:
        digest.update(canonical(_plain(row)))
    return digest.hexdigest()
