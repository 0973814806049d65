"""What counts as an artifact: whole, as it was written, and nobody else's at the moment."""

import subprocess
import sys

from conftest import align, attempt, manifest, plan, refused, states
from filelock import FileLock
from processes import kill, start, wait_for


def test_a_half_written_checkpoint_does_not_count(chain, copied):
    folder = copied("sft")
    process = start(folder, "sft")
    wait_for(folder, "sft/*/checkpoints/checkpoint-8", process)
    kill(process, folder)
    (checkpoint,) = (folder / "runs" / "micro" / "sft").glob("*/checkpoints/checkpoint-8")
    weights = checkpoint / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    assert "from step 4" in align("plan", "sft", "-r", "micro.yaml", cwd=folder).stdout
    align("run", "sft", "-r", "micro.yaml", cwd=folder)
    assert manifest(folder, "sft")["weights_sha256"] == manifest(chain, "sft")["weights_sha256"]


def test_what_another_process_works_on_is_shown_as_running_and_refused(built):
    folder = attempt(built, "sft")
    (folder / "manifest.json").unlink()
    with FileLock(folder / ".lock"):
        rows = plan(built, "dpo")
        assert (rows["sft"]["state"], rows["dpo"]["why"]) == ("running", "after sft")
        done = align("run", "dpo", "-r", "micro.yaml", cwd=built, check=False)
        assert done.returncode == 2 and "sft: another run is working on" in done.stdout
    assert states(built, "sft")["sft"] == "continue"


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
