"""Pairs for trainers of TRL's that would tokenize text by themselves: they get our tokens, and make nothing of their own."""

from collections.abc import Sequence

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from pipeline.data.tokens.encoded import IGNORED


class Rows(torch.utils.data.Dataset):
    """The token columns as they are: what TRL maps over them changes nothing."""

    def __init__(self, rows: Dataset):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> dict:
        return self._rows[number]

    def map(self, *_, **__) -> "Rows":
        return self


def batch(pad: int, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
    """The columns of TRL's experimental trainers, (rows, tokens), padded on the right; the prompt carries no loss."""
    made = {}
    for side in ("chosen", "rejected"):
        prompts, answers = ([torch.tensor(row[name]) for row in rows] for name in ("prompt_ids", f"{side}_ids"))
        ids = [torch.cat(both) for both in zip(prompts, answers, strict=True)]
        labels = [
            torch.cat([torch.full_like(one, IGNORED), other]) for one, other in zip(prompts, answers, strict=True)
        ]
        columns = {
            "input_ids": (ids, pad),
            "attention_mask": (list(map(torch.ones_like, ids)), 0),
            "labels": (labels, IGNORED),
        }
        for name, (values, filling) in columns.items():
            made[f"{side}_{name}"] = pad_sequence(values, batch_first=True, padding_value=filling)
    return made
