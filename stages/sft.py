"""Supervised fine-tuning: learn the assistant's answers of conversations."""

from pipeline.stage import Spec

SPEC = Spec(
    config="SFTConfig",
    in_parts=True,
    row_kind="conversation",
    after=("pretrain",),
    key_figures=("mean_token_accuracy",),
    adapter_defaults={"learning_rate": 2e-4},
)


def build_trainer(context):
    from trl import SFTTrainer

    return context.trainer(SFTTrainer)
