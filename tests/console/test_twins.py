"""A Chinese page says on its last line which English page it is of, and of which text: when that changes, so must the twin."""

import hashlib
import re
from pathlib import Path

import pytest
from conftest import PROJECT

TWINS = [PROJECT / "README.zh.md", *sorted(PROJECT.glob("docs/zh/*.md"))]
OWN = {"glossary.md"}  # has no English page: English readers need none
LAST_LINE = re.compile(r"<!-- of (\S+) (\w{12}) -->\n\Z")
pages = pytest.mark.parametrize("page", [one for one in TWINS if one.name not in OWN], ids=lambda page: page.name)


def digest(english: Path) -> str:
    """Of all but what a run printed, which says the same in both."""
    text = re.sub(r"^```\n.*?^```$", "", english.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@pages
def test_a_chinese_page_is_of_todays_english_one(page):
    of, written = LAST_LINE.search(page.read_text(encoding="utf-8")).groups()
    now = digest(PROJECT / of)
    assert written == now, f"{of} has changed: bring {page.name} up to it, and write {now} on its last line"


@pages
def test_both_have_the_same_commands(page):
    """What is typed is the same in both, but for a Chinese reader's own recipe; a comment behind it is translated."""
    of, _ = LAST_LINE.search(page.read_text(encoding="utf-8")).groups()
    if page.name in WRITTEN_ANEW:
        return
    assert typed(page) == typed(PROJECT / of)


WRITTEN_ANEW = {"README.zh.md"}  # shorter than its twin, or in another order


def typed(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    lines = [
        line for block in re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) for line in block.splitlines()
    ]
    return [line.partition(" #")[0].strip() for line in lines if line.startswith(("make ", ".venv/bin/align "))]
