"""The splits of a folder on this machine, by the names that the datasets library knows."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, write_rows

from pipeline.data.read import splits
from pipeline.data.read.files import files
from pipeline.data.read.reader import read
from pipeline.errors import PipelineError


def refused(*paths: str, **options) -> str:
    with pytest.raises(PipelineError) as error:
        list(read(list(paths), **options))
    return str(error.value)


CARD = "---\nconfigs:\n- config_name: short\n  data_files: a/*.jsonl\n- config_name: long\n  data_files: b/*.csv\n---\n"


def folder_of(tmp_path: Path, *names: str) -> str:
    for name in names:
        (file := tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        write_rows(file, [{"text": name}])
    return str(tmp_path / "folder")


def test_splits_of_a_local_folder(tmp_path):
    folder = folder_of(tmp_path, "train.jsonl", "deep/test_1.jsonl", "deep/test_2.jsonl")
    assert [row.value["text"] for row in read(folder, split="test")] == ["deep/test_1.jsonl", "deep/test_2.jsonl"]
    said = refused(folder)
    assert "has several splits: train, test" in said and "or give files" in said
    assert len(list(read(folder + "/**/*.jsonl"))) == 3
    assert "did you mean train?" in refused(folder, split="trian")
    assert "only folders and data sets of the hub have a split" in refused(folder + "/train.jsonl", split="train")
    (tmp_path / "folder" / "README.md").write_text(CARD.replace("a/*", "deep/*").replace("b/*.csv", "train.jsonl"))
    assert "has several configs: short, long" in refused(folder)
    assert len(list(read(folder, config="short"))) == 2


def test_a_saved_dataset_dict_is_read_by_split(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = {name: datasets.Dataset.from_list([{"text": name}] * 3) for name in ("train_sft", "other")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    saved = str(tmp_path / "saved")
    assert "has several splits: train_sft, other" in refused(saved)
    assert [row.value["text"] for row in read(saved, split="other")] == ["other"] * 3
    assert "was saved by DatasetDict.save_to_disk" in refused(str(tmp_path))


def test_an_ordinary_folder_is_read_whole_without_the_library(tmp_path):
    folder = folder_of(tmp_path, "a.jsonl", "b.json", "pretraining.jsonl", "train-1.jsonl", "sub/contest.jsonl")
    code = "import sys; from pipeline.data.read.files import files; "
    code += f"print(len(files({folder!r})), 'datasets' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=PROJECT, text=True) == "5 False\n"


def test_a_folder_whose_name_has_signs_of_globs(tmp_path):
    folder_of(tmp_path, "train.jsonl", "test.jsonl")
    (tmp_path / "folder").rename(tmp_path / "[train] *")
    assert files(str(tmp_path / "[train] *"), split="test") == [str(tmp_path / "[train] *" / "test.jsonl")]


def test_the_words_for_splits_are_those_of_datasets():
    data_files = pytest.importorskip("datasets.data_files")
    assert {str(split): tuple(words) for split, words in data_files.SPLIT_KEYWORDS.items()} == splits.WORDS
