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
NEVER_WORKED = (NodeStatus.SKIPPED, NodeStatus.CANCELLED)


def spans(
    happened: Iterable[Happened],
    *,
    began: int | None,
    roots: Collection[str],
    sources: Mapping[str, Sequence[str]],
    failed: Mapping[str, Sequence[Failed]],
    ended: Mapping[str, int] | None = None,
) -> dict[str, list[Span]]:
    """Return the life of every node that something happened to, in the order of their beginnings.

    ``happened`` comes in order; ``began`` is when the run did, and could the ``roots``; ``sources`` are the nodes that
    each depends on; ``ended`` is when those did that nothing else is told of.
    """
    lives: dict[str, list[Span]] = {}
    ended = {} if ended is None else dict(ended)
    for one in happened:
        life = lives.get(one.node_id)
        doing = Doing.OUTSIDE if one.waits else _DOING.get(NodeStatus(one.status))
        if life is None:
            earliest = began if one.node_id in roots else None
            ready = max((ended[node] for node in sources.get(one.node_id, ()) if node in ended), default=earliest)
            waited = ready is not None and one.at - ready >= NOTICEABLE_MS and one.status not in NEVER_WORKED
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


def time_taken(status: str, began: int | None, ended: int | None, estimate: int | None, now: int) -> int:
    """Return how long a node took, in milliseconds: what decides is what it took.

    Of one that has not ended, what it is estimated to take, or has taken if that is more.
    """
    if began is None:
        return 0 if status in NEVER_WORKED else estimate or 0
    return max(now - began, estimate or 0) if ended is None else max(ended - began, 0)


def decisive(lengths: Sequence[int], sources: Sequence[int], targets: Sequence[int]) -> tuple[list[int], int]:
    """Return the nodes that the length of a run hangs on, and that length; of ways that are equal, the first.

    Nodes go by number. No edge comes before one that begins where it ends: those of the deepest sources come first.
    Where nothing at all is known of anything, the way with the most nodes.
    """
    if not any(lengths):
        return decisive([1] * len(lengths), sources, targets)[0] if lengths else [], 0
    longest, following = list(lengths), [-1] * len(lengths)
    for source, target in zip(sources, targets, strict=True):
        length = lengths[source] + longest[target]
        if length > longest[source] or following[source] < 0:
            longest[source], following[source] = length, target
    is_target = bytearray(len(lengths))
    for target in targets:
        is_target[target] = 1
    roots = (one for one, is_below in enumerate(is_target) if not is_below)
    node = max(roots, key=longest.__getitem__)
    total, path = longest[node], []
    while node >= 0:
        path.append(node)
        node = following[node]
    return path, total
