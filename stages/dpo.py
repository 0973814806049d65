"""Direct preference optimization against the incoming policy, frozen (https://arxiv.org/abs/2305.18290)."""

from pipeline.stage import Spec

SPEC = Spec(
    config="DPOConfig",
    in_parts=True,
    row_kind="preference",
    after=("pretrain", "sft"),
    reference=True,
    shares_prompt=True,
    reference_columns=("ref_chosen_logps", "ref_rejected_logps"),
    zero_at_first=("rewards/chosen", "rewards/rejected"),
    defaults={"precompute_ref_log_probs": True},
    key_figures=("rewards/margins", "rewards/accuracies"),
    adapter_defaults={"learning_rate": 5e-6},
    of_a_piece=("sft", "aot", "aot_unpaired", "bco_pair"),
)


def build_trainer(context):
    from trl import DPOTrainer

    from pipeline.train.loop.shared_prompt.forward import SharedPrompt

    return context.trainer(DPOTrainer, front=SharedPrompt)
