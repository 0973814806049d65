"""A hook of MkDocs for what docs/ has and a site has not: links to files beside docs/, and folders in the navigation.

On a code host such links lead to the file. On the site they lead there only if `repo_url` says where that is; without it
the text stays. A file that is not there is a warning, and so an error under --strict.
"""

import logging
import posixpath
import re
from pathlib import Path

log = logging.getLogger("mkdocs.hooks.links")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?://|#)([^)#\s]+)(#[^)]*)?\)")


def on_config(config):
    """Put the pages of a folder into the navigation where the folder is named."""
    order = config.extra.get("order", [])
    config.nav = [_with_pages(entry, Path(config.docs_dir), order) for entry in config.nav]
    config.nav = [entry for entry in config.nav if list(entry.values()) != [[]]]
    return config


def _with_pages(entry: dict, docs: Path, order: list[str]) -> dict:
    ((title, what),) = entry.items()
    if not (isinstance(what, str) and what.endswith("/")):
        return entry
    places = {name: place for place, name in enumerate(["index", "README", *order])}
    pages = sorted((docs / what).glob("*.md"), key=lambda page: (places.get(page.stem, len(places)), page.stem))
    return {title: [page.relative_to(docs).as_posix() for page in pages]}


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Turn links that leave docs/ into those of the repository, or into their text."""
    root = Path(config.docs_dir).parent
    folder = posixpath.dirname(f"{Path(config.docs_dir).name}/{page.file.src_uri}")

    def elsewhere(link: re.Match) -> str:
        text, target, anchor = link[1], posixpath.normpath(posixpath.join(folder, link[2])), link[3] or ""
        if target.startswith(f"{Path(config.docs_dir).name}/"):
            return link[0]
        if not (root / target).exists():
            log.warning("%s links to %s, which is not there", page.file.src_uri, link[2])
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{target}{anchor})" if config.repo_url else text

    return _LINK.sub(elsewhere, markdown)
