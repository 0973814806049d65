"""Curves of a log as plain numbers for an SVG: which figures stand together, their scale, their lines, what is wrong in them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.console.figures import short

# Inside of a chart, in the units of its viewBox.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340, 170, 44, 10, 8, 22
MOST_POINTS = 120  # of a line; of more only the lowest and the highest of each stretch
SMOOTH_FROM = (
    20  # points; a line of fewer is drawn as it is, and of one that is set beforehand nothing is to be smoothed
)
FEW_POINTS = 12  # up to which each is a dot as well
_AS_SET = "Learning rate"
_HELD_OUT = "held out"
# What stands in one chart, the first charts first: a title, the keys of a log that it shows with what each is called, and the
# figure of held-out rows that is the same thing.
GROUPS = (
    ("Loss", {"loss": "training"}, "loss"),
    ("Reward", {"objective/scores": "training", "reward": "training"}, "mean_reward"),
    ("Margin of chosen over rejected", {"rewards/margins": "training"}, ""),
    ("Share of pairs with the chosen one ahead", {"rewards/accuracies": "training"}, "reward_accuracy"),
    ("Rewards of the pair", {"rewards/chosen": "chosen", "rewards/rejected": "rejected"}, ""),
    ("Log-probability of the pair", {"logps/chosen": "chosen", "logps/rejected": "rejected"}, ""),
    ("Token accuracy", {"mean_token_accuracy": "training"}, ""),
    ("KL from the reference", {"objective/kl": "training", "kl": "training"}, ""),
    ("Entropy", {"objective/entropy": "training", "entropy": "training"}, ""),
    ("Length of a response", {"val/response_length": "training", "completions/mean_length": "training"}, ""),
    ("Gradient norm", {"grad_norm": "training"}, ""),
    ("Learning rate", {"learning_rate": "training"}, ""),
)
_PLACED = {key for _, keys, _ in GROUPS for key in keys}
# Counters, and the one line that the trainer ends with.
_NO_CURVE = {
    "step",
    "epoch",
    "episode",
    "num_tokens",
    "num_input_tokens_seen",
    "total_flos",
    "train_loss",
    "train_runtime",
}
_NO_CURVE |= {"train_samples_per_second", "train_steps_per_second", "eval_n", "eval_n_tokens", "eval_n_wanted"}

Point = tuple[float, float]


@dataclass
class Series:
    """Numbers by step as a log has them, NaN and infinity among them. `style` is how it is drawn, whatever its color."""

    label: str
    points: list[Point]
    style: str = "first"  # "first", "second" or "held-out"

    @property
    def finite(self) -> list[Point]:
        return [point for point in self.points if math.isfinite(point[1])]


@dataclass
class Line:
    """What is drawn of a series: paths and dots in the units of the viewBox."""

    label: str
    style: str
    raw: str = ""
    smooth: str = ""
    dots: list[Point] = field(default_factory=list)


@dataclass
class Chart:
    title: str
    lines: list[Line]
    rows: list[tuple[float, str]]  # where a tick of the upright axis stands, and its label
    columns: list[tuple[float, str]]
    told: list[str]  # what the lines do, for who cannot see them
    notes: list[str]


def charts(lines: Sequence[Mapping], before: Mapping, after: Mapping) -> Iterator[Chart]:
    """The charts that everybody looks for. `before` and `after` are the held-out figures at both ends."""
    last = lines[-1]["step"] if lines else 0
    for title, keys, figure in GROUPS:
        found = [Series(label, series(lines, key)) for key, label in keys.items()]
        found = [one for one in found if one.points]
        if not found:
            continue
        for one, style in zip(found, ("first", "second"), strict=False):
            one.style = style
        if held_out := _held_out(lines, figure, before, after, last):
            found.append(Series(_HELD_OUT, held_out, "held-out"))
        if chart := draw(title, found):
            yield chart


def more(lines: Sequence[Mapping]) -> Iterator[Chart]:
    """One chart for each of the other numbers of a log, but for those that never change."""
    shown = {f"eval_{figure}" for _, _, figure in GROUPS if figure}
    names = dict.fromkeys(key for line in lines for key in line)
    for name in names:
        if name not in _PLACED | _NO_CURVE | shown:
            points = series(lines, name)
            if len({value for _, value in points}) > 1 and (chart := draw(name, [Series(name, points)])):
                yield chart


def beside(one: Sequence[Mapping], other: Sequence[Mapping], names: tuple[str, str]) -> Iterator[Chart]:
    """The same charts of two logs, each number of both in one."""
    for title, keys, figure in GROUPS:
        for key, label in keys.items():
            found = [
                Series(name, series(lines, key), style)
                for name, lines, style in zip(names, (one, other), ("first", "second"), strict=True)
            ]
            whole = title if len(set(keys.values())) == 1 else f"{title}: {label}"
            if all(each.points for each in found) and (chart := draw(whole, found)):
                yield chart
        held_out = [
            Series(name, series(lines, f"eval_{figure}")) for name, lines in zip(names, (one, other), strict=True)
        ]
        held_out[1].style = "second"
        if figure and all(each.points for each in held_out) and (chart := draw(f"{title}, {_HELD_OUT}", held_out)):
            yield chart


def series(lines: Sequence[Mapping], key: str) -> list[Point]:
    return [(line["step"], float(line[key])) for line in lines if isinstance(line.get(key), int | float)]


def _held_out(lines: Sequence[Mapping], figure: str, before: Mapping, after: Mapping, last: int) -> list[Point]:
    if not figure:
        return []
    by_step = dict(series(lines, f"eval_{figure}"))
    if before.get(figure) is not None:
        by_step.setdefault(0, before[figure])
    if after.get(figure) is not None and last:
        by_step.setdefault(last, after[figure])
    return sorted(by_step.items()) if len(by_step) > 1 or last else []


def draw(title: str, found: Sequence[Series]) -> Chart | None:
    """None where there is no number to draw."""
    finite = [point for one in found for point in one.finite]
    notes = [note for one in found for note in _broken(one)]
    if not finite:
        return Chart(title, [], [], [], [], notes) if notes else None
    steps, values = [step for step, _ in finite], [value for _, value in finite]
    low, high, ticks = _scale(min(values), max(values))
    first, last = min(0, *steps) if len(steps) > 1 else steps[0], max(steps)

    def place(point: Point) -> Point:
        along = (point[0] - first) / (last - first) if last > first else 0.5
        up = (point[1] - low) / (high - low)
        return LEFT + along * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    rows = [(place((first, tick))[1], short(tick)) for tick in ticks]
    columns = [(place((first, 0))[0], f"{first:g}"), (place((last, 0))[0], f"{last:,g}")] if last > first else []
    return Chart(
        title,
        [_line(one, place, smooth=title != _AS_SET) for one in found],
        rows,
        columns,
        [_said(one) for one in found if one.finite],
        notes,
    )


def _line(one: Series, place: Callable[[Point], Point], *, smooth: bool) -> Line:
    line, number = Line(one.label, one.style), len(one.finite)
    held_out = one.style == "held-out"
    if held_out or number <= FEW_POINTS:
        line.dots = [place(point) for point in one.finite]
    if not held_out or number > 2:  # between the two ends nothing was measured
        line.raw = _path(_thinned(one.points), place)
    if smooth and not held_out and number >= SMOOTH_FROM:
        line.smooth = _path(_thinned(smoothed(one.points)), place)
    return line


def smoothed(points: Sequence[Point]) -> list[Point]:
    """The mean of what lies around each point, a fifteenth of all points wide, taken twice, so that near ones count more.

    It lies where the numbers do and does not lag behind. What is NaN counts nowhere, and stays a gap.
    """
    half = max(len(points) // 30, 1)
    for _ in range(2):
        sums, counts = [0.0], [0]
        for _, value in points:
            finite = math.isfinite(value)
            sums.append(sums[-1] + (value if finite else 0.0))
            counts.append(counts[-1] + finite)
        found = []
        for number, (step, value) in enumerate(points):
            begun, end = max(number - half, 0), min(number + half + 1, len(points))
            mean = (sums[end] - sums[begun]) / (counts[end] - counts[begun]) if math.isfinite(value) else math.nan
            found.append((step, mean))
        points = found
    return points


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Of many points the lowest and the highest of each stretch, so that no peak is lost; a gap stays a gap."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = -(-len(points) * 2 // MOST_POINTS)
    kept = []
    for begun in range(0, len(points), size):
        stretch = points[begun : begun + size]
        finite = [point for point in stretch if math.isfinite(point[1])]
        ends = {min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])} if finite else set()
        kept += sorted(ends) + [point for point in stretch if not math.isfinite(point[1])][:1]
    return sorted(kept)


def _path(points: Sequence[Point], place: Callable[[Point], Point]) -> str:
    """An SVG path that is broken where a number is none."""
    parts, moving = [], True
    for point in points:
        if math.isfinite(point[1]):
            x, y = place(point)
            parts.append(f"{'M' if moving else 'L'}{x:.0f} {y:.1f}")
            moving = False
        else:
            moving = True
    return "".join(parts)


def _scale(low: float, high: float) -> tuple[float, float, list[float]]:
    """(lowest, highest, ticks) of an axis, the ticks at round numbers."""
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
        apart = abs(high) * 0.1 or 1.0
        low, high = low - apart, high + apart
    step = 10 ** math.floor(math.log10((high - low) / 2))
    step = next((step * times for times in (1, 2, 2.5, 5, 10) if (high - low) / (step * times) <= 4), step * 10)
    first, last = math.floor(low / step), math.ceil(high / step)
    return first * step, last * step, [number * step for number in range(first, last + 1)]


def _said(one: Series) -> str:
    finite = one.finite
    if len(finite) == 1:
        return f"{one.label}: {short(finite[0][1])} at step {finite[0][0]:,}"
    values = [value for _, value in finite]
    return (
        f"{one.label}: {short(values[0])} at step {finite[0][0]:,}, {short(values[-1])} at step {finite[-1][0]:,}; "
        f"lowest {short(min(values))}, highest {short(max(values))}"
    )


def _broken(one: Series) -> Iterator[str]:
    steps = [step for step, value in one.points if not math.isfinite(value)]
    if steps:
        where = f"step {steps[0]:,}" if len(steps) == 1 else f"{len(steps)} of the steps {steps[0]:,} to {steps[-1]:,}"
        yield f"{one.label}: NaN or infinite at {where}; the line has a gap there"
