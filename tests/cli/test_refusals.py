"""A user's mistake ends with exit code 2 and one clear message; the machine's failure with 1. Never a traceback."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import align, attempt, refused, write_rows


def test_mistakes_in_the_recipe_all_at_once(micro):
    said = refused(
        micro, "plan", "-r", "micro.yaml", "--set", "stages.dpo.train.betta=1", "--set", "stages.sft.train.learning_rate=fast",
        "--set", "stages.sfd.data.path=x",
    )  # fmt: skip
    assert "betta" in said and "beta" in said and "learning_rate" in said and "sfd" in said


def test_missing_files_of_all_stages_at_once(micro):
    (micro / "chat.jsonl").unlink()
    (micro / "pairs.jsonl").unlink()
    said = refused(micro, "run", "-r", "micro.yaml")
    assert "chat.jsonl: no such file" in said and "pairs.jsonl: no such file" in said
    assert not (micro / "runs").exists()


def test_unknown_stage(micro):
    assert "has no stage ppoo" in refused(micro, "run", "ppoo", "-r", "micro.yaml")


def test_missing_recipe(micro):
    assert "micro.yaml" in refused(micro, "plan", "-r", "mikro.yaml")


@pytest.mark.parametrize(
    "content, expected",
    [
        ("", "text.jsonl: the file is empty"),
        ("[]", "no row is left"),
        ('{"txt": "a"}\n', 'text.jsonl:1 has no "text"'),
        ('{"text": "a"}\n{"text": \n', "text.jsonl:2 not valid JSON"),
        ('[{"text": "a"}, {"text": "b', "text.jsonl:1: the JSON array breaks off"),
        (b"\xff\x00\xfe", "text.jsonl:1: not UTF-8"),
        (b"\xff\xfe\x00", "text.jsonl:1: not utf-16"),
    ],
)
def test_broken_data(micro, content, expected):
    (micro / "text.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert expected in refused(micro, "run", "pretrain", "-r", "micro.yaml")


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"prompt": "a", "chosen": "b"}, 'pairs.jsonl:2 has no "rejected"'),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, 'pairs.jsonl:2 "chosen" and "rejected" are the same'),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, 'pairs.jsonl:2 "rejected" is empty'),
    ],
)
def test_bad_pairs(built, row, expected):
    write_rows(built / "pairs.jsonl", [{"prompt": "q", "chosen": "x", "rejected": "y"}, row])
    assert expected in refused(built, "run", "dpo", "-r", "micro.yaml")


def test_a_completion_without_a_token_of_its_own(built):
    write_rows(built / "chat.jsonl", [{"prompt": "q", "completion": "a"}] * 9 + [{"prompt": "q", "completion": ""}])
    assert 'chat.jsonl:10 "completion" is empty' in refused(built, "run", "sft", "-r", "micro.yaml")


def test_bad_rows_can_be_left_out_and_are_listed(built):
    rows = [json.loads(line) for line in (built / "chat.jsonl").read_text().splitlines()]
    write_rows(built / "chat.jsonl", [*rows, {"prompt": "no answer"}])
    align("run", "sft", "-r", "micro.yaml", "--set", "stages.sft.data.on_bad_row=drop", cwd=built)
    folder = attempt(built, "sft")
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    assert [(one["line"], one["row"]) for one in rejected] == [(len(rows) + 1, {"prompt": "no answer"})]
    counts = json.loads((folder / "manifest.json").read_text())["data"]["rows"]
    assert counts["dropped"] == 1 and counts["read"] == len(rows) + 1


def test_an_adapter_made_for_another_base(built):
    text = (
        (built / "micro.yaml")
        .read_text()
        .replace("hidden_size: 16", "hidden_size: 32")
        .replace("name: micro", "name: wide")
    )
    (built / "wide.yaml").write_text(text)
    align("run", "pretrain", "-r", "wide.yaml", cwd=built)
    model = next((built / "runs" / "wide" / "pretrain").glob("*/model"))
    foreign = built / "foreign"
    shutil.copytree(attempt(built, "sft") / "adapter", foreign)
    said = refused(
        built, "run", "dpo", "-r", "micro.yaml", "--policy", "foreign",
        "--set", f"model={{id: {model}}}", "--set", "stages={dpo: {data: {path: pairs.jsonl}}}",
    )  # fmt: skip
    assert "made for another base" in said


def test_a_truncated_adapter(built):
    file = attempt(built, "sft") / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "adapter_model.safetensors" in refused(built, "run", "dpo", "-r", "micro.yaml")


def test_a_changed_byte_in_an_adapter(built):
    file = attempt(built, "sft") / "adapter" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    said = refused(built, "run", "dpo", "-r", "micro.yaml", "--set", "stages.dpo.train.beta=0.2")
    assert "its digest differs" in said


def test_a_manifest_edited_by_hand(built):
    file = attempt(built, "sft") / "manifest.json"
    file.write_text(file.read_text().replace('"steps": 12', '"steps": 13'))
    assert "was changed after it was written" in refused(built, "run", "dpo", "-r", "micro.yaml")
    assert "was changed after it was written" in refused(built, "plan", "-r", "micro.yaml")


def test_a_reward_model_is_never_a_policy(built):
    said = refused(built, "run", "dpo", "-r", "micro.yaml", "--policy", attempt(built, "reward"))
    assert "reward model" in said


def test_two_runs_on_one_artifact(micro):
    one = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "run", "pretrain", "-r", "micro.yaml"],
        cwd=micro,
        stdout=subprocess.DEVNULL,
    )
    while not list(micro.glob("runs/micro/pretrain/*/run.json")):
        assert one.poll() is None
    assert "another run is working on" in refused(micro, "run", "pretrain", "-r", "micro.yaml")
    assert one.wait() == 0


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("unshare"), reason="root may write anywhere")
def test_no_permission_to_write(micro):
    (micro / "runs").write_text("a file where a folder should be")
    said = refused(micro, "run", "pretrain", "-r", "micro.yaml")
    assert "Choose another folder" in said


def test_a_loss_that_becomes_nan(micro):
    said = refused(
        micro, "run", "pretrain", "-r", "micro.yaml", "--set", "stages.pretrain.train.learning_rate=1e38", code=1
    )
    assert "became NaN or infinite at step" in said and "checkpoint" in said
    assert not list(micro.glob("runs/micro/pretrain/*/manifest.json"))


def test_max_length_beyond_the_models_positions(micro):
    said = refused(micro, "run", "pretrain", "-r", "micro.yaml", "--set", "train.max_length=100")
    assert "64 positions" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_disk_that_fills_while_saving(micro):
    small = micro / "runs"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        said = refused(micro, "run", "pretrain", "-r", "micro.yaml")
        assert "will keep about" in said and not list(small.rglob("checkpoint-*"))  # known before the first step
        fewer = ("--set", "train.save_total_limit=1")  # reckoned to fit, but for the notes beside the tensors
        said = refused(micro, "run", "pretrain", "-r", "micro.yaml", *fewer, code=1)
        assert "the disk is full" in said
        subprocess.run(["mount", "-o", "remount,size=50m", small], check=True)
        align("run", "pretrain", "-r", "micro.yaml", cwd=micro)
    finally:
        subprocess.run(["umount", "-l", small], check=False)
