"""A user's mistake ends with exit code 2 and one clear message; the machine's failure with 1. Never a traceback."""

import os
import shutil
import subprocess

import pytest
from conftest import align, attempt, refused, write_rows


def test_mistakes_in_the_recipe_all_at_once(micro):
    said = refused(
        micro,
        "plan",
        "-r",
        "micro.yaml",
        "--set",
        "stages.dpo.train.betta=1",
        "--set",
        "stages.sft.train.learning_rate=fast",
        "--set",
        "stages.sfd.data.path=x",
    )
    assert "betta" in said and "beta" in said and "learning_rate" in said and "sfd" in said


def test_tokens_that_a_method_cannot_train_are_told_by_the_plan(built):
    base = attempt(built, "pretrain") / "model"
    asked = ("plan", "sft", "-r", "micro.yaml", "--set", f"model={{id: {base}, template: chatml}}")
    rest = ("--set", "stages.sft.policy=null", "--set")
    said = refused(built, *asked, *rest, "adapter={method: ia3}")
    assert "<|im_start|>" in said and "cannot train tokens beside itself" in said and "plain and raw" in said
    align(*asked, *rest, "adapter={method: lora}", cwd=built)


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


def test_without_curves_there_is_nothing_to_show(micro):
    said = refused(micro, "tensorboard", "-r", "micro.yaml")
    assert "runs/micro/tensorboard: no stage has written curves" in said and "train.report_to=tensorboard" in said
