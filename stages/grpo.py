"""Group relative policy optimization: several answers to a prompt, each judged by the others (https://arxiv.org/abs/2402.03300)."""

from pipeline.stage import Spec

SPEC = Spec(
    config="GRPOConfig",
    row_kind="prompt",
    after=("pretrain", "sft"),
    rewarded_by=("reward",),
    response="max_completion_length",
    reference=True,
    zero_at_first=("kl",),
    key_figures=("reward", "kl", "completions/mean_length", "groups_without_signal"),
    defaults={"disable_dropout": True, "num_generations_eval": 1},  # held-out prompts are answered by the evaluation
    adapter_defaults={"learning_rate": 1e-5},
    of_a_piece=("bnpo",),
)


def build_trainer(context):
    from trl import GRPOTrainer

    from pipeline.train.loop.groups import trainer_in_groups

    return trainer_in_groups(context, GRPOTrainer)
