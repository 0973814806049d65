"""What a person wants of a model, and the stages that do it, each with where to begin."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CHAT, DOMAIN, PREFERENCES, VERIFIABLE = "chat", "domain", "preferences", "verifiable"


@dataclass(frozen=True)
class Beginning:
    """A stage with the numbers to begin from. `rows` is how many go into one update."""

    stage: str
    learning_rate: float
    rows: int = 16
    train: Mapping[str, Any] | None = None


GOALS = {
    CHAT: "it answers as your conversations do",
    DOMAIN: "it knows your texts",
    PREFERENCES: "it answers as people prefer, from pairs or labels",
    VERIFIABLE: "it solves tasks whose answers can be checked",
}
# By the kind of a file's rows. A LoRA of the whole network learns at ten times the rate of full tuning.
BY_KIND = {
    "text": Beginning("pretrain", 1e-4, train={"packing": True}),
    "conversation": Beginning("sft", 2e-4),
    "preference": Beginning("dpo", 5e-6, train={"beta": 0.1}),
    "labeled": Beginning("kto", 5e-6, train={"beta": 0.1}),
}
TO_BE_CHECKED = Beginning("grpo", 1e-5, train={"num_generations": 8, "max_completion_length": 512})
NEEDS = {CHAT: "conversation", DOMAIN: "text", PREFERENCES: "preference or labeled", VERIFIABLE: "prompt"}
