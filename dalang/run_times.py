"""When the nodes of a run did what, for a timeline; and which of them the length of the run hangs on.

Plain data in, plain data out; times are milliseconds since the epoch. A node's life is cut into :class:`Span` where
its events say that it came to another status. What no event tells of are the attempts that Temporal repeats by
itself: their reports cut a span of work into attempts and the pauses between them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from dalang.graph import critical_path
from dalang.statuses import NodeStatus


class Doing(StrEnum):
    """What a node did, or was waiting for, for a while."""

    WAITING = "waiting"
    """All that it depends on had ended; it had no slot, or the run was held."""
    QUEUED = "queued"
    """It waited for a lease or a breaker."""
    RUNNING = "running"
    RETRYING = "retrying"
    """An attempt had failed; the next one was waited for."""
    PERSON = "person"
    """It waited for a person."""
    OUTSIDE = "outside"
    """It waited for a time, an event or an answer from outside."""
    UNDOING = "undoing"


@dataclass(frozen=True, slots=True)
class Happened:
    """That a node came to a status; ``waits`` says that from then on it waits for something outside."""

    node_id: str
    at: int
    status: str
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that failed; ``began`` is None where its worker did not tell."""

    began: int | None
    ended: int


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a node's life; ``end`` is None while it lasts."""

    doing: Doing
    start: int
    end: int | None


_DOING = {
    NodeStatus.PENDING: Doing.WAITING,
    NodeStatus.QUEUED: Doing.QUEUED,
    NodeStatus.RUNNING: Doing.RUNNING,
    NodeStatus.RETRYING: Doing.RETRYING,
    NodeStatus.AWAITING_HITL: Doing.PERSON,
    NodeStatus.COMPENSATING: Doing.UNDOING,
}
NOTICEABLE_MS = 20
"""A shorter time between what a node depends on and its start is no waiting: it is what a machine takes."""
_NEVER_WORKED = (NodeStatus.SKIPPED, NodeStatus.CANCELLED)


def spans(
    happened: Iterable[Happened],
    *,
    began: int | None,
    roots: Collection[str],
    sources: Mapping[str, Sequence[str]],
    failed: Mapping[str, Sequence[Failed]],
) -> dict[str, list[Span]]:
    """Return the life of every node that something happened to, in the order of their beginnings.

    ``happened`` comes in order; ``began`` is when the run did, and could the ``roots``; ``sources`` are the nodes that
    each depends on.
    """
    lives: dict[str, list[Span]] = {}
    ended: dict[str, int] = {}
    for one in happened:
        life = lives.get(one.node_id)
        doing = Doing.OUTSIDE if one.waits else _DOING.get(NodeStatus(one.status))
        if life is None:
            earliest = began if one.node_id in roots else None
            ready = max((ended[node] for node in sources.get(one.node_id, ()) if node in ended), default=earliest)
            waited = ready is not None and one.at - ready >= NOTICEABLE_MS and one.status not in _NEVER_WORKED
            lives[one.node_id] = life = [Span(Doing.WAITING, ready, one.at)] if waited and ready is not None else []
        elif life and life[-1].end is None:
            if life[-1].doing is doing:
                continue
            life[-1] = Span(life[-1].doing, life[-1].start, one.at)
        if doing is None:
            ended[one.node_id] = one.at
        else:
            life.append(Span(doing, one.at, None))
    return {node: _with_attempts(life, failed[node]) if node in failed else life for node, life in lives.items()}


def _with_attempts(life: Sequence[Span], failed: Sequence[Failed]) -> list[Span]:
    """Return the same life, with the pauses after failed attempts where they are known to have ended."""
    pauses = [
        (one.ended, following.began)
        for one, following in pairwise(failed)
        if following.began is not None and following.began > one.ended
    ]
    cut: list[Span] = []
    for span in life:
        if span.doing is not Doing.RUNNING:
            cut.append(span)
            continue
        at = span.start
        for start, end in pauses:
            if at <= start and (span.end is None or end <= span.end):
                cut += [Span(Doing.RUNNING, at, start), Span(Doing.RETRYING, start, end)]
                at = end
        cut.append(Span(Doing.RUNNING, at, span.end))
    return cut


@dataclass(frozen=True, slots=True)
class Took:
    """How a node stands: when it began and ended, and how long it is estimated to take."""

    status: str
    began: int | None
    ended: int | None
    estimate: int | None


def decisive(nodes: Mapping[str, Took], edges: Sequence[tuple[str, str]], now: int) -> tuple[tuple[str, ...], float]:
    """Return the path that the length of the run hangs on, and its length in milliseconds.

    What a node took counts; of one that has not ended, what it is estimated to take, or has taken if that is more.
    Where nothing at all is known of anything, the path with the most nodes.
    """

    def length(node: str) -> float:
        took = nodes[node]
        if took.status in _NEVER_WORKED and took.began is None:
            return 0
        if took.began is None:
            return took.estimate or 0
        if took.ended is None:
            return max(now - took.began, took.estimate or 0)
        return max(took.ended - took.began, 0)

    lengths = {node: length(node) for node in nodes}
    if not any(lengths.values()):
        return critical_path(nodes, edges, lambda node: 1).path, 0
    found = critical_path(nodes, edges, lambda node: lengths[node])
    worked = (node for node in found.path if nodes[node].status not in _NEVER_WORKED or nodes[node].began is not None)
    return tuple(worked), found.length
