"""What every adapter shares: the graph, the step that counts itself, and the talk with ``run.py`` in lines of JSON.

Only the standard library: each adapter runs in the virtual environment of its peer.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

LIMIT = 50
"""How many nodes may be at work at once, for everybody; the layered graph is 50 wide."""


@dataclass(frozen=True)
class Graph:
    """A DAG of ``count`` nodes, numbered so that every edge leads to a higher number."""

    name: str
    count: int
    edges: list[tuple[int, int]]

    @property
    def sources(self) -> list[list[int]]:
        """The nodes each node waits for."""
        found: list[list[int]] = [[] for _ in range(self.count)]
        for source, target in self.edges:
            found[target].append(source)
        return found

    @property
    def levels(self) -> list[list[int]]:
        """Nodes that can be at work together: each after all its sources, as early as it can."""
        depth: list[int] = []
        for sources in self.sources:
            depth.append(1 + max((depth[source] for source in sources), default=-1))
        found: list[list[int]] = [[] for _ in range(max(depth) + 1)]
        for node, level in enumerate(depth):
            found[level].append(node)
        return found


steps: Counter[int] = Counter()
"""How often the step of each node ran, since the run began."""


def step(node: int) -> int:
    """Do nothing, and be counted."""
    steps[node] += 1
    return node


class Subject(Protocol):
    """A peer, started; ``case`` is one of the ways it can run a graph."""

    async def prepare(self, case: str, graph: Graph) -> None:
        """Do what an application does once, before its runs: not counted."""

    async def run(self, case: str, graph: Graph) -> None:
        """Run the graph as a client would, from the call until its result is there: timed."""

    async def settle(self) -> None:
        """Wait until what the peer writes behind the run is written: its processor time counts, its time does not."""

    async def stored(self) -> int:
        """Return how many nodes of the last run the peer's own records call done."""


async def _talk(opened: Callable[[dict[str, Any]], AbstractAsyncContextManager[Subject]], answer: Any) -> None:
    async with opened(json.loads(await _line())) as subject:
        print("{}", file=answer, flush=True)
        while line := await _line():
            asked = json.loads(line)
            told: dict[str, Any]
            if asked["do"] == "prepare":
                graph = Graph(asked["name"], asked["count"], [(a, b) for a, b in asked["edges"]])
                case = asked["case"]
                await subject.prepare(case, graph)
                told = {}
            elif asked["do"] == "run":
                steps.clear()
                begin = time.perf_counter()
                await subject.run(case, graph)
                told = {"seconds": time.perf_counter() - begin}
                await subject.settle()
            else:
                told = {"ran": steps.total(), "nodes": len(steps), "stored": await subject.stored()}
            print(json.dumps(told), file=answer, flush=True)


async def _line() -> str:
    return await asyncio.to_thread(sys.stdin.readline)


def serve(opened: Callable[[dict[str, Any]], AbstractAsyncContextManager[Subject]]) -> None:
    """Answer the runner until it closes our input; whatever libraries print goes to standard error."""
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)
        asyncio.run(_talk(opened, answer))
