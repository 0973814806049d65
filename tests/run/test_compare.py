"""The verdict on two backends."""


def test_a_difference_beyond_rounding_is_named():
    from pipeline.run.compare import verdict

    loss = {"first_step_beyond": 7, "largest_difference": 0.02, "tolerance": 1e-4}
    said = verdict({"memory_ratios": [0.5], "speed_ratios": [2.0], "on_gpu": True, "loss": loss})
    assert said.startswith("Unsloth: 2.00x tokens per second, 50% less GPU memory") and "from step 7" in said


def test_a_stage_that_is_logged_saved_and_measured_otherwise_can_be_compared(read):
    """What a comparison sets leaves nothing in the recipe that would be refused as without effect."""
    from pipeline.run.compare import OVERRIDES

    keys = "logging_strategy: epoch, save_steps: 5, save_total_limit: 1, eval_strategy: steps, eval_steps: 5, eval_delay: 2"
    recipe = f"model: {{id: m}}\nstages: {{sft: {{data: {{path: c}}, train: {{{keys}, num_train_epochs: 2}}}}}}\n"
    train = read(recipe, *(f"stages.sft.{one}" for one in OVERRIDES)).stage("sft").train
    assert (train["logging_strategy"], train["save_strategy"], train["eval_strategy"]) == ("steps", "no", "no")
