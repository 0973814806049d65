"""PPO's arithmetic against the plain definitions, worked out token by token."""

import math

import pytest
import torch

from pipeline.ppo import arithmetic
from pipeline.ppo.arithmetic import AdaptiveKL, RunningScale

MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_advantages_are_discounted_sums_of_surprises_and_padding_does_not_matter(gamma, lam):
    rewards, values = random(3, 5), random(3, 5, seed=1)
    for row, length in enumerate(MASK.sum(1).tolist()):
        ahead = [float(values[row, t]) for t in range(length)] + [0.0]
        surprises = [float(rewards[row, t]) + gamma * ahead[t + 1] - ahead[t] for t in range(length)]
        wanted = [sum((gamma * lam) ** (s - t) * surprises[s] for s in range(t, length)) for t in range(length)]
        spoiled_rewards, spoiled_values = rewards.clone(), values.clone()
        spoiled_rewards[MASK == 0], spoiled_values[MASK == 0] = math.nan, 1e9
        found, returns = arithmetic.generalized_advantages(spoiled_rewards, spoiled_values, MASK, gamma, lam)
        assert torch.allclose(found[row, :length], torch.tensor(wanted, dtype=torch.float64))
        assert torch.allclose(returns[row, :length], found[row, :length] + values[row, :length])
        assert not found[row, length:].any()


def test_whitening_sees_real_tokens_only():
    values = random(3, 5) * 3 + 2
    real = values[MASK == 1]
    spoiled = values.masked_fill(MASK == 0, 1e6)
    for shift, wanted in ((True, 0.0), (False, float(real.mean()))):
        white = arithmetic.whiten(spoiled, MASK, shift_mean=shift)
        assert float(white[MASK == 1].mean()) == pytest.approx(wanted, abs=1e-6)
        assert float(white[MASK == 1].std(correction=0)) == pytest.approx(1, abs=1e-6)
        assert not white[MASK == 0].any()


def test_policy_loss_is_the_clipped_surrogate_and_clipped_tokens_have_no_gradient():
    old, advantages = random(3, 5) - 2, random(3, 5, seed=2)
    new = (old + 0.4 * random(3, 5, seed=3)).requires_grad_()
    loss, clipped = arithmetic.policy_loss(new, old, advantages, MASK, 0.2)
    wanted, held = 0.0, []
    for row, token in MASK.nonzero().tolist():
        ratio, advantage = math.exp(float(new[row, token] - old[row, token])), float(advantages[row, token])
        bounded = min(max(ratio, 0.8), 1.2)
        wanted += max(-advantage * ratio, -advantage * bounded)
        if -advantage * bounded > -advantage * ratio:
            held.append((row, token))
    assert float(loss) == pytest.approx(wanted)
    loss.backward()
    assert held
    assert [tuple(place) for place in clipped.nonzero().tolist()] == held
    assert not any(float(new.grad[place]) for place in held)
    free = (MASK == 1) & (clipped == 0)
    assert new.grad[free].all()
    assert not new.grad[MASK == 0].any()


def test_value_loss_takes_the_worse_of_the_two_errors():
    old, returns = random(3, 5), random(3, 5, seed=2)
    new = (old + 0.5 * random(3, 5, seed=3)).requires_grad_()
    loss, clipped = arithmetic.value_loss(new, old, returns, MASK, 0.2)
    wanted = 0.0
    for row, token in MASK.nonzero().tolist():
        v, o, r = (float(some[row, token]) for some in (new, old, returns))
        wanted += 0.5 * max((v - r) ** 2, (o + min(max(v - o, -0.2), 0.2) - r) ** 2)
    assert float(loss) == pytest.approx(wanted)
    loss.backward()
    assert clipped.any()
    assert not new.grad[(clipped == 1) | (MASK == 0)].any()


def test_kl_estimators():
    policy, reference = random(4) - 2, random(4, seed=1) - 2
    log_ratio = (policy - reference).tolist()
    assert arithmetic.kl_estimate(policy, reference, "k1").tolist() == pytest.approx(log_ratio)
    k3 = arithmetic.kl_estimate(policy, reference, "k3")
    assert k3.tolist() == pytest.approx([math.exp(-x) - 1 + x for x in log_ratio])
    assert (k3 >= 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_in_chunks_equal_those_at_once_and_so_do_gradients(monkeypatch, temperature):
    head = torch.nn.Linear(8, 50, bias=False).double()
    head.weight.data = random(50, 8, seed=5)
    targets = torch.arange(13) % 50
    found = []
    for size in (1 << 20, 4 * 50 * 3):  # at once; three tokens at a time
        monkeypatch.setattr(arithmetic, "LOGITS_BYTES", size)
        hidden = random(13, 8).requires_grad_()
        logs, entropy = arithmetic.log_probabilities(hidden, head, targets, 50, temperature)
        (logs.sum() + 0.3 * entropy.sum()).backward()
        found.append((logs.detach(), entropy.detach(), hidden.grad, head.weight.grad.clone()))
        head.zero_grad()
    dense = torch.log_softmax((head(random(13, 8)) / temperature).float(), -1)
    assert torch.allclose(found[0][0], dense[torch.arange(13), targets], atol=1e-6)
    assert torch.allclose(found[0][1], torch.distributions.Categorical(logits=dense).entropy(), atol=1e-5)
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_score_stands_on_the_last_real_token():
    rewards = arithmetic.rewards_per_token(torch.tensor([1.0, 2.0, 3.0]), torch.full((3, 5), 0.5), MASK, 0.1)
    assert rewards[0].tolist() == pytest.approx([-0.05, -0.05, -0.05, 0.95, 0])
    assert rewards[1].tolist() == pytest.approx([-0.05, 1.95, 0, 0, 0])
    assert rewards[2].tolist() == pytest.approx([-0.05] * 4 + [2.95])


def test_adaptive_kl_moves_towards_its_target_and_no_faster_than_agreed():
    kl = AdaptiveKL(0.1, target=6.0, horizon=1000)
    kl.update(60.0, 100)
    assert kl.coefficient == pytest.approx(0.1 * (1 + 0.2 * 0.1))
    kl.update(0.0, 100)
    assert kl.coefficient == pytest.approx(0.102 * (1 - 0.2 * 0.1))
    fixed = AdaptiveKL(0.1)
    fixed.update(60.0, 100)
    assert fixed.coefficient == 0.1


def test_the_running_scale_is_that_of_all_scores():
    scores, scale = random(40) * 3 + 1, RunningScale()
    for part in scores.split(7):
        scale.update(part)
    assert scale.deviation == pytest.approx(float(scores.std(correction=0)))
