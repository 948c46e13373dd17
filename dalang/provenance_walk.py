"""Walking provenance: what fed an execution, back to the run's inputs, and what it fed, forward to the outputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Execution = Mapping[str, Any]


def givers(sources: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the executions that sources name, each once: those whose values were taken, and those that were read."""
    found: dict[str, None] = {}
    for source in sources:
        if "execution" in source:
            found[source["execution"]] = None
        for read in source.get("reads", ()):
            if "execution" in read:
                found[read["execution"]] = None
    return list(found)


def sources_of(execution: Execution) -> Sequence[Mapping[str, Any]]:
    """Return the sources of an execution's inputs."""
    inputs = execution.get("inputs")
    found: Sequence[Mapping[str, Any]] = inputs["sources"] if inputs else ()
    return found


class Lines:
    """Who gave to whom in a run; ``end`` stands for the run's outputs."""

    end = "outputs"

    def __init__(self, executions: Sequence[Execution], outputs: Mapping[str, Any] | None) -> None:
        self.executions = {one["id"]: one for one in executions}
        self.back: dict[str, list[str]] = {one["id"]: givers(sources_of(one)) for one in executions}
        self.back[self.end] = givers(outputs["sources"]) if outputs else []
        self.forward: dict[str, list[str]] = {}
        for taker, gave in self.back.items():
            for giver in gave:
                self.forward.setdefault(giver, []).append(taker)

    def reached(self, start: Iterable[str], lines: Mapping[str, Sequence[str]], limit: int) -> Iterator[Execution]:
        """Yield the executions that are reached along ``lines``, the nearest first, at most ``limit``."""
        waiting = deque(start)
        seen = set(waiting)
        while waiting and limit > 0:
            for one in lines.get(waiting.popleft(), ()):
                if one not in seen and one in self.executions:
                    seen.add(one)
                    waiting.append(one)
                    limit -= 1
                    yield self.executions[one]


def around(
    executions: Sequence[Execution], outputs: Mapping[str, Any] | None, node_id: str, limit: int
) -> dict[str, Any]:
    """Return a node's executions with what fed them and what they fed, as far as ``limit`` goes each way."""
    lines = Lines(executions, outputs)
    own = [one for one in executions if one["nodeId"] == node_id]
    start = [one["id"] for one in own]
    back = list(lines.reached(start, lines.back, limit + 1))
    forward = list(lines.reached(start, lines.forward, limit + 1))
    reached = {*start, *(one["id"] for one in forward)}
    return {
        "executions": own,
        "back": back[:limit],
        "forward": forward[:limit],
        "reachesOutputs": any(one in reached for one in lines.back[Lines.end]),
        "truncated": len(back) > limit or len(forward) > limit,
    }
