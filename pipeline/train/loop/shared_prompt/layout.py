"""A pair as one sequence: prompt, chosen, rejected. Positions go on from the prompt in both answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

SHARED = "shared_prompt"  # the key of a batch, and the argument of a model's call, that holds the sequences
PROMPT_TOKENS = "prompt_tokens"  # a column of whole rows: how many tokens both answers begin with
PROMPT, CHOSEN, REJECTED = range(3)


@dataclass(frozen=True)
class Collator:
    """The trainer's own batch, by which tokens are counted, and beside it the pairs as one sequence each."""

    plain: Callable[[Sequence[dict]], dict]
    pad: int
    multiple: int | None = None  # what the length of a sequence is padded to a multiple of

    def __call__(self, rows: Sequence[dict]) -> dict:
        return self.plain(rows) | {SHARED: laid_out(rows, self.pad, self.multiple)}


@dataclass(frozen=True)
class OfWholeRows(Collator):
    """For a trainer whose answers stand in its rows with their prompt, whose length is in `PROMPT_TOKENS`."""

    def __call__(self, rows: Sequence[dict]) -> dict:
        return self.plain(rows) | {SHARED: laid_out([_parted(row) for row in rows], self.pad, self.multiple)}


def _parted(row: dict) -> dict:
    size = int(row[PROMPT_TOKENS])
    answers = {side: row[side][size:] for side in ("chosen_ids", "rejected_ids")}
    return {"prompt_ids": row["chosen_ids"][:size]} | answers


def laid_out(rows: Sequence[dict], pad: int, multiple: int | None = None) -> dict[str, torch.Tensor]:
    """The pairs of a batch, padded on the right.

    (pairs, tokens): `input_ids`, their `position_ids`, and `sides`: whether a token is of the prompt, of the chosen or of the
    rejected answer, padding among these.
    (2 * pairs, longest answer + 1), the chosen answers before the rejected ones: `answer_ids`, each after the last token of
    its prompt, where there is one; `answer_mask`, 1 for those of the answer; and `places`, where in its sequence a token
    stands.
    """
    sequences: dict[str, list] = {"input_ids": [], "position_ids": [], "sides": []}
    answers: dict[str, list] = {"answer_ids": [], "answer_mask": [], "places": []}
    for row in rows:
        prompt, chosen, rejected = (list(row[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
        start, places = len(prompt), range(len(prompt) + max(len(chosen), len(rejected)))
        sequences["input_ids"].append(prompt + chosen + rejected)
        sequences["position_ids"].append([*places[: start + len(chosen)], *places[start : start + len(rejected)]])
        sides = {PROMPT: prompt, CHOSEN: chosen, REJECTED: rejected}
        sequences["sides"].append([side for side, ids in sides.items() for _ in ids])
    for side in ("chosen_ids", "rejected_ids"):
        for row in rows:
            prompt, answer = list(row["prompt_ids"]), list(row[side])
            begins = len(prompt) + (len(row["chosen_ids"]) if side == "rejected_ids" else 0)
            before = prompt[-1:]
            answers["answer_ids"].append(before + answer)
            answers["answer_mask"].append([0] * len(before) + [1] * len(answer))
            answers["places"].append([len(prompt) - 1] * len(before) + list(range(begins, begins + len(answer))))
    filling = {"input_ids": pad, "answer_ids": pad, "sides": REJECTED}
    longest = max(map(len, sequences["input_ids"]))
    length = -(-longest // multiple) * multiple if multiple else longest
    return {name: _padded(values, filling.get(name, 0), length) for name, values in sequences.items()} | {
        name: _padded(values, filling.get(name, 0)) for name, values in answers.items()
    }


def _padded(rows: Sequence[list[int]], value: int, length: int = 0) -> torch.Tensor:
    padded = pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], True, padding_value=value)
    return torch.nn.functional.pad(padded, (0, max(length - padded.shape[1], 0)), value=value)


def places_of_rows(sides: torch.Tensor, length: int) -> torch.Tensor:
    """(2 * pairs, length) from (pairs, tokens): where in its sequence each token of a row stands, prompt and answer, the chosen
    rows before the rejected ones. What is behind a row's end is any other token.
    """
    rows = [torch.argsort((sides == other).long(), dim=1, stable=True) for other in (REJECTED, CHOSEN)]
    return torch.cat(rows)[:, :length]


def allowed(sides: torch.Tensor) -> torch.Tensor:
    """(pairs, 1, tokens, tokens) from (pairs, tokens): whether a token sees another. It sees what stands before it and
    itself, and from the rejected answer no token of the chosen one.
    """
    place = torch.arange(sides.shape[1], device=sides.device)
    apart = (sides[:, :, None] == REJECTED) & (sides[:, None, :] == CHOSEN)
    return ((place[:, None] >= place[None, :]) & ~apart)[:, None]
