"""Times at which something is due, earliest first: set, dropped by subject, and taken, each in logarithmic time.

A run may have tens of thousands of them, all dropped at once when it is cancelled, within one workflow task. So what is
dropped stays in the heap until it comes up, or until most of the heap is of that kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any

Alarm = tuple[int, str, Any]
"""``(at, kind, subject)``: milliseconds since the epoch, what is due, and for whom: a node's number, or a task's id."""
_SPARE = 64


class Alarms:
    """A heap of alarms. The same alarm set twice is one."""

    def __init__(self, alarms: Iterable[Iterable[Any]] = ()) -> None:
        self._heap: list[Alarm] = []
        self._live: dict[Any, set[tuple[int, str]]] = {}
        self._count = 0
        for at, kind, subject in alarms:
            self.set(at, kind, subject)

    def set(self, at: int, kind: str, subject: Any) -> None:
        """Let ``kind`` be due at ``at`` for ``subject``."""
        times = self._live.setdefault(subject, set())
        if (at, kind) not in times:
            times.add((at, kind))
            self._count += 1
            heappush(self._heap, (at, kind, subject))

    def drop(self, subject: Any) -> None:
        """Nothing is due any more for ``subject``."""
        self._count -= len(self._live.pop(subject, ()))
        if len(self._heap) > 2 * self._count + _SPARE:
            self._heap = [alarm for alarm in dict.fromkeys(self._heap) if self._is_live(alarm)]
            heapify(self._heap)
        self._prune()

    def take(self, at: int) -> tuple[str, Any] | None:
        """Take out the earliest alarm that is due at ``at``, and return its kind and subject; None if there is none."""
        if not self._heap or self._heap[0][0] > at:
            return None
        when, kind, subject = heappop(self._heap)
        times = self._live[subject]
        times.discard((when, kind))
        if not times:
            del self._live[subject]
        self._count -= 1
        self._prune()
        return kind, subject

    @property
    def next(self) -> int | None:
        """When the earliest is due; None when there is none."""
        return self._heap[0][0] if self._heap else None

    def has(self, kind: str, subject: Any) -> bool:
        """Tell whether ``kind`` is due at some time for ``subject``."""
        return any(one == kind for _, one in self._live.get(subject, ()))

    def __iter__(self) -> Iterator[Alarm]:
        """Yield the alarms, earliest first."""
        yield from sorted(alarm for alarm in dict.fromkeys(self._heap) if self._is_live(alarm))

    def __len__(self) -> int:
        return self._count

    def _is_live(self, alarm: Alarm) -> bool:
        at, kind, subject = alarm
        return (at, kind) in self._live.get(subject, ())

    def _prune(self) -> None:
        while self._heap and not self._is_live(self._heap[0]):
            heappop(self._heap)
