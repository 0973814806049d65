"""What goes wrong in PPO, in plain words, with what to change."""

from collections.abc import Mapping, Sequence


def warnings(history: Sequence[Mapping[str, float]], kl_limit: float) -> dict[str, str]:
    """What the rollouts so far show, by the name of the trouble. `history` has one mapping a rollout, of the logged
    names, and `held_out/score` and `held_out/reward` where an evaluation fell.
    """
    found, now, first = {}, history[-1], history[0]
    if now["objective/kl"] > kl_limit:
        found["kl"] = (
            f"the policy is running away from its parent: KL {now['objective/kl']:.1f} nats a response, the limit is "
            f"{kl_limit:g}. Lower train.learning_rate, or raise train.kl_coef."
        )
    if len(history) >= 4 and now["objective/entropy"] < 0.1 * first["objective/entropy"]:
        found["entropy"] = (
            f"entropy fell from {first['objective/entropy']:.3f} to {now['objective/entropy']:.3f} nats a token: the "
            "policy says nearly always the same. Raise train.temperature or train.kl_coef, or lower train.learning_rate."
        )
    if len(history) >= 2 and now["val/eos_rate"] == 0 and history[-2]["val/eos_rate"] == 0:
        found["eos"] = (
            "every response was cut before its EOS: its score means little. Raise train.response_length, or set "
            "train.missing_eos_penalty."
        )
    late = history[-3:]
    if len(history) >= 8 and all(one["val/explained_variance"] < 0.05 for one in late):
        found["value"] = (
            "the value model explains nothing of the returns. Raise train.value_learning_rate or train.vf_coef, or "
            "give it train.value_warmup_steps."
        )
    judged = [one for one in history if "held_out/score" in one]
    if len(judged) >= 2 and judged[-1]["held_out/reward"] > judged[0]["held_out/reward"]:
        fell = judged[0]["held_out/score"] - judged[-1]["held_out/score"]
        if fell > 0.02:
            found["over-optimization"] = (
                f"on held-out prompts the reward rises while the checkable score has fallen by {fell:.3f}: the policy "
                "learns to please the reward model. Raise train.kl_coef, train less, or use a reward_function."
            )
    return found
