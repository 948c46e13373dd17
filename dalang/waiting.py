"""Waits of the state machine itself: nodes that nothing outside works on, and the alarms that end or change them.

An *alarm* is a time at which something is due: ``[at, kind, subject]``. The machine keeps them, since they are part of
what a run is; the driver keeps one durable timer for the earliest (:attr:`Waiting.next_alarm`) and answers with
:class:`~dalang.events.AlarmRang`. A decision that comes in the same moment as the alarm counts by its own time: whoever
handles an event that an overdue alarm would have forbidden compares the times itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from typing import Any, ClassVar

from dalang.events import AlarmRang
from dalang.joining import Joining
from dalang.program import Program

Alarm = list[Any]
"""``[at, kind, subject]``: milliseconds since the epoch, a name of :attr:`Waiting.alarm_handlers`, a node or a task."""


class Waiting(Joining):
    """A run's state with its alarms. ``alarm_handlers`` says by kind what an alarm does with its subject."""

    alarm_handlers: ClassVar[dict[str, Callable[[Any, Any], None]]] = {}

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        super().__init__(program, inputs, about, max_in_flight)
        self._alarms: list[Alarm] = []

    @property
    def next_alarm(self) -> int | None:
        """When the earliest alarm is due, in milliseconds since the epoch; None when there is none."""
        return self._alarms[0][0] if self._alarms else None

    def _set_alarm(self, at: int, kind: str, subject: Any) -> None:
        heappush(self._alarms, [at, kind, subject])

    def _drop_alarms(self, subject: Any) -> None:
        """Nothing is due any more for ``subject``."""
        kept = [alarm for alarm in self._alarms if alarm[2] != subject]
        if len(kept) < len(self._alarms):
            heapify(kept)
            self._alarms = kept

    def _ring(self, event: AlarmRang) -> None:
        while self._alarms and self._alarms[0][0] <= self._at:
            _, kind, subject = heappop(self._alarms)
            self.alarm_handlers[kind](self, subject)
            self._settle()

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON; alarms only where there are any."""
        return {**super().snapshot(), **({"alarms": sorted(self._alarms)} if self._alarms else {})}

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        super()._load(snapshot)
        self._alarms = [list(alarm) for alarm in snapshot.get("alarms", ())]
        heapify(self._alarms)
