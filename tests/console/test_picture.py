"""The picture of a comparison."""

import pytest


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from pipeline.console import picture

    trial = {"losses": [2.0, 1.5, 1.2], "step_tokens": [9, 9, 9], "step_seconds": [1.0, 0.5, 0.5]}
    other = trial | {"losses": [2.0, 1.5, 1.3]}
    ran = dict.fromkeys(("device", "dtype", "quantization", "max_length", "batch", "rank"), "-")
    backends = {"unsloth": {"warm_up_steps": 1}}
    picture.draw(
        {
            "steps": 3,
            "repeats": 1,
            "recipe": "r",
            "stage": "sft",
            "verdict": "v",
            "what_ran": ran,
            "backends": backends,
            "trials": {"transformers": [trial], "unsloth": [other]},
            "loss": {"tolerance": 1e-4},
        },
        tmp_path / "p.png",
    )
    assert (tmp_path / "p.png").stat().st_size > 10_000
