"""Walking provenance: what fed an execution, back to the run's inputs, and what it fed, forward to the outputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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

    def reached(self, start: Iterable[str], lines: Mapping[str, Sequence[str]], limit: int) -> Reached:
        """Return the executions that are reached along ``lines``, the nearest first, at most ``limit``."""
        waiting = deque(start)
        seen = {*waiting, self.end}
        found: list[Execution] = []
        missing: list[str] = []
        while waiting:
            for one in lines.get(waiting.popleft(), ()):
                if one in seen:
                    continue
                if len(found) == limit:
                    return Reached(found, missing, is_full=True)
                seen.add(one)
                if one in self.executions:
                    waiting.append(one)
                    found.append(self.executions[one])
                else:
                    missing.append(one)
        return Reached(found, missing, is_full=False)


@dataclass(frozen=True)
class Reached:
    """What a walk came to; ``missing`` are ids of executions it was not given, ``is_full``: its limit left out some."""

    executions: Sequence[Execution]
    missing: Sequence[str]
    is_full: bool


@dataclass(frozen=True)
class Around:
    """A node's executions with what fed them (``back``) and what they fed (``forward``)."""

    executions: Sequence[Execution]
    back: Reached
    forward: Reached
    reaches_outputs: bool


def around(executions: Sequence[Execution], outputs: Mapping[str, Any] | None, node_id: str, limit: int) -> Around:
    """Return what is around a node, as far as ``limit`` goes each way."""
    lines = Lines(executions, outputs)
    own = [one for one in executions if one["nodeId"] == node_id]
    start = [one["id"] for one in own]
    back, forward = (lines.reached(start, way, limit) for way in (lines.back, lines.forward))
    reached = {*start, *(one["id"] for one in forward.executions)}
    return Around(own, back, forward, any(one in reached for one in lines.back[Lines.end]))
