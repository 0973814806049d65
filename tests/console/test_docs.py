"""docs/ is whole: each message that is quoted is one of the code's, and the site's navigation has every page."""

import ast
import importlib.util
import re
import subprocess
import sys

import pytest
import yaml
from conftest import PROJECT

TROUBLE = (PROJECT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def said_by_the_code() -> list[str]:
    """Every string of the engine and the stages, what is put into it as an ellipsis."""
    found = []
    for folder in ("pipeline", "stages"):
        for path in (PROJECT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.append(
                        "".join(
                            getattr(part, "value", "…") if isinstance(part, ast.Constant) else "…"
                            for part in node.values
                        )
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def test_every_message_that_is_quoted_is_still_said():
    quoted = re.findall(r"^### `([^`]+)`", TROUBLE, re.MULTILINE)
    strings = said_by_the_code()
    assert len(quoted) >= 30

    def is_said(message: str) -> bool:
        fixed = [re.escape(part.strip()) for part in message.split("…") if re.search(r"\w", part)]
        return any(re.search(".*".join(fixed), one, re.DOTALL) for one in strings)

    assert [message for message in quoted if not is_said(message)] == [], "say it as the code does now"


def test_the_navigation_has_every_page_once():
    class Loader(yaml.SafeLoader):
        """`!ENV` is the site builder's."""

    Loader.add_constructor("!ENV", lambda loader, node: "")
    nav = yaml.load((PROJECT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"]

    def pages(entry):
        if isinstance(entry, dict | list):
            return [page for one in (entry.values() if isinstance(entry, dict) else entry) for page in pages(one)]
        docs = PROJECT / "docs"
        return (
            [one.relative_to(docs).as_posix() for one in (docs / entry).glob("*.md")]
            if entry.endswith("/")
            else [entry]
        )

    there = [page.relative_to(PROJECT / "docs").as_posix() for page in (PROJECT / "docs").rglob("*.md")]
    assert sorted(pages(nav)) == sorted(there)


@pytest.mark.skipif(
    importlib.util.find_spec("material") is None, reason="the site's builder is not installed: make docs"
)
def test_the_site_builds_strictly_and_asks_nothing_of_the_network(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "how-to" / "data.html").read_text(encoding="utf-8")
    assert re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//[^"]*"', page) == []
