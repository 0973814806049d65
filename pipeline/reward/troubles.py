"""What goes wrong where a policy is trained on rewards, in plain words, with what to change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALIKE = 3  # rollouts one after the other


@dataclass(frozen=True)
class Settings:
    """What the advice names: fields of the stage's config."""

    kl_limit: float  # of `kl`, in its own unit
    kl_unit: str  # "nats a response"
    penalty: str  # the field that weighs the KL
    length: str  # the field that says how long a response may be, and
    longest: int  # how long that is, in tokens
    unended: str  # the field that says what becomes of a response without an end


def troubles(history: Sequence[Mapping[str, float]], settings: Settings) -> dict[str, str]:
    """What the rollouts so far show, by the name of the trouble.

    `history` has one mapping a rollout: `kl`, `entropy` (nats a token), `ended` (the share of responses), `length` (tokens),
    `no_signal` (the share of responses whose reward tells nothing of them), and `held_out/score` and `held_out/reward` where
    an evaluation fell; what is not there is not looked at.
    """
    checks = (_kl, _entropy, _endless, _longer, _no_signal, _over_optimization)
    return {name: text for check in checks for name, text in check(history, settings).items()}


def _all(history: Sequence[Mapping[str, float]], name: str, at_least: int) -> list[float]:
    """A figure of every rollout; nothing where there are fewer than that."""
    found = [one[name] for one in history if name in one]
    return found if len(found) >= at_least else []


def _kl(history, settings: Settings) -> dict[str, str]:
    found = _all(history, "kl", 1)
    if not found or found[-1] <= settings.kl_limit:
        return {}
    raise_it = f"raise train.{settings.penalty}"
    return {
        "kl": f"the policy is running away from its parent: KL {found[-1]:.3g} {settings.kl_unit}, the limit is "
        f"{settings.kl_limit:g}. Lower train.learning_rate, or {raise_it}."
    }


def _entropy(history, settings: Settings) -> dict[str, str]:
    found = _all(history, "entropy", 4)
    if not found or found[-1] >= 0.1 * found[0]:
        return {}
    return {
        "entropy": f"entropy fell from {found[0]:.3f} to {found[-1]:.3f} nats a token: the policy says nearly always the "
        f"same. Raise train.temperature or train.{settings.penalty}, or lower train.learning_rate."
    }


def _endless(history, settings: Settings) -> dict[str, str]:
    found = _all(history, "ended", 2)
    if not found or any(found[-2:]):
        return {}
    return {
        "eos": "every response was cut before its EOS: its score means little. Raise "
        f"train.{settings.length}, or set train.{settings.unended}."
    }


def _longer(history, settings: Settings) -> dict[str, str]:
    found = _all(history, "length", 4)
    if not found or found[-1] < max(2 * found[0], settings.longest / 2):
        return {}
    return {
        "length": f"responses grew from {found[0]:.0f} to {found[-1]:.0f} tokens, of at most {settings.longest}: see whether "
        "the reward pays for length. A reward function `length` beside it makes long ones cost."
    }


def _no_signal(history, settings: Settings) -> dict[str, str]:
    found = _all(history, "no_signal", ALIKE)
    if not found or min(found[-ALIKE:]) < 1:
        return {}
    return {
        "no signal": f"for {ALIKE} rollouts all responses to a prompt got the same reward: nothing tells better from worse, "
        "and nothing is learned. Look at the answers in samples.jsonl: prompts that are too hard or too easy for the policy, "
        "or a reward that never differs."
    }


def _over_optimization(history, settings: Settings) -> dict[str, str]:
    judged = [one for one in history if "held_out/score" in one]
    if len(judged) < 2 or judged[-1]["held_out/reward"] <= judged[0]["held_out/reward"]:
        return {}
    fell = judged[0]["held_out/score"] - judged[-1]["held_out/score"]
    if fell <= 0.02:
        return {}
    return {
        "over-optimization": f"on held-out prompts the reward rises while the checkable score has fallen by {fell:.3f}: the "
        f"policy learns to please the reward. Raise train.{settings.penalty}, train less, or use a reward_function."
    }
