"""What goes wrong in PPO: what goes wrong wherever rewards are trained on, and its value model."""

from collections.abc import Mapping, Sequence

from pipeline.reward.troubles import Settings, troubles

# What every trainer on rewards calls otherwise.
PLAIN = {
    "kl": "objective/kl",
    "entropy": "objective/entropy",
    "ended": "val/eos_rate",
    "length": "val/response_length",
    "no_signal": "val/no_signal",
}


def warnings(history: Sequence[Mapping[str, float]], kl_limit: float, longest: int) -> dict[str, str]:
    """As `troubles`. `history` has one mapping a rollout, of the logged names; responses have at most `longest` tokens."""
    settings = Settings(
        kl_limit=kl_limit,
        kl_unit="nats a response",
        penalty="kl_coef",
        length="response_length",
        longest=longest,
        unended="missing_eos_penalty",
    )
    plain = [one | {name: one[logged] for name, logged in PLAIN.items() if logged in one} for one in history]
    found = troubles(plain, settings)
    late = [one["val/explained_variance"] for one in history[-3:]]
    if len(history) >= 8 and all(one < 0.05 for one in late):
        found["value"] = (
            "the value model explains nothing of the returns. Raise train.value_learning_rate or train.vf_coef, or "
            "give it train.value_warmup_steps."
        )
    return found
