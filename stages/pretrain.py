"""Pretraining: next-token prediction on plain text, long documents in pieces of max_length."""

from pipeline.stage import Spec

SPEC = Spec(
    config="SFTConfig",
    in_parts=True,
    row_kind="text",
    after=(),
    key_figures=("mean_token_accuracy",),
)


def build_trainer(context):
    from trl import SFTTrainer

    return context.trainer(SFTTrainer)
