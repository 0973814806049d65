"""What a trial of methods found: the table, and the picture."""

import itertools
from pathlib import Path

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.console.picture import wrapped
from pipeline.console.screen import Screen

HEADINGS = {"win_rate": "win rate", "accuracy": "accuracy", "exact_match": "exact match"}
FAR = 4  # times as slow, from which on a logarithm shows the costs better
MARKERS = "osD^vPX*"
NOTE = (
    "In brackets where 95% of the figure lies, by a bootstrap over rows and seeds. Tokens: of prompts and answers, "
    "each time they are trained on; a rollout's count once. Seconds: of training."
)


def show(screen: Screen, result: dict) -> None:
    """The best first; what failed last, with its reason."""
    figures = result["figures"]
    seeds = max((len(one["runs"]) for one in result["contestants"].values() if "runs" in one), default=0)
    rows = " and ".join(dict.fromkeys(f"{number}" for number in result.get("rows", {}).values()))
    title = f"{result['recipe']}: from {result['from'] or 'the base'}, {result['tokens']:,} tokens each"
    title += f", {seeds} seed{'s' if seeds > 1 else ''}, {rows} held-out answers" if figures else ""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("method", style="bold", overflow="fold")
    for name in figures:
        table.add_column(HEADINGS[name], no_wrap=True)
    for heading in ("tokens", "seconds", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, one in ranked(result).items():
        cells = [_with_interval(one[figure]) for figure in figures]
        table.add_row(name, *cells, f"{one['tokens']:,}", f"{one['seconds']['mean']:,.1f}", _gibibytes(one))
    start = [f"{result['start'][name]:.3f}" if name in result["start"] else "-" for name in figures]
    table.add_row(Text(result["from"] or "the base"), *start, style="dim")
    screen.console.print()
    screen.message(Text(title, style="bold"))
    screen.console.print(table)
    for name, one in result["contestants"].items():
        if "failed" in one:
            screen.message(f"[bold]{escape(name)}[/bold]  [red]failed:[/red] {escape(one['failed'])}")
    screen.message(Text(NOTE, style="dim"))
    screen.message(Text(result["verdict"], style="bold green" if "ahead" in result else "bold red"))


def ranked(result: dict) -> dict[str, dict]:
    """The contestants that finished, the best first."""
    done = {name: one for name, one in result["contestants"].items() if "failed" not in one}
    if not result["figures"]:
        return done
    return dict(sorted(done.items(), key=lambda pair: -pair[1][result["figures"][0]]["value"]))


def _with_interval(figure: dict) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.2f}-{figure['high']:.2f})"


def _gibibytes(one: dict) -> str:
    return f"{(one['gpu_bytes'] or one['host_bytes']) / 2**30:.2f} GiB"


def draw(result: dict, file: Path) -> None:
    """Each figure against the seconds of training, with its interval; a dashed line is where all of them started."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figures, start = result["figures"], result["from"] or "the base"
    costs = [one["seconds"]["mean"] for one in ranked(result).values()]
    spread = max(costs) > FAR * min(costs)
    figure, panels = pyplot.subplots(1, len(figures), figsize=(5.6 * len(figures), 5.4), squeeze=False)
    colors = dict(zip(ranked(result), pyplot.cm.tab10.colors * 9, strict=False))
    for axes, name in zip(panels[0], figures, strict=True):
        for marker, (contestant, one) in zip(itertools.cycle(MARKERS), ranked(result).items(), strict=False):
            value, seconds = one[name], one["seconds"]
            sideways = [[seconds["mean"] - seconds["min"]], [seconds["max"] - seconds["mean"]]]
            upright = [[value["value"] - value["low"]], [value["high"] - value["value"]]]
            style = {"fmt": marker, "color": colors[contestant], "capsize": 3, "linewidth": 1.2, "label": contestant}
            axes.errorbar(seconds["mean"], value["value"], xerr=sideways, yerr=upright, **style)
        if name in result["start"] or name == "win_rate":
            level = result["start"].get(name, 0.5)
            axes.axhline(level, color="#888888", linestyle="--", linewidth=1, label=f"{start}, before")
        axes.set_xlabel("seconds of training")
        axes.set_title(f"win rate over {start}" if name == "win_rate" else HEADINGS[name], fontsize=11)
        if spread:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
            axes.xaxis.set_minor_formatter(ticker.LogFormatter(minor_thresholds=(2, 0.5)))
        else:
            axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][-1].legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(wrapped(result["verdict"]), fontsize=11, fontweight="bold")
    seeds = max(len(one["runs"]) for one in ranked(result).values())
    threads = result["threads"]
    times = f"{seeds} seed{'s' if seeds > 1 else ''}; {result['device']}, {threads} thread{'s' if threads > 1 else ''}"
    what = f"{result['recipe']}: {result['tokens']:,} tokens each, {times}"
    whiskers = "up and down: 95% by a bootstrap over rows and seeds; left and right: fastest and slowest seed"
    figure.text(0.5, 0.01, f"{what}\n{whiskers}", ha="center", fontsize=8, color="#555555")
    figure.tight_layout(rect=(0, 0.07, 1, 0.98))
    figure.savefig(file, dpi=120)
