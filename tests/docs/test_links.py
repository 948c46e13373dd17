"""Links lead somewhere, and nothing in the documentation is about the machine it was written on."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.markdown import LANGUAGES, MARKS, anchors, blocks, documents, links
from tests.harness import ROOT

PATHS = documents()
SHOWN = [path for path in ROOT.glob("examples/**/*") if path.is_file() and path.suffix != ".pyc"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_and_anchors_resolve(path: Path) -> None:
    """A file that is linked is there, and has the heading."""
    broken = []
    for link in links(path):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = unquote(link).partition("#")
        target = (path.parent / place).resolve() if place else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_say_what_they_are(path: Path) -> None:
    """Every block has a language and marks that the tests know: a misspelt mark would go unnoticed."""
    for block in blocks(path):
        assert block.language in LANGUAGES, block
        assert set(block.marks) <= MARKS, block


@pytest.mark.parametrize("path", [*PATHS, *SHOWN], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_machine_is_named(path: Path) -> None:
    """No path of somebody's machine and no host of a package index."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/home/\w|/Users/\w|py[p]i\.|index.url", text)
    assert f"{ROOT}/" not in text
    assert f"{Path.home()}/" not in text
