"""The table of docs/access.md: every address, and which roles it answers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.harness import ROOT

OPEN = "open"
ROLES = ("viewer", "approver", "operator", "agent", "admin")


@dataclass(frozen=True)
class Route:
    """An address as the page has it."""

    method: str
    path: str
    who: str
    roles: frozenset[str]


def table() -> list[Route]:
    """Return the addresses of the page, as it lists them."""
    text = (ROOT / "docs/access.md").read_text(encoding="utf-8")
    meant = {"by call": frozenset(ROLES)}
    for who, *marks in re.findall(r"^\| (\w+) " + r"\| (yes|-) " * len(ROLES) + r"\|$", text, flags=re.M):
        meant[who] = frozenset(role for role, mark in zip(ROLES, marks, strict=True) if mark == "yes")
    found = re.findall(r"^\| `([A-Z]+) (/\S*)` \| ([\w ]+) \|$", text, flags=re.M)
    return [Route(method, path, who, meant[who]) for method, path, who in found]
