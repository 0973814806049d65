"""What is told of a PPO run: figures of each rollout, and of the steps since the last line of the log; warnings."""

from collections import defaultdict
from collections.abc import Callable, Mapping

from torch import Tensor

from pipeline.ppo.warnings import warnings
from pipeline.ranks import Ranks


class History:
    """Responses have at most `longest` tokens. `note` takes a line to whoever watches; what has been warned of is not said again."""

    def __init__(self, kl_limit: float, longest: int, note: Callable[[str], None]):
        self.kl_limit, self.longest, self.note = kl_limit, longest, note
        self.rollouts: list[dict[str, float]] = []
        self.warned: set[str] = set()
        self.sums: dict[str, list[tuple[float, int]]] = defaultdict(list)  # (sum, tokens), one a micro-batch

    def rolled_out(self, figures: dict[str, float]) -> None:
        self.rollouts.append(figures)
        self._warn()

    def learned(self, sums: Mapping[str, Tensor], tokens: int) -> None:
        """Of one micro-batch: figures summed over so many tokens."""
        for name, total in sums.items():
            self.sums[name].append((float(total), tokens))

    def add_up(self, ranks: Ranks) -> None:
        """The first of several processes takes over what all have summed up."""
        said = ranks.of_all(dict(self.sums))
        self.sums.clear()
        for sums in said if ranks.first else []:
            for name, parts in sums.items():
                self.sums[name] += parts

    def line(self) -> dict[str, float]:
        """For the log: the last rollout, and means a token since the line before."""
        if not self.rollouts:
            return {}
        tokens = {name: max(sum(n for _, n in parts), 1) for name, parts in self.sums.items()}
        means = {name: sum(total for total, _ in parts) / tokens[name] for name, parts in self.sums.items()}
        self.sums.clear()
        last = self.rollouts[-1]
        shown = {name: value for name, value in last.items() if "/" in name}
        return shown | means | {"episode": last["episode"]}

    def held_out(self, metrics: Mapping[str, float]) -> None:
        """A reward that rises while the checkable score falls shows on the held-out prompts."""
        if self.rollouts and "mean_reward" in metrics:
            self.rollouts[-1]["held_out/reward"] = metrics["mean_reward"]
            checked = metrics.get("exact_match", metrics.get("mean_score"))
            if checked is not None:
                self.rollouts[-1]["held_out/score"] = checked
            self._warn()

    def figures(self) -> dict[str, float]:
        """For the manifest: how far the policy went from its parent, in nats a response, in the last rollout."""
        return {"kl": self.rollouts[-1]["objective/kl"]} if self.rollouts else {}

    def _warn(self) -> None:
        for name, text in warnings(self.rollouts, self.kl_limit, self.longest).items():
            if name not in self.warned:
                self.warned.add(name)
                self.note(text)
