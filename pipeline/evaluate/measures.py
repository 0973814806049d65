"""The figures that need no answer to be written: from the log-probabilities or scores of the held-out rows.

MEASURES has one for each kind of row, and for each head that is trained on it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from pipeline.data.tokens.encoded import IGNORED
from pipeline.evaluate.figures import Figures, above, share_above
from pipeline.evaluate.forward import log_probabilities, scores


@dataclass(frozen=True)
class HeldOut:
    """Rows as token columns, at most so many in a forward pass; `beta` is DPO's, where its loss is the sigmoid one."""

    columns: Sequence[dict]
    pad_token_id: int
    at_most: int
    beta: float | None = None


def language_model(model, rows: HeldOut, figures: Figures, before: Figures | None) -> None:
    """Loss in nats a token, over the tokens that carry loss."""
    columns = [(row["input_ids"], row.get("labels", row["input_ids"])) for row in rows.columns]
    sums, counts = log_probabilities(model, columns, rows.pad_token_id, rows.at_most)
    loss = -sum(sums) / max(sum(counts), 1)
    figures.each["loss"] = [-total / max(count, 1) for total, count in zip(sums, counts, strict=True)]
    figures.weights["loss"] = counts
    figures.metrics |= {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700)),
        "n": len(columns),
        "n_tokens": sum(counts),
    }


def preference(model, rows: HeldOut, figures: Figures, before: Figures | None) -> None:
    """Accuracy: how often the mean log-probability per token prefers the chosen answer, ties counting half."""
    chosen, rejected = (answers(model, rows, side) for side in ("chosen_ids", "rejected_ids"))
    means = [[s / max(n, 1) for s, n in zip(*side, strict=True)] for side in (chosen, rejected)]
    figures.margins = [c - r for c, r in zip(chosen[0], rejected[0], strict=True)]
    figures.mean_of("preference_accuracy", above(*means))
    figures.metrics |= _baselines(rows)
    if rows.beta is not None:
        reference = before.margins if before else figures.margins
        gains = [m - r for m, r in zip(figures.margins, reference, strict=True)]
        losses = -logsigmoid(rows.beta * torch.tensor(gains, dtype=torch.float64))
        figures.each["loss"], figures.metrics["loss"] = losses.tolist(), float(losses.mean())


def labeled(model, rows: HeldOut, figures: Figures, before: Figures | None) -> None:
    """Accuracy: how often a wanted answer is likelier per token than an unwanted one, over all pairs of the two."""
    sums, counts = answers(model, rows, "completion_ids")
    means = [total / max(n, 1) for total, n in zip(sums, counts, strict=True)]
    sides = [
        [number for number, row in enumerate(rows.columns) if bool(row["label"]) == side] for side in (True, False)
    ]
    figures.margins = sums
    figures.metrics |= {"n": len(sums), "n_wanted": len(sides[0])}
    if all(sides):
        wanted, unwanted = ([means[number] for number in side] for side in sides)
        lengths = [[counts[number] for number in side] for side in sides]
        longer = _share_of_pairs(*lengths)
        accuracy = {"preference_accuracy": _share_of_pairs(wanted, unwanted)}
        figures.metrics |= accuracy | {"guess_by_length": max(longer, 1 - longer)}


def _share_of_pairs(those: Sequence[float], others: Sequence[float]) -> float:
    """How often one of those is above one of the others, ties counting half: the area under the ROC curve."""
    one, other = torch.tensor(those, dtype=torch.float64)[:, None], torch.tensor(others, dtype=torch.float64)[None]
    return float(((one > other).double() + (one == other).double() / 2).mean())


def reward(model, rows: HeldOut, figures: Figures, before: Figures | None) -> None:
    """How often the chosen answer scores higher, ties counting half."""
    chosen, rejected = (
        scores(model, [row["prompt_ids"] + row[side] for row in rows.columns], rows.pad_token_id, rows.at_most)
        for side in ("chosen_ids", "rejected_ids")
    )
    difference = torch.tensor(chosen, dtype=torch.float64) - torch.tensor(rejected, dtype=torch.float64)
    losses = -logsigmoid(difference)
    figures.each["loss"], figures.metrics["loss"] = losses.tolist(), float(losses.mean())
    figures.mean_of("reward_accuracy", above(chosen, rejected))
    figures.metrics |= _baselines(rows)


def answers(model, rows: HeldOut, side: str) -> tuple[list[float], list[int]]:
    """(log-probabilities, numbers of tokens) of the answers in a column, given their prompts."""
    columns = [(r["prompt_ids"] + r[side], [IGNORED] * len(r["prompt_ids"]) + r[side]) for r in rows.columns]
    return log_probabilities(model, columns, rows.pad_token_id, rows.at_most)


def _baselines(rows: HeldOut) -> dict[str, float]:
    """The share of pairs that are right by the number of tokens alone, the longer answer always being preferred, or the
    shorter, whichever is right more often. That needs no model at all.
    """
    lengths = [[len(row[side]) for row in rows.columns] for side in ("chosen_ids", "rejected_ids")]
    longer = share_above(*lengths)
    return {"guess_by_length": max(longer, 1 - longer), "n": len(rows.columns)}


Measure = Callable[[object, HeldOut, Figures, Figures | None], None]
# By kind of row and head. Of prompts nothing is known before they are answered.
MEASURES: dict[tuple[str, str], Measure] = {
    ("text", "causal"): language_model,
    ("conversation", "causal"): language_model,
    ("preference", "causal"): preference,
    ("preference", "score"): reward,
    ("labeled", "causal"): labeled,
}
