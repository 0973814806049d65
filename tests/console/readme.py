"""Makes what README.md and docs/ quote of a run: `make readme` runs the chain of recipes/tiny.yaml, which takes minutes.

What the run printed, and its figures, are kept in readme.json, to which test_readme.py holds the pages and the recipe.
`python tests/console/readme.py --write` only writes the quotations again from what is kept.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", PROJECT / "README.zh.md", *sorted(PROJECT.glob("docs/**/*.md"))]
RECORD = Path(__file__).with_suffix(".json")
COMMANDS = ("sft dpo", "ppo")
KEPT = "stage fingerprint head output weights_sha256 base run metrics earlier evaluation finished".split()
PROGRESS = re.compile(r"  (\w+ \d+|held out at \d+)/\d+")
LEARNED = "What was learned"


def run(runs: Path) -> dict:
    """Both commands, one after the other: what they print, and of every manifest what a plan and a table need."""
    printed = {goals: _align("run", *goals.split(), "--runs", str(runs)) for goals in COMMANDS}
    here = str(runs)
    manifests = {}
    for file in sorted(runs.glob("tiny/*/latest/manifest.json")):
        manifest = json.loads(file.read_text(encoding="utf-8").replace(here, "runs"))
        manifests[manifest["stage"]] = {key: manifest[key] for key in KEPT}
    return {"printed": {goals: text.replace(here, "runs") for goals, text in printed.items()}, "manifests": manifests}


def _align(*arguments: str) -> str:
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout


def quotations(record: dict) -> dict[str, str]:
    """What the pages show of each command: of the second one only what it adds."""
    whole, more = (_abridged(record["printed"][goals]) for goals in COMMANDS)
    stage = COMMANDS[1]
    trained = more[next(n for n, line in enumerate(more) if line.startswith(f"{stage}  run:")) :]
    trained = trained[: trained.index("")]
    table = more[next(n for n, line in enumerate(more) if line.startswith(LEARNED)) :]
    table = table[: table.index("")]
    first = next(n for n, line in enumerate(table) if line.startswith(f"{stage} "))
    return {
        COMMANDS[0]: "\n".join(whole),
        COMMANDS[1]: "\n".join([*trained, "", *table[:2], *table[first:]]),
    }


def _abridged(printed: str) -> list[str]:
    """Of the progress lines that follow each other only the first and the last."""
    lines = [line.rstrip() for line in printed.strip().splitlines()]
    kept = []
    for before, line, after in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        if all(PROGRESS.match(one) for one in (before, line, after)):
            line = "  ..."
        if line != "  ..." or kept[-1] != "  ...":
            kept.append(line)
    return kept


def quoted() -> dict[str, str]:
    """The quotations that stand in the pages."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    return {goals: found[2] for goals in COMMANDS for text in texts if (found := _block(goals).search(text))}


def _block(goals: str) -> re.Pattern:
    return re.compile(rf"(<!-- made by `make readme`: {goals} -->\n```\n)(.*?)(\n```\n)", re.DOTALL)


def write(record: dict) -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for goals, shown in quotations(record).items():
            text = _block(goals).sub(lambda found, shown=shown: found[1] + shown + found[3], text)
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if "--write" not in sys.argv:
        with tempfile.TemporaryDirectory() as folder:
            RECORD.write_text(json.dumps(run(Path(folder)), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write(json.loads(RECORD.read_text(encoding="utf-8")))
    print(f"wrote {RECORD} and the pages that quote it")
