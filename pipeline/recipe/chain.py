"""Which stage of a recipe starts from which."""

from collections.abc import Mapping

from pipeline import stage


def start_of(name: str, policies: Mapping[str, str | None]) -> str | None:
    """The recipe's stage that another starts from; `policies` has each one's own choice, or None."""
    if policies[name] is not None:
        return policies[name] if policies[name] in policies else None
    return next((after for after in reversed(stage.specs()[name].after) if after in policies), None)


def stages_below(name: str, policies: Mapping[str, str | None]) -> list[str]:
    """The stages under a stage, each the start of the one before it; ends where one comes up again."""
    chain: list[str] = []
    start = start_of(name, policies)
    while start and start not in chain:
        chain.append(start)
        start = start_of(start, policies)
    return chain
