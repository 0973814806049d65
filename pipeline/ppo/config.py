"""What a PPO stage can be told: TrainingArguments' names, and for PPO's own those that TRL used."""

from dataclasses import dataclass, field
from typing import Literal

from transformers import TrainingArguments


@dataclass
class PPOConfig(TrainingArguments):
    """Arguments of a PPO run.

    One rollout is `per_device_train_batch_size * gradient_accumulation_steps * num_mini_batches` episodes of each process;
    it is trained on in `num_ppo_epochs * num_mini_batches` optimizer steps.
    """

    eval_strategy: str = field(default="steps", metadata={"help": "When held-out prompts are answered in between."})
    eval_steps: float | None = field(default=0.25, metadata={"help": "Optimizer steps, or below 1 a share of them."})
    logging_steps: float = field(default=1, metadata={"help": "Optimizer steps between two log lines."})
    learning_rate: float = field(default=3e-6, metadata={"help": "Of the policy."})
    value_learning_rate: float | None = field(default=None, metadata={"help": "Of the value; None: the policy's."})
    max_length: int = field(default=1024, metadata={"help": "Tokens of a prompt and its response together."})
    response_length: int = field(default=53, metadata={"help": "The most tokens that a response may have."})
    temperature: float = field(default=0.7, metadata={"help": "Of sampling, and of all log-probabilities."})
    total_episodes: int | None = field(
        default=None, metadata={"help": "Responses to train on; None: num_train_epochs passes over the prompts."}
    )
    num_ppo_epochs: int = field(default=4, metadata={"help": "Passes over each rollout."})
    num_mini_batches: int = field(default=1, metadata={"help": "Optimizer steps a pass."})
    local_rollout_forward_batch_size: int = field(default=64, metadata={"help": "Prompts answered at a time."})
    kl_coef: float = field(default=0.05, metadata={"help": "Weight of the KL penalty in the reward."})
    kl_estimator: Literal["k1", "k3"] = field(default="k1", metadata={"help": "How the KL is estimated."})
    kl_target: float | None = field(
        default=None, metadata={"help": "Nats a response that an adaptive kl_coef aims at; None keeps it fixed."}
    )
    kl_horizon: int = field(default=10_000, metadata={"help": "Episodes over which an adaptive kl_coef moves."})
    kl_limit: float = field(default=10.0, metadata={"help": "Nats a response above which a warning is given."})
    gamma: float = field(default=1.0, metadata={"help": "Discount of later rewards."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of the generalized advantage estimate."})
    cliprange: float = field(default=0.2, metadata={"help": "How far the ratio may leave 1."})
    cliprange_value: float = field(default=0.2, metadata={"help": "How far a value may leave the old one."})
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    value_warmup_steps: int = field(default=0, metadata={"help": "Optimizer steps that train the value alone."})
    whiten_rewards: bool = field(default=False, metadata={"help": "Scale rewards to unit variance in a rollout."})
    whiten_advantages: bool = field(default=True, metadata={"help": "Advantages to mean 0 and unit variance."})
    missing_eos_penalty: float | None = field(
        default=None, metadata={"help": "Taken off the score of a response that was cut before its EOS."}
    )
    reward_clip: float | None = field(default=None, metadata={"help": "Scores are kept within plus and minus this."})
    normalize_reward: bool = field(default=False, metadata={"help": "Divide scores by their running deviation."})

    @property
    def rollout_size(self) -> int:
        """Episodes between two changes of the policy that answers."""
        each = self.per_device_train_batch_size * self.gradient_accumulation_steps
        return each * self.num_mini_batches * self.world_size
