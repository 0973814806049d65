"""Reward modelling: a score head that ranks the chosen answer above the rejected one (Bradley-Terry)."""

from pipeline.stage import Spec

SPEC = Spec(
    config="RewardConfig",
    in_parts=True,
    row_kind="preference",
    after=("pretrain", "sft"),
    head="score",
    shares_prompt=True,
    key_figures=("margin", "accuracy"),
)


def build_trainer(context):
    from trl import RewardTrainer

    from pipeline.train.loop.shared_prompt.layout import PROMPT_TOKENS

    def whole(rows):
        """TRL's reward trainer scores whole conversations."""
        sides = ("chosen_ids", "rejected_ids")
        return rows.map(
            lambda row: {key: row["prompt_ids"] + row[key] for key in sides} | {PROMPT_TOKENS: len(row["prompt_ids"])},
            remove_columns=rows.column_names,
            keep_in_memory=True,  # else each run leaves another file beside the prepared rows
        )

    # Rows are already cut to max_length; TRL would throw away, unsaid, whatever is longer.
    return context.trainer(RewardTrainer, data=whole, config={"max_length": None, "remove_unused_columns": False})
