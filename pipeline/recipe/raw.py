"""A recipe as it was read, of any shape yet."""


def mapping(value: object, *keys: str) -> dict:
    """A mapping inside a recipe that may yet be of any shape."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def bits_of(raw: dict) -> int | None:
    """What the base is quantized to."""
    return next(iter(all_bits(raw)), None)


def all_bits(raw: dict) -> list[int]:
    """What a recipe asks for; more than one is a mistake."""
    model = mapping(raw, "model")
    return [bits for bits in (4, 8) if model.get(f"load_in_{bits}bit") is True]
