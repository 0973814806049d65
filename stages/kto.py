"""Kahneman-Tversky optimization: learn from answers that are each labeled as wanted or not (https://arxiv.org/abs/2402.01306)."""

from pipeline.stage import Spec

SPEC = Spec(
    config="KTOConfig",
    in_parts=True,
    row_kind="labeled",
    after=("pretrain", "sft"),
    reference=True,
    reference_columns=("ref_logps", "ref_KL_logps"),
    zero_at_first=("rewards/chosen", "rewards/rejected", "kl"),
    trained=("per_device_train_batch_size",),  # the KL that answers are held against is estimated in each batch
    least={"per_device_train_batch_size": 2},
    key_figures=("rewards/margins", "kl"),
    defaults={"precompute_ref_log_probs": True},
    adapter_defaults={"learning_rate": 5e-6},
)


def build_trainer(context):
    from trl import KTOTrainer

    def with_unrelated(rows):
        """Beside each answer that of the row before, which has nothing to do with the prompt: it tells the KL."""
        answers = rows.data.column("completion_ids")
        shifted = answers.take([len(rows) - 1, *range(len(rows) - 1)])
        return rows.add_column("KL_completion_ids", shifted)

    wanted = sum(context.rows["label"])
    unwanted = len(context.rows) - wanted
    text = f"{wanted:.0f} answers are wanted and {unwanted:.0f} not"
    weights = context.effective("desirable_weight") * wanted, context.effective("undesirable_weight") * unwanted
    if not 3 / 4 <= weights[0] / weights[1] <= 4 / 3:  # eq. 8 of the paper, and as far to the other side
        fair = round(context.effective("undesirable_weight") * unwanted / wanted, 2)
        text += f": train.desirable_weight {fair} would weigh them alike"
    context.report("note", text=text)
    # TRL pairs answers by their order in the file; ours are paired already, and may come in any order.
    return context.trainer(KTOTrainer, data=with_unrelated, config={"train_sampling_strategy": "sequential"})
