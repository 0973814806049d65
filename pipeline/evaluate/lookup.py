"""The nearest training question, by its letters: what mere memory would say."""

from collections.abc import Sequence
from zlib import crc32

import numpy

from pipeline.data.prepare.work import CHUNK
from pipeline.data.shapes.kinds import Kind


def nearest(held_out: Sequence[Kind], trained: Sequence[Kind]) -> list[Kind]:
    """For each held-out example the trained one whose prompt is nearest, by cosine of character trigrams."""
    questions = _trigrams([one.prompt for one in held_out])
    best, likeness = numpy.zeros(len(questions), dtype=int), numpy.full(len(questions), -1.0)
    for start in range(0, len(trained), CHUNK):
        like = questions @ _trigrams([one.prompt for one in trained[start : start + CHUNK]]).T
        like = like.round(4)  # of questions that are as near the first is taken, however a machine rounds
        better = like.max(axis=1) > likeness
        best[better] = start + like.argmax(axis=1)[better]
        likeness = numpy.maximum(likeness, like.max(axis=1))
    return [trained[int(number)] for number in best]


def _trigrams(texts: Sequence[str], buckets: int = 2048) -> numpy.ndarray:
    """(texts, buckets): how often each character trigram stands in a text, hashed and scaled to unit length."""
    counts = numpy.zeros((len(texts), buckets), dtype=numpy.float32)
    for row, text in zip(counts, texts, strict=True):
        letters = f"  {text.lower()} ".encode()
        for at in range(len(letters) - 2):
            row[crc32(letters[at : at + 3]) % buckets] += 1
    return counts / numpy.linalg.norm(counts, axis=1, keepdims=True)
