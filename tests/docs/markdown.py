"""Markdown as the tests of the documentation read it: fenced blocks with their marks, headings, links.

A mark is an HTML comment on the line before a block, which readers do not see:

``<!-- not run: needs docker -->``  the block is not run; ``test_blocks.py`` lists all of these.
``<!-- file: my_nodes.py -->``      the block is this file, which is there when the blocks are run.
``<!-- output -->``                 what the block before it prints; times, ids and the like may differ.
``<!-- exit: 1 -->``                the shell block ends with this code.
``<!-- a node -->``, ``<!-- edges -->``  the YAML block is this part of a plan.
``<!-- rehearsal file -->``         the YAML block is what ``dalang plan rehearse --options`` takes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness import ROOT

LANGUAGES = {"sh", "python", "yaml", "json", "text", "mermaid"}
MARKS = {"not run", "file", "output", "exit", "a node", "edges", "patch", "rehearsal file"}
_COMMENT = re.compile(r"<!--\s*(.*?)\s*-->")
_LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)(?:\s+\"[^\"]*\")?\)|(?:src|href)=\"([^\"]+)\"")


@dataclass(frozen=True)
class Block:
    """A fenced block: its text, the line it starts at, and its marks."""

    path: Path
    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def documents() -> list[Path]:
    """Return every Markdown file that people read."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])


def blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a file."""
    found: list[Block] = []
    lines = path.read_text(encoding="utf-8").split("\n")
    marks: dict[str, str] = {}
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("```"):
            start = at
            while not lines[at].startswith("```"):
                at += 1
            found.append(Block(path, start + 1, line[3:].strip(), "\n".join(lines[start:at]) + "\n", marks))
            at += 1
            marks = {}
        elif (comment := _COMMENT.fullmatch(line.strip())) is not None:
            name, _, value = comment[1].partition(":")
            marks = {**marks, name.strip(): value.strip()}
        elif line.strip():
            marks = {}
    return found


def prose(path: Path) -> str:
    """Return a file without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def links(path: Path) -> list[str]:
    """Return what a file links to."""
    text = re.sub(r"`[^`\n]*`", "", prose(path))
    return [first or second for first, second in _LINK.findall(text)]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a file's headings, made as GitHub makes them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6}\s+(.*?)\s*$", prose(path), flags=re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = found[slug] = found.get(slug, 0) + 1
        if count > 1:
            found[f"{slug}-{count - 1}"] = 1
    return set(found)
