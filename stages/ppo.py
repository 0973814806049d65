"""Proximal policy optimization against a reward model, a reward function, or both (https://arxiv.org/abs/1707.06347)."""

from pipeline.stage import Spec

SPEC = Spec(
    config="PPOConfig",
    home="pipeline.ppo.config",
    row_kind="prompt",
    after=("pretrain", "sft"),
    rewarded_by=("reward",),
    response="response_length",
    key_figures=("objective/scores", "objective/kl", "val/response_length"),
    adapter_defaults={"learning_rate": 1e-5},
)


def build_trainer(context):
    from pipeline.ppo.trainer import PPOTrainer

    return context.trainer(PPOTrainer, ranks=context.ranks)
