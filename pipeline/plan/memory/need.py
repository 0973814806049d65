"""What a stage needs: for each thing that it does, the bytes of its parts; the thing that takes most is what counts."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

GIB = 2**30
# What a process needs of a card before it does anything (the driver's context, cuBLAS and its kernels): 0.4 to 0.7 GiB are
# commonly seen; it is no part of what torch counts. Not measured here.
CONTEXT = int(0.6 * GIB)
# What is lost between tensors, as a share of those that are freed and made again in every step, where no run on this
# machine tells it. Not measured here.
FRAGMENTED = 0.08
EVALUATIONS = ("an evaluation", "held-out answers")
STAYS = ("base", "adapter", "optimizer", "gradients", "reference", "other roles", "DDP's buckets")


@dataclass(frozen=True)
class Phase:
    """One thing that a stage does, and bytes by part while it does it."""

    name: str
    parts: dict[str, int]

    @property
    def allocated(self) -> int:
        """Bytes in tensors."""
        return sum(self.parts.values())

    @property
    def passing(self) -> int:
        """Bytes of what is freed and made again, between which some are lost."""
        return sum(size for name, size in self.parts.items() if name not in STAYS)


@dataclass(frozen=True)
class Need:
    """Bytes that a stage needs on a GPU, with what they were reckoned from."""

    phases: tuple[Phase, ...]
    tokens: dict[str, Any] = field(default_factory=dict)  # rows, length, and where that is from
    trained: int = 0  # numbers
    margin: float | None = None  # how many times what was planned earlier runs here reserved; None: too few tell

    @property
    def peak(self) -> Phase:
        return max(self.phases, key=self._of)

    @property
    def bytes(self) -> int:
        """All that the card must have free."""
        return self._of(self.peak)

    @property
    def training(self) -> int:
        """All that the card must have free while no held-out rows are read or answered."""
        return max(self._of(phase) for phase in self.phases if phase.name not in EVALUATIONS)

    @property
    def allocated(self) -> int:
        """What torch counts as allocated at most: comparable with `max_memory_allocated`."""
        return max(phase.allocated for phase in self.phases)

    def of_training(self, *, evaluates: bool) -> Phase:
        """The peak from the first step to the last, which is what is measured: `evaluates` if held-out rows are read in between."""
        between = [phase for phase in self.phases if evaluates or phase.name not in EVALUATIONS]
        return max(between, key=lambda phase: phase.allocated)

    @property
    def parts(self) -> dict[str, int]:
        """Of the peak, with what is not in tensors."""
        beside = {"fragmentation": self._lost(self.peak), "CUDA": CONTEXT}
        return {name: size for name, size in self.peak.parts.items() if size} | beside

    def _of(self, phase: Phase) -> int:
        return phase.allocated + self._lost(phase) + CONTEXT

    def _lost(self, phase: Phase) -> int:
        """Bytes that are reserved and in no tensor."""
        return round(FRAGMENTED * phase.passing if self.margin is None else (self.margin - 1) * phase.allocated)

    def to_json(self) -> dict:
        return {
            "bytes": self.bytes,
            "allocated": self.allocated,
            "peak": self.peak.name,
            "parts": self.parts,
            "phases": {phase.name: phase.allocated for phase in self.phases},
            "trained": self.trained,
            "tokens": self.tokens,
            "margin": self.margin,
        }


def largest(name: str, some: Iterable[dict[str, int]]) -> Phase:
    """The phase at the moment that takes most."""
    return Phase(name, max(some, key=lambda parts: sum(parts.values())))
