"""What the comparison with peers rests on, without any peer: the graph they are handed, and their exact versions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.peers.adapters.serving import Graph

PEERS = Path(__file__).resolve().parent.parent / "benchmarks" / "peers"
PINNED = sorted(PEERS.glob("requirements/*.txt"))


def test_a_level_has_what_can_be_at_work_together() -> None:
    """A node comes after all its sources, and as early as it can."""
    graph = Graph("ragged", 5, [(0, 2), (1, 2), (0, 3), (2, 4), (3, 4)])
    assert graph.levels == [[0, 1], [2, 3], [4]]
    assert graph.sources[4] == [2, 3]


@pytest.mark.parametrize("file", PINNED, ids=lambda file: file.stem)
def test_peers_have_exact_versions(file: Path) -> None:
    """Names and versions, nothing about where they come from."""
    lines = file.read_text(encoding="utf-8").split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    assert any(line.startswith(f"{file.stem}") for line in lines)
