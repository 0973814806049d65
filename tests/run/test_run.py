"""One command: another attempt beside the first, a folder that was moved, an attempt begun otherwise."""

import json

from conftest import align, attempt, manifest


def test_a_moved_runs_folder_is_trained_on(built):
    moved = built.rename(built.with_name("elsewhere"))
    align("run", "dpo", "-r", "micro.yaml", "--set", "stages.dpo.train.beta=0.2", cwd=moved)
    assert manifest(moved, "dpo")["base"]["source"].startswith(str(moved))


def test_fresh_is_another_attempt_beside_the_first(built):
    first = attempt(built, "dpo")
    align("run", "dpo", "-r", "micro.yaml", "--fresh", cwd=built)
    assert attempt(built, "dpo").name == f"{first.name}-2" and (first / "manifest.json").is_file()
    assert (
        manifest(built, "dpo")["weights_sha256"] == json.loads((first / "manifest.json").read_text())["weights_sha256"]
    )


def test_an_attempt_begun_otherwise_is_refused_with_both_ways_out(built):
    folder = attempt(built, "dpo")
    (folder / "manifest.json").unlink()
    machine = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(machine | {"device": "cuda"}))
    done = align("run", "dpo", "-r", "micro.yaml", cwd=built, check=False)
    assert done.returncode == 2 and "FRESH=1" in done.stdout and "device" in done.stdout
