"""What a stage needs: for each thing that it does, the bytes of its parts; the thing that takes most is what counts."""

from collections.abc import Iterable
from dataclasses import dataclass, field

GIB = 2**30
# What a process needs of a card before it does anything (the driver's context, cuBLAS and its kernels): 0.4 to 0.7 GiB are
# commonly seen; it is no part of what torch counts. Not measured here.
CONTEXT = int(0.6 * GIB)
# Of what comes and goes, the share that is lost between tensors, where no run on this machine tells it. Not measured here.
FRAGMENTED = 0.08
STAYS = ("base", "adapter", "optimizer", "gradients", "reference", "other roles")


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
        """Bytes of what comes and goes, among which some are lost."""
        return sum(size for name, size in self.parts.items() if name not in STAYS)


@dataclass(frozen=True)
class Need:
    """Bytes that a stage needs on a GPU, with what they were reckoned from."""

    phases: tuple[Phase, ...]
    tokens: dict[str, object] = field(default_factory=dict)  # rows, length, and where that is from
    trained: int = 0  # numbers
    fragmented: float = FRAGMENTED
    notes: tuple[str, ...] = ()

    @property
    def peak(self) -> Phase:
        return max(self.phases, key=self._of)

    @property
    def bytes(self) -> int:
        """All that the card must have free."""
        return self._of(self.peak)

    @property
    def allocated(self) -> int:
        """What torch counts as allocated at most: comparable with `max_memory_allocated`."""
        return max(phase.allocated for phase in self.phases)

    @property
    def parts(self) -> dict[str, int]:
        """Of the peak, with what is not in tensors."""
        beside = {"fragmentation": round(self.fragmented * self.peak.passing), "CUDA": CONTEXT}
        return {name: size for name, size in self.peak.parts.items() if size} | beside

    def _of(self, phase: Phase) -> int:
        return phase.allocated + round(self.fragmented * phase.passing) + CONTEXT

    def to_json(self) -> dict:
        return {
            "bytes": self.bytes,
            "allocated": self.allocated,
            "peak": self.peak.name,
            "parts": self.parts,
            "phases": {phase.name: phase.allocated for phase in self.phases},
            "trained": self.trained,
            "tokens": self.tokens,
            "notes": list(self.notes),
        }


def largest(name: str, some: Iterable[dict[str, int]]) -> Phase:
    """The phase at the moment that takes most."""
    return Phase(name, max(some, key=lambda parts: sum(parts.values())))
