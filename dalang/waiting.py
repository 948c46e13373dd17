"""Waits of the state machine itself: nodes that nothing outside works on, and the alarms that end or change them.

An *alarm* is a time at which something is due (``alarms.py``). The machine keeps them, since they are part of
what a run is; the driver keeps one durable timer for the earliest (:attr:`Waiting.next_alarm`) and answers with
:class:`~dalang.events.AlarmRang`. A decision that comes in the same moment as the alarm counts by its own time: whoever
handles an event that an overdue alarm would have forbidden compares the times itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from dalang.alarms import Alarms
from dalang.events import AlarmRang
from dalang.instants import format_instant
from dalang.joining import Joining
from dalang.program import Program
from dalang.run_state import BLOCKED, moved
from dalang.statuses import NodeStatus
from dalang.wire import EventType


class Waiting(Joining):
    """A run's state with its waits and alarms.

    ``alarm_handlers`` says by kind what an alarm does with its subject (a number is a node's), ``wait_types`` by node
    type how a node begins that waits in the state machine itself. ``waits`` says by node what it waits for, in the
    order in which the waits began: nobody outside works on such a node, so nobody is told to stop.
    """

    alarm_handlers: ClassVar[dict[str, Callable[[Any, Any], None]]] = {}
    wait_types: ClassVar[dict[str, Callable[[Any, int, Mapping[str, Any]], None]]] = {}

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        super().__init__(program, inputs, about, max_in_flight)
        self._alarms = Alarms()
        self.waits: dict[int, dict[str, Any]] = {}

    def _wait(
        self,
        node: int,
        wait: dict[str, Any],
        until: int | None = None,
        notes: Mapping[str, Any] | None = None,
        body: dict[str, Any] | None = None,
    ) -> None:
        """Let a RUNNING ``node`` wait: ``wait["waitsFor"]`` is what for, and the kind of the alarm at ``until``."""
        self.waits[node] = wait
        data = {"status": str(NodeStatus.RUNNING), **wait, **(notes or {})}
        if until is not None:
            self._set_alarm(until, wait["waitsFor"], node)
            data["until"] = format_instant(until)
        self._emit(EventType.NODE_WAITING, node, data, body)

    def _wait_over(self, node: int) -> None:
        """The node waits no longer, if it did."""
        if self.waits.pop(node, None) is not None:
            self._drop_alarms(node)

    def _cancel_wait(self, node: int) -> None:
        """The run is ending; nobody outside has to be told."""
        self._wait_over(node)
        self.given.pop(node, None)
        self._move_node(node, NodeStatus.CANCELLED, EventType.NODE_CANCELLED, {})
        self._resolved.extend((edge, BLOCKED) for edge in self.program.edges_out[node])

    @property
    def next_alarm(self) -> int | None:
        """When the earliest alarm is due, in milliseconds since the epoch; None when there is none."""
        return self._alarms.next

    def _set_alarm(self, at: int, kind: str, subject: Any) -> None:
        self._alarms.set(at, kind, subject)

    def _drop_alarms(self, subject: Any) -> None:
        """Nothing is due any more for ``subject``."""
        self._alarms.drop(subject)

    def _ring(self, event: AlarmRang) -> None:
        while (due := self._alarms.take(self._at)) is not None:
            kind, subject = due
            self.alarm_handlers[kind](self, subject)
            self._settle()

    def _renumber(self, program: Program, to: Sequence[int | None]) -> None:
        kept = Alarms()
        for at, kind, subject in self._alarms:
            new = to[subject] if isinstance(subject, int) else subject
            if new is not None:
                kept.set(at, kind, new)
        super()._renumber(program, to)
        self._alarms, self.waits = kept, moved(self.waits, to)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON; alarms and waits only where there are any."""
        own: dict[str, Any] = {"alarms": [list(alarm) for alarm in self._alarms]} if self._alarms else {}
        if self.waits:
            own["waits"] = [[node, wait] for node, wait in self.waits.items()]
        return {**super().snapshot(), **own}

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        self.waits = {node: wait for node, wait in snapshot.get("waits", ())}
        super()._load(snapshot)
        self._alarms = Alarms(snapshot.get("alarms", ()))
