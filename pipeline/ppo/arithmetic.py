"""The arithmetic of PPO, in functions that know no trainer and no model.

Tensors of one token each have shape (rows, tokens) and a `mask` of that shape that is 1 where a token
is a real part of a response; what stands under a 0 is ignored, whatever it is. Unless said otherwise
figures are in nats.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_BYTES = 64 << 20  # the largest tensor of logits that is held at a time


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over real tokens, as a scalar; 0 where there are none."""
    return (values.masked_fill(mask == 0, 0) * mask).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Scaled to unit variance over the real tokens and, with `shift_mean`, to mean 0; padding becomes 0."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean).masked_fill(mask == 0, 0)


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """(advantages, returns), both (rows, tokens): https://arxiv.org/abs/1506.02438, equation 16.

    Each row's real tokens stand together; nothing is worth anything after the last of them.
    """
    rewards, values = rewards.masked_fill(mask == 0, 0), values.masked_fill(mask == 0, 0)
    advantages = torch.zeros_like(values)
    ahead, value_ahead = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for token in reversed(range(values.shape[1])):
        real = mask[:, token]
        surprise = rewards[:, token] + gamma * value_ahead - values[:, token]
        ahead = (surprise + gamma * lam * ahead) * real
        value_ahead = values[:, token] * real
        advantages[:, token] = ahead
    return advantages, advantages + values


def policy_loss(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """(loss, clipped): the summed clipped surrogate of https://arxiv.org/abs/1707.06347, equation 7, as a loss to
    be divided by a number of tokens, and 1 where clipping took effect, of shape (rows, tokens).
    """
    ratio = torch.exp((new - old).masked_fill(mask == 0, 0))
    plain, bounded = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    loss = torch.maximum(plain, bounded).masked_fill(mask == 0, 0)
    return loss.sum(), (bounded > plain).float() * mask


def value_loss(new: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """(loss, clipped), as `policy_loss`: half of the squared error, of the worse of the value and the value kept
    within `clip` of the old one.
    """
    bounded = old + (new - old).clamp(-clip, clip)
    plain, bounded = (new - returns) ** 2, (bounded - returns) ** 2
    loss = torch.maximum(plain, bounded).masked_fill(mask == 0, 0)
    return 0.5 * loss.sum(), (bounded > plain).float() * mask


def kl_estimate(policy: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """KL(policy || reference) at each sampled token, from the log-probabilities of both.

    "k1" is unbiased, "k3" is so too, never negative and of less variance: http://joschu.net/blog/kl-approx.html.
    """
    difference = reference - policy
    return -difference if estimator == "k1" else torch.expm1(difference) - difference


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over real tokens: 1 is perfect, 0 no better than a constant."""

    def variance(of: Tensor) -> Tensor:
        return masked_mean((of - masked_mean(of, mask)) ** 2, mask)

    spread = variance(returns)
    return float(1 - variance(returns - values) / spread) if spread > 0 else 0.0


def rewards_per_token(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """(rows, tokens): the KL penalty at each token, and the score (rows,) at the last real one."""
    rewards = (-kl_coef * kl).masked_fill(mask == 0, 0)
    last = (mask.sum(1).long() - 1).clamp(min=0)
    rewards[torch.arange(len(scores)), last] += scores
    return rewards


def log_probabilities(
    hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, vocabulary: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """(log p of each target, entropy), both (tokens,) in fp32, of the distribution that is sampled from.

    `hidden` is (tokens, width) and `head` maps it to logits, in chunks: logits of more than one chunk never
    stand together, neither forwards nor (they are computed again) backwards.
    """

    def chunk(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logs = torch.log_softmax(head(hidden).float() / temperature, dim=-1)
        return logs.gather(-1, targets[:, None])[:, 0], -(logs.exp() * logs).sum(-1)

    size = max(LOGITS_BYTES // (4 * vocabulary), 1)
    if len(targets) <= size:
        return chunk(hidden, targets)
    parts = [
        checkpoint(
            chunk, hidden[at : at + size], targets[at : at + size], use_reentrant=False, preserve_rng_state=False
        )
        for at in range(0, len(targets), size)
    ]
    found, entropy = zip(*parts, strict=True)
    return torch.cat(found), torch.cat(entropy)


@dataclass
class AdaptiveKL:
    """A KL coefficient that moves towards keeping the KL at `target`: https://arxiv.org/abs/1909.08593, section 2.2."""

    coefficient: float
    target: float | None = None  # nats a response; None leaves the coefficient as it is
    horizon: int = 10_000  # episodes in which a KL that is far too large doubles and more

    def update(self, kl: float, episodes: int) -> None:
        if self.target:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.coefficient *= 1 + error * episodes / self.horizon


@dataclass
class RunningScale:
    """The spread of all scores seen so far (Welford's method, merged batch by batch)."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0  # the sum of squared distances from the mean

    def update(self, scores: Tensor) -> None:
        n, mean = len(scores), float(scores.double().mean())
        squares = float(((scores.double() - mean) ** 2).sum())
        total, apart = self.count + n, mean - self.mean
        self.squares += squares + apart**2 * self.count * n / total
        self.mean += apart * n / total
        self.count = total

    @property
    def deviation(self) -> float:
        return (self.squares / self.count) ** 0.5 if self.count > 1 else 1.0
