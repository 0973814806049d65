"""The chain as a picture: boxes and the lines between them, from left to right or, for a narrow screen, downwards."""

from collections.abc import Sequence
from dataclasses import dataclass

BOX = (180, 74)  # width and height
_BESIDE, _ALONG = 14, 40  # between boxes of one generation, and between generations


@dataclass(frozen=True)
class Node:
    """`above` are the nodes that it stands on, by their names, each with its role: "policy" or "reward"."""

    name: str
    lines: tuple[str, ...]  # what stands in the box below the name
    sign: str
    tone: str  # a class of the style sheet
    target: str  # the id that it links to
    above: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Picture:
    """Places in pixels: of each node its upper left corner, of each edge a path and its role."""

    width: int
    height: int
    nodes: list[tuple[Node, int, int]]
    edges: list[tuple[str, str]]
    direction: str


def drawn(nodes: Sequence[Node], direction: str) -> Picture:
    """`nodes` have what they stand on before them. `direction` is "across" or "down"."""
    depth, lane = _depths(nodes), _lanes(nodes)
    width, height = BOX
    generation = (width if direction == "across" else height) + _ALONG
    beside = (height if direction == "across" else width) + _BESIDE

    def place(name: str) -> tuple[int, int]:
        """(along, aside) of a box's first corner."""
        return 1 + depth[name] * generation, _BESIDE + lane[name] * beside

    def corner(name: str) -> tuple[int, int]:
        along, aside = place(name)
        return (along, aside) if direction == "across" else (aside, along)

    placed = [(node, *corner(node.name)) for node in nodes]
    edges = [(_edge(place(above), place(node.name), direction), role) for node in nodes for above, role in node.above]
    right, low = max(x for _, x, _ in placed), max(y for _, _, y in placed)
    return Picture(right + width + 1, low + height + 1, placed, edges, direction)


def _depths(nodes: Sequence[Node]) -> dict[str, int]:
    depth: dict[str, int] = {}
    for node in nodes:
        depth[node.name] = 1 + max((depth[above] for above, _ in node.above), default=-1)
    return depth


def _lanes(nodes: Sequence[Node]) -> dict[str, int]:
    """A node goes on in the lane of what it stands on, where that ends there, else in the first that is free."""
    depth = _depths(nodes)
    lane: dict[str, int] = {}
    ends: dict[int, int] = {}  # of each lane, the generation of its last node
    for node in nodes:
        going_on = [lane[above] for above, _ in node.above if ends[lane[above]] == depth[above]]
        free = (one for one in range(len(nodes)) if ends.get(one, -1) < depth[node.name])
        lane[node.name] = going_on[0] if going_on else next(free)
        ends[lane[node.name]] = depth[node.name]
    return lane


def _edge(start: tuple[int, int], end: tuple[int, int], direction: str) -> str:
    """From the end of a box to the next one's beginning, past others in the gap before its lane."""
    length, thick = BOX if direction == "across" else BOX[::-1]
    (along, aside), (to, lane) = (start[0] + length, start[1] + thick // 2), (end[0], end[1] + thick // 2)
    h, v = ("H", "V") if direction == "across" else ("V", "H")
    begin = f"M{along} {aside}" if direction == "across" else f"M{aside} {along}"
    if to - along == _ALONG and aside == lane:
        return f"{begin}{h}{to}"
    near = f"{begin}{h}{along + _ALONG // 2}"
    past = f"{v}{end[1] - _BESIDE // 2}{h}{to - _ALONG // 2}" if to - along > _ALONG else ""
    return f"{near}{past}{v}{lane}{h}{to}"
