"""What benchmarks/scale.py reckons with: formulas whose values are known."""

import math

import pytest

from benchmarks import scale_on_paper as paper
from benchmarks import scale_simulated as simulated
from pipeline.plan.memory.need import GIB


def test_a_ring_sends_nearly_everything_twice():
    assert paper.all_reduce(100, 1) == 0
    assert paper.all_reduce(100, 2) == 100  # half of it there, half of it back
    assert paper.all_reduce(100, 8) == 175
    assert paper.all_reduce(100, 64) == paper.half_of_it(100, 64) * 2 == 196.875


def test_between_machines_all_network_cards_together_are_the_link():
    inside, between = paper.Cluster(8), paper.Cluster(64)
    assert inside.bandwidth == pytest.approx(0.8 * 450e9)
    assert between.bandwidth == pytest.approx(0.8 * 8 * 50e9)
    assert paper.Cluster(64, cards=1).bandwidth == pytest.approx(0.8 * 50e9)


def test_operations_are_near_to_six_and_eight_for_each_weight():
    shape = paper.Work("8B", "lora").shape
    weights = shape.parameters - shape.embeddings
    assert shape.parameters == 8_030_261_248
    assert paper.Work("8B", "lora").flops_of_token / weights == pytest.approx(6, rel=0.1)
    assert paper.Work("8B", "full").flops_of_token / weights == pytest.approx(8, rel=0.1)


def test_memory_of_a_rank_goes_down_with_what_is_divided():
    for method in ("lora", "full"):
        held = [paper.memory(paper.Work("8B", method), strategy, 8) for strategy in paper.STRATEGIES]
        assert held == sorted(held, reverse=True)
    # Weights, gradients, two states and DDP's copy of the gradients: ten bytes a weight in bf16, beside activations.
    assert paper.memory(paper.Work("8B", "full"), "ddp", 8) / GIB == pytest.approx(10 * 8.03e9 / GIB, rel=0.1)


def test_what_is_not_hidden_makes_a_step_longer():
    work, slow = paper.Work("70B", "full"), paper.Cluster(64, cards=1)
    for strategy in paper.STRATEGIES:
        one = paper.step(work, strategy, paper.Cluster(64))
        assert one.computing < one.with_overlap <= one.without_overlap
        assert paper.step(work, strategy, slow).with_overlap > one.with_overlap
    assert paper.pays_until(work, "fsdp/zero3", slow) < paper.pays_until(work, "fsdp/zero3", paper.Cluster(64))
    with pytest.raises(ValueError, match="too few for 256"):
        paper.step(work, "ddp", paper.Cluster(256))


def test_the_slowest_of_two_and_of_four():
    # The largest of two and of four normal variables lies at 0.5642 and 1.0294 standard deviations.
    for ranks, at in ((1, 0.0), (2, 0.5642), (4, 1.0294)):
        assert simulated.straggling(ranks, 0.01) == pytest.approx(1 + 0.01 * at, abs=5e-4)
    assert simulated.straggling(4, 0.01, passes=16) == pytest.approx(1 + 0.01 * 1.0294 / 4, abs=5e-4)


def test_lost_ranks_cost_what_dalys_model_says():
    for every, cost in ((60, 5), (600, 20), (3000, 200)):
        played = simulated.lost_ranks(1e7, every, cost, 120, 3600)
        assert played == pytest.approx(simulated.expected(1e7, every, cost, 120, 3600), rel=0.02)


def test_the_best_interval_is_near_to_youngs():
    assert simulated.young(2, 3600) == 120
    assert simulated.daly(2, 3600) == pytest.approx(120 * (1 + math.sqrt(1 / 3600) / 3 + 1 / 3600 / 9) - 2)
    best, took = simulated.best_interval(20, 120, 3600, work=4e6)
    assert best == pytest.approx(simulated.young(20, 3600), rel=0.4)
    assert took <= simulated.expected(1, 1000, 20, 120, 3600)
