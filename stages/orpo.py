"""Odds ratio preference optimization: SFT and preferences in one, without a reference (https://arxiv.org/abs/2403.07691)."""

from pipeline.stage import Spec

SPEC = Spec(
    config="ORPOConfig",
    home="trl.experimental.orpo",
    in_parts=True,
    row_kind="preference",
    after=("pretrain", "sft"),
    key_figures=("rewards/margins", "rewards/accuracies", "nll_loss"),
    adapter_defaults={"learning_rate": 8e-6},
    of_a_piece=("",),
)


def build_trainer(context):
    from trl.experimental.orpo import ORPOTrainer

    return context.pair_trainer(ORPOTrainer)
