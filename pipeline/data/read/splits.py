"""Which files make up a split of a folder or repository, as the `datasets` library tells them apart."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.errors import PipelineError
from pipeline.wording import did_you_mean

CARDS = ("README.md", ".huggingface.yaml")  # where a data set says which files its configs and splits have
SAVED = "dataset_dict.json"  # what DatasetDict.save_to_disk writes beside its splits
# The words that `datasets` knows splits by.
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_WORD = {split: re.compile(rf"(^|[/\-._ 0-9])({'|'.join(words)})[/\-._ 0-9]") for split, words in WORDS.items()}
_NUMBERED = re.compile(r"data/([^/]+)-\d{5}-of-\d{5}[^/]*")

Splits = dict[str, dict[str, list[str]]]  # config: split: files


def may_have_several(folder: Path, names: Iterable[str]) -> bool:
    """Whether the files of a folder could be of several splits; told by their names, without loading a library."""
    names = list(names)
    numbered = {found[1] for name in names if (found := _NUMBERED.fullmatch(name))}
    words = {split for split, word in _WORD.items() if any(word.search(name) for name in names)}
    return len(numbered) > 1 or len(words) > 1 or any(_has_configs(folder / card) for card in CARDS)


def of_folder(folder: Path, names: Iterable[str]) -> Splits:
    """The splits of a folder on this machine; `names` are its files, as paths below it."""
    return tell_apart(str(folder), names, {card: folder / card for card in CARDS if (folder / card).is_file()})


def tell_apart(where: str, names: Iterable[str], cards: Mapping[str, Path]) -> Splits:
    """The files of every split of every config. `where` is what messages call the folder or repository.

    Only names and cards are looked at. Raises PipelineError where no files can be told by them.
    """
    from datasets.load import LocalDatasetModuleFactory

    # The library looks at a folder, so it is given one: of empty files, whose names are all that matters here.
    with TemporaryDirectory() as stand_in:
        for name in names:
            if not name.endswith((".zip", "dataset_infos.json")):  # it would look into these
                (file := Path(stand_in, name)).parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        for name, card in cards.items():
            Path(stand_in, name).write_bytes(card.read_bytes())
        try:
            module = LocalDatasetModuleFactory(stand_in).get_module()
            configs = module.builder_configs_parameters.builder_configs
            return {config.name: _by_split(config, stand_in) for config in configs}
        except Exception as error:  # whatever the library makes of somebody's names and cards
            said = (str(error) or type(error).__name__).splitlines()[0].replace(stand_in, where)
            raise PipelineError(
                f"{where}: which files are its rows cannot be told: {said}",
                "Give the files themselves, or say it in its README.md as `datasets` documents (configs, data_files).",
            ) from None


def choose(where: str, found: Splits, config: str | None, split: str | None) -> list[str]:
    """The files of one split. Raises PipelineError where there are several and none is named, or no such one."""
    splits = found[_one(where, "config", config, found)]
    return splits[_one(where, "split", split, splits)]


def saved_splits(folder: Path) -> list[str] | None:
    """The splits of a folder written by DatasetDict.save_to_disk, each a folder in it; None for any other folder."""
    try:
        return list(json.loads((folder / SAVED).read_text(encoding="utf-8"))["splits"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise PipelineError(f"{folder / SAVED}: does not name the splits.", "Save the data set again.") from None


def of_saved(folder: Path, splits: list[str], config: str | None, split: str | None) -> Path:
    """The folder of one split of a saved DatasetDict."""
    if config is not None:
        raise PipelineError(f"{folder}: was saved by DatasetDict.save_to_disk and has no configs.", "Leave it out.")
    return folder / _one(str(folder), "split", split, splits)


def _one(where: str, key: str, wanted: str | None, there: Iterable[str]) -> str:
    there = list(there)
    if wanted is None and len(there) == 1:
        return there[0]
    if wanted is None:
        raise PipelineError(
            f"{where}: has several {key}s: {', '.join(there)}.",
            f"Name one in data.{key} (for held-out rows of their own in data.held_out.{key}), or give files.",
        )
    if wanted not in there:
        close = did_you_mean(wanted, there)
        raise PipelineError(
            f"{where}: has no {key} {wanted}{close}", f"There {'is' if len(there) == 1 else 'are'}: {', '.join(there)}."
        )
    return wanted


def _by_split(config, folder: str) -> dict[str, list[str]]:
    base, files = Path(folder, config.data_dir or "").resolve(), config.data_files
    if hasattr(files, "resolve"):  # patterns from a card
        files = files.resolve(str(base))
    root = Path(folder).resolve()
    # A file that two patterns of a split match is still one file.
    return {
        str(split): list(dict.fromkeys(Path(file).relative_to(root).as_posix() for file in some))
        for split, some in files.items()
    }


def _has_configs(card: Path) -> bool:
    if not card.is_file():
        return False
    text = card.read_text(encoding="utf-8", errors="replace")
    if card.suffix == ".md":
        text = text.split("\n---", 1)[0] if text.startswith("---") else ""
    return re.search(r"^configs:", text, re.MULTILINE) is not None
