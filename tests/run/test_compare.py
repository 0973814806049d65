"""The verdict on two backends."""


def test_a_difference_beyond_rounding_is_named():
    from pipeline.run.compare import verdict

    loss = {"first_step_beyond": 7, "largest_difference": 0.02, "tolerance": 1e-4}
    said = verdict({"memory_ratios": [0.5], "speed_ratios": [2.0], "on_gpu": True, "loss": loss})
    assert said.startswith("Unsloth: 2.00x tokens per second, 50% less GPU memory") and "from step 7" in said
