"""Writes the pages of docs/reference/ anew, or with --check says which of them are not as they would be written now."""

import sys
from pathlib import Path

from pipeline.reference.commands import commands_page, exit_codes_page
from pipeline.reference.fields import adapter_page, train_page
from pipeline.reference.figures import figures_page
from pipeline.reference.keys import recipe_page
from pipeline.reference.manifest import manifest_page
from pipeline.reference.meanings import ENGINE
from pipeline.reference.stages import stages_page

FOLDER = ENGINE.parent / "docs" / "reference"
PAGES = {
    "recipe.md": recipe_page,
    "stages.md": stages_page,
    "train.md": train_page,
    "adapter.md": adapter_page,
    "commands.md": commands_page,
    "exit-codes.md": exit_codes_page,
    "manifest.md": manifest_page,
    "figures.md": figures_page,
}


def stale(folder: Path = FOLDER) -> list[str]:
    """The pages that are not as they would be written now, and those that nobody writes."""
    there = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.md")}
    now = {name: write() for name, write in PAGES.items()}
    return [name for name in now | there if now.get(name) != there.get(name)]


def main() -> None:
    if "--check" in sys.argv:
        if wrong := stale():
            print(f"{', '.join(wrong)}: not what the code says now. Run `make reference`.")
        raise SystemExit(bool(wrong))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, write in PAGES.items():
        (FOLDER / name).write_text(write(), encoding="utf-8")
    print(f"wrote {len(PAGES)} pages to {FOLDER}")


if __name__ == "__main__":
    main()
