"""Simple preference optimization: the mean log-probability is the reward, without a reference (https://arxiv.org/abs/2405.14734).

TRL has it as a loss of its CPO trainer; `train.loss_type: sigmoid` with a `cpo_alpha` is CPO (https://arxiv.org/abs/2401.08417).
"""

from pipeline.stage import Spec

SPEC = Spec(
    config="CPOConfig",
    home="trl.experimental.cpo",
    in_parts=True,
    row_kind="preference",
    after=("pretrain", "sft"),
    key_figures=("rewards/margins", "rewards/accuracies"),
    defaults={"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 0.5},
    adapter_defaults={"learning_rate": 5e-6},
)


def build_trainer(context):
    from trl.experimental.cpo import CPOTrainer

    return context.pair_trainer(CPOTrainer)
