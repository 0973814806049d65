"""Which prompts and rows are due at a step of PPO: told by counting, so that a resumed run needs no memory of it."""

import pytest

from pipeline.ppo.config import PPOConfig
from pipeline.ppo.schedule import Due, Schedule


def schedule(prompts: int = 5, **given) -> Schedule:
    small = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_mini_batches": 2,
        "num_ppo_epochs": 3,
    }
    return Schedule(PPOConfig(use_cpu=True, bf16=False, **small | given), prompts)


def test_every_pass_over_a_rollout_takes_each_of_its_rows_once_and_in_another_order():
    of = schedule()
    passes = [of.micro_batches(0, epoch, lengths=[1] * 8) for epoch in range(3)]
    for micro_batches in passes:
        assert [len(rows) for rows in micro_batches] == [2, 2, 2, 2]
        assert sorted(row for rows in micro_batches for row in rows) == list(range(8))
    assert passes[0] != passes[1] != passes[2] and passes == [of.micro_batches(0, e, lengths=[1] * 8) for e in range(3)]


def test_the_micro_batches_of_the_steps_make_up_the_pass():
    of, lengths = schedule(), [5, 1, 4, 2, 8, 3, 7, 6]
    steps = [of.micro_batches_of_step(Due(0, 0, 1, mini_batch, 0), lengths) for mini_batch in (0, 1)]
    assert steps[0] + steps[1] == of.micro_batches(0, 1, lengths)
    for rows in ([row for part in step for row in part] for step in steps):
        assert [lengths[row] for row in rows] == sorted(lengths[row] for row in rows)


def test_the_data_are_gone_through_pass_by_pass_across_rollouts():
    of = schedule(prompts=5)
    rows = [row for rollout in range(5) for row in of.prompts_of(rollout)]
    passes = [rows[at : at + 5] for at in range(0, 40, 5)]
    assert all(sorted(one) == list(range(5)) for one in passes) and len({tuple(one) for one in passes}) > 1


def test_a_tick_says_where_it_belongs():
    of = schedule()  # 2 micro-batches a step, 2 steps a pass, 3 passes a rollout
    assert of.due(0) == Due(step=0, rollout=0, epoch=0, mini_batch=0, micro_batch=0)
    assert of.due(7) == Due(step=3, rollout=0, epoch=1, mini_batch=1, micro_batch=1)
    assert of.due(12) == Due(step=6, rollout=1, epoch=0, mini_batch=0, micro_batch=0)


@pytest.mark.parametrize(
    ("given", "steps"),
    [({"total_episodes": 17}, 18), ({"num_train_epochs": 1}, 6), ({"total_episodes": 17, "max_steps": 7}, 7)],
)
def test_whole_rollouts_unless_max_steps_is_less(given, steps):
    assert schedule(**given).steps() == steps
