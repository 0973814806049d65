"""A Chinese page says on its last line which English page it is of, and of which text: when that changes, so must the twin."""

import hashlib
import re
from pathlib import Path

import pytest
from conftest import PROJECT

TWINS = [PROJECT / "README.zh.md", *sorted(PROJECT.glob("docs/zh/*.md"))]
OWN = {"glossary.md"}  # has no English page: English readers need none
LAST_LINE = re.compile(r"<!-- of (\S+) (\w{12}) -->\n\Z")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SAME_COMMANDS = [one for one in TWINS if "<!-- of docs/tutorials/" in one.read_text(encoding="utf-8")]
pages = pytest.mark.parametrize("page", [one for one in TWINS if one.name not in OWN], ids=lambda page: page.name)


def digest(english: Path) -> str:
    """Of all but what a run printed, which says the same in both."""
    text = FENCED.sub(lambda block: block[0] if block[1] else "", english.read_text(encoding="utf-8"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@pages
def test_a_chinese_page_is_of_todays_english_one(page):
    of, written = LAST_LINE.search(page.read_text(encoding="utf-8")).groups()
    now = digest(PROJECT / of)
    assert written == now, f"{of} has changed: bring {page.name} up to it, and write {now} on its last line"


@pytest.mark.parametrize("page", SAME_COMMANDS, ids=lambda page: page.name)
def test_what_is_typed_is_the_same_in_both(page):
    of, _ = LAST_LINE.search(page.read_text(encoding="utf-8")).groups()
    assert typed(page) == typed(PROJECT / of) != []


def test_the_messages_that_are_explained_are_the_same_in_both():
    of, twin = (PROJECT / "docs" / one for one in ("troubleshooting.md", "zh/troubleshooting.md"))
    assert messages(twin) == messages(of) != []


def messages(page: Path) -> list[str]:
    return re.findall(r"^### .*", page.read_text(encoding="utf-8"), re.MULTILINE)


def typed(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    lines = [line for language, block in FENCED.findall(text) if not language for line in block.splitlines()]
    return [line.partition(" #")[0].strip() for line in lines if line.startswith(("make ", ".venv/bin/align "))]


@pytest.mark.parametrize("page", TWINS, ids=lambda page: page.name)
def test_no_line_is_broken_between_chinese_words(page):
    """A browser shows such a break as a space in the middle of a sentence."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    wide = r"[\u3000-\u9fff\uff00-\uffef]"
    assert re.findall(rf"(?m)^(?![#|]).*{wide}\n[ ]*(?:{wide}).*$", text) == [], "write the paragraph on one line"
