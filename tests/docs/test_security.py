"""SECURITY.md names tests that there are."""

from __future__ import annotations

import re

from tests.harness import ROOT

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_boundary_has_tests_that_exist() -> None:
    """Each row of the table has one at least; a test that is renamed or removed is missed here."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line for line in text.split("\n") if line.startswith("| ") and not line.startswith(("| ---", "| Boundary"))]
    assert len(rows) >= 10
    for row in rows:
        named = NAMED.findall(row)
        assert named, row
        for path, name in named:
            assert re.search(rf"def {name}\(", (ROOT / path).read_text(encoding="utf-8")), (path, name)
