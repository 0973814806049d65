"""Short recipes for the tests of reading them."""

from textwrap import dedent

GOOD = """\
model: {id: some/model, dtype: bfloat16}
adapter: {r: 8}
train: {per_device_train_batch_size: 4, learning_rate: 2e-4}
evaluation: {max_rows: 50, samples: 5}
stages:
  dpo:
    data: {path: [a.jsonl, b.jsonl], held_out: 0}
    train: {learning_rate: 5e-6, beta: 1, loss_type: ipo}
    evaluation: {samples: 1}
  sft:
    data: {path: chat.jsonl}
"""


def with_sft(rest):
    """A recipe whose first two lines are good, with something more to be judged."""
    return "model: {id: some/model}\nstages: {sft: {data: {path: chat.jsonl}}}\n" + dedent(rest)


def with_train(key):
    """A recipe that sets one key of the SFT stage, in its third line."""
    return f"model: {{id: m}}\nstages: {{sft: {{data: {{path: c}}, train: {{\n  {key} }}}}}}\n"
