"""Data sets of the hub, from a hub of our own on this machine, and the splits of local folders."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from conftest import PROJECT, align, manifest, write_micro
from own_hub import Hub, lines

from pipeline.artifact.digests import Digests
from pipeline.data.read.reader import read
from pipeline.errors import PipelineError
from pipeline.plan.planner import Planner
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.reading import load_recipe


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub, the environment that leads to it, and this process asking it too."""
    from huggingface_hub import constants

    from pipeline.data.read import hub_files

    hub = Hub()
    cache = str(tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    hub_files._splits.cache_clear()
    hub.online = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": cache}
    hub.offline = hub.online | {"HF_HUB_OFFLINE": "1"}
    monkeypatch.chdir(tmp_path)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    hub_files._splits.cache_clear()


SHARDS = {f"data/train-{n:05}-of-00003.jsonl": lines(100 * n, 20) for n in range(3)}
WHOLE = SHARDS | {"data/test-00000-of-00001.jsonl": lines(900, 10), "README.md": "# A set\n", ".gitattributes": ""}


def refused(*paths: str, **options) -> str:
    with pytest.raises(PipelineError) as error:
        list(read(list(paths), **options))
    return str(error.value)


def test_a_recipe_trains_on_a_split_and_holds_out_another_and_stays_on_its_commit(hub, tmp_path):
    first = hub.push("me/talk", WHOLE | {"data/extra-00000-of-00001.jsonl": lines(500, 5)})
    write_micro(tmp_path)
    data = "{path: 'hub:me/talk', split: train, held_out: {split: test}}"
    given = ["sft", "-r", "micro.yaml", "--set", f"stages={{sft: {{data: {data}, train: {{max_steps: 2}}}}}}"]
    given += [
        "--set",
        "model={config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, "
        "num_attention_heads: 2, max_position_embeddings: 64}, tokenizer: {vocab_size: 320}}",
    ]
    given += ["--set", "adapter={method: full}"]
    assert "hub:me/talk is resolved at run" in align("plan", *given, cwd=tmp_path, env=hub.online).stdout
    assert hub.requests == []
    align("run", *given, cwd=tmp_path, env=hub.online)
    assert sorted(hub.downloads()) == sorted({*SHARDS, "data/test-00000-of-00001.jsonl", "README.md"})
    made = manifest(tmp_path, "sft")
    pin = f"hub:me/talk@{first}"
    assert made["data"]["files"] == {"hub:me/talk": pin} and made["inputs"]["data"]["files"] == [pin]
    assert (made["data"]["rows"]["trained"], made["data"]["rows"]["held_out"]) == (60, 10)

    hub.push("me/talk", {"train.jsonl": lines(0, 5)})
    hub.requests.clear()
    for environment in (hub.online, hub.offline):
        assert "up to date" in align("plan", *given, cwd=tmp_path, env=environment).stdout
    align("run", *given, "--set", "seed=7", cwd=tmp_path, env=hub.offline)
    assert manifest(tmp_path, "sft")["inputs"]["data"]["files"] == [pin]
    assert hub.requests == []
    named = [*given, "--set", f"stages.sft.data.revision={first}"]  # the same commit by another name
    assert "up to date" in align("plan", *named, "--set", "seed=7", cwd=tmp_path, env=hub.offline).stdout


def test_files_are_downloaded_when_the_rows_before_them_are_read(hub):
    commit = hub.push("me/talk", WHOLE)
    rows = read("hub:me/talk", split="train")
    assert hub.requests == []
    some = [next(rows) for _ in range(21)]
    assert hub.downloads() == ["README.md", *list(SHARDS)[:2]]
    assert some[0].place == f"hub:me/talk@{commit[:8]}/data/train-00000-of-00003.jsonl:1"
    assert (some[20].file.rpartition("/")[2], some[20].line) == ("train-00001-of-00003.jsonl", 1)


def test_of_a_streamed_data_set_only_the_files_are_downloaded_whose_rows_are_needed(hub, tmp_path):
    shards = {f"data/train-{n:05}-of-00003.jsonl": lines(3000 * n, 3000) for n in range(3)}
    hub.push("me/big", shards)
    write_micro(tmp_path)
    data = "stages.pretrain.data={path: 'hub:me/big', streaming: true, columns: {text: prompt}}"
    align("run", "pretrain", "-r", "micro.yaml", "--set", data, cwd=tmp_path, env=hub.online)
    assert hub.downloads() == list(shards)[:1]
    rows = manifest(tmp_path, "pretrain")["data"]["rows"]
    assert rows["partial"] and rows["read"] < 3000


def test_without_a_network_every_shard_is_read_or_missed(hub, monkeypatch):
    from huggingface_hub import constants

    from pipeline.data.read import hub_files

    commit = hub.push("me/talk", WHOLE)
    path = f"hub:me/talk@{commit}"
    next(rows := read(path, split="train"))
    rows.close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub_files._splits.cache_clear()
    said = refused(path, split="train")
    assert f"hub:me/talk@{commit[:8]}/data/train-00001-of-00003.jsonl: the hub cannot be asked" in said


@pytest.mark.parametrize("whole", [True, False])
def test_a_cache_filled_by_another_program(hub, tmp_path, monkeypatch, whole):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit, repository = "c" * 40, tmp_path / "cache" / "datasets--me--talk"
    for name in list(WHOLE)[0 if whole else 1 :]:
        (file := repository / "snapshots" / commit / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(WHOLE[name] if isinstance(WHOLE[name], bytes) else WHOLE[name].encode())
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    if whole:
        assert len(list(read("hub:me/talk", split="train"))) == 60
    else:
        assert "has only 2 of the 3 files of data/train" in refused("hub:me/talk", split="train")


CARD = "---\nconfigs:\n- config_name: short\n  data_files: a/*.jsonl\n- config_name: long\n  data_files: b/*.csv\n---\n"


def test_configs_and_splits_that_are_not_named_or_not_there(hub):
    hub.push("me/talk", WHOLE)
    hub.push("me/two", {"README.md": CARD, "a/1.jsonl": lines(0, 3), "b/1.csv": "prompt,completion\na,b\n"})
    hub.push("me/one", {"rows.jsonl": lines(0, 4), "logo.png": b"\x89PNG"})
    said = refused("hub:me/talk")
    assert "has several splits: train, test" in said and "Name one in data.split" in said
    assert "has no split tests; did you mean test?\nThere are: train, test." in refused("hub:me/talk", split="tests")
    assert "has several configs: short, long" in refused("hub:me/two")
    assert "has no config lang; did you mean long?" in refused("hub:me/two", config="lang")
    assert [row.value for row in read("hub:me/two", config="long")] == [{"prompt": "a", "completion": "b"}]
    assert len(list(read("hub:me/two", config="short", split="train"))) == 3
    assert len(list(read("hub:me/one"))) == 4  # one config and one split: taken


def test_what_is_no_data_set_of_rows(hub):
    hub.push("me/pictures", {"train/1.png": b"\x89PNG", "train/metadata.jsonl": lines(0, 1)})
    hub.push("me/code", {"code.py": "print()", "rows.jsonl": lines(0, 2)})
    hub.push("me/empty", {"README.md": "# Nothing\n"})
    assert "1 of its 2 files are of a kind that is not read here, such as train/1.png" in refused("hub:me/pictures")
    assert "is made by a script, and nobody's script is run here" in refused("hub:me/code")
    assert re.search(r"hub:me/empty@\w{8}: which files are its rows cannot be told", refused("hub:me/empty"))
    assert hub.downloads() == ["README.md"]


def test_a_hub_that_does_not_answer_as_hoped(hub, monkeypatch):
    from huggingface_hub import constants

    hub.push("me/gated", {"rows.jsonl": lines(0, 2)})
    hub.gated.add("me/gated")
    assert "it is gated" in refused("hub:me/gated")
    assert "data.path: hub:me/nowhere@main: the hub cannot be asked: there is no such repository" in refused(
        "hub:me/nowhere"
    )
    assert "it has no such revision" in refused("hub:me/gated", revision="v9")
    assert "is no data set of the hub" in refused("hub:a/b/c")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub cannot be asked" in refused("hub:me/other")


def planned(tmp_path: Path, data: str) -> dict:
    loaded = load_recipe(write_micro(tmp_path), [f"stages={{pretrain: {{data: {data}}}}}"])
    return Planner(loaded, tmp_path / "runs", digests=Digests()).plan(["pretrain"])[0].inputs


def test_what_a_fingerprint_knows_of_a_data_set(hub, tmp_path):
    one, other = "a" * 40, "b" * 40
    base = planned(tmp_path, f"{{path: 'hub:me/talk', split: train, revision: {one}}}")["data"]
    assert base["files"] == [f"hub:me/talk@{one}"] and base["split"] == "train" and "revision" not in base
    changed = [
        f"{{path: 'hub:me/talk', split: train, revision: {other}}}",
        f"{{path: 'hub:me/talk', split: test, revision: {one}}}",
        f"{{path: 'hub:me/talk', split: train, config: c, revision: {one}}}",
        f"{{path: 'hub:me/talk', split: train, revision: {one}, held_out: {{split: test}}}}",
        f"{{path: ['hub:me/talk', text.jsonl], split: train, revision: {one}}}",
    ]
    inputs = [planned(tmp_path, data)["data"] for data in changed]
    assert len({json.dumps(one) for one in [base, *inputs]}) == 6
    assert planned(tmp_path, f"{{path: 'hub:me/talk@{one}', split: train}}")["data"] == base
    elsewhere = planned(tmp_path, f"{{path: text.jsonl, held_out: {{path: 'hub:me/talk@{one}', split: test}}}}")["data"]
    assert elsewhere["held_out"] == {"files": [f"hub:me/talk@{one}"], "config": None, "split": "test"}


def test_a_recipe_with_a_data_set_that_is_none(tmp_path):
    with pytest.raises(RecipeError) as error:
        planned(tmp_path, "{path: [text.jsonl, 'hub:a/b/c'], held_out: {splitt: test}}")
    said = str(error.value)
    assert "data.path: hub:a/b/c: is no data set of the hub" in said
    assert "data.held_out.splitt: unknown key; did you mean split?" in said
    for held_out in ("{}", "{split: train}"):
        with pytest.raises(RecipeError, match="held_out means the very rows that are trained on"):
            planned(tmp_path, f"{{path: 'hub:a/b', split: train, held_out: {held_out}}}")


def test_planning_a_data_set_of_the_hub_loads_no_library(hub, tmp_path):
    write_micro(tmp_path)
    code = (
        "import sys; from pathlib import Path; from pipeline.recipe.reading import load_recipe; from "
        "pipeline.plan.planner import Planner; "
        "r = load_recipe('micro.yaml', ['stages={pretrain: {data: {path: [hub:me/talk, text.jsonl], split: "
        "train}}}']); print(Planner(r, Path('runs')).plan(['pretrain'])[0].why); "
        "print([m for m in ('datasets', 'huggingface_hub', 'torch', 'httpx') if m in sys.modules])"
    )
    said = subprocess.check_output(
        [sys.executable, "-c", code], cwd=tmp_path, text=True, env=hub.online | {"PYTHONPATH": str(PROJECT)}
    )
    assert said == "the commit of hub:me/talk is resolved at run\n[]\n"


def test_checking_a_split_of_the_hub(hub, tmp_path):
    hub.push("me/talk", WHOLE)
    write_micro(tmp_path)
    arguments = ("data", "check", "hub:me/talk", "--stage", "pretrain", "--column", "text=prompt", "-r", "micro.yaml")
    said = align(*arguments, "--split", "test", cwd=tmp_path, env=hub.online).stdout
    assert "hub:me/talk: rows of the kind text" in said and "10 read" in said


def test_parquet_of_the_hub(hub, tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"text": "a"}, {"text": "b"}]), tmp_path / "t.parquet")
    commit = hub.push("me/table", {"train.parquet": (tmp_path / "t.parquet").read_bytes(), "test.parquet": b"no"})
    assert [(row.place, row.value["text"]) for row in read("hub:me/table", split="train")] == [
        (f"hub:me/table@{commit[:8]}/train.parquet:1", "a"),
        (f"hub:me/table@{commit[:8]}/train.parquet:2", "b"),
    ]
    said = refused("hub:me/table", split="test")
    assert f"hub:me/table@{commit[:8]}/test.parquet: cannot be read as Parquet" in said and str(tmp_path) not in said
