"""What a run hears from time and from outside: the nodes ``timer`` and ``event``; ``docs/waiting.md``.

An external event has a name and a correlation key, and a run is a queue for each pair of them: an event goes to the one
node that has waited longest for it, and what comes before a node waits is kept, oldest first. So it does not matter
whether an event or its node comes first, and two nodes that wait for the same take two events. (Within a run one node
with several edges out of it does what a broadcast would do; *across* runs every run that waits gets the event.)

What is kept has bounds; beyond them the oldest is given up, which is a fact. An event with an id that was heard before
is the same event again and changes nothing: senders may repeat, and so may the delivery that survives crashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dalang.canonical import compact_json
from dalang.dataflow import validation_error
from dalang.errors import ErrorPayload, ErrorType
from dalang.events import ExternalEvent
from dalang.instants import format_instant
from dalang.program import Program
from dalang.queueing import Queueing
from dalang.statuses import RUN_ENDS, ImpossibleMove
from dalang.wait_inputs import event_wait, timer_until
from dalang.wire import EventType

MAX_KEPT_EVENTS = 1_000
MAX_KEPT_BYTES = 1024 * 1024
"""How many events that came early, and how many bytes of payload, a run keeps."""
MAX_HEARD = 2_000
"""So many ids of events are remembered; one that is repeated later counts as a new event."""

TIMER, EVENT = "timer", "event"
"""What a node waits for; also the kinds of their alarms."""


class Hearing(Queueing):
    """A run's state with timers and external events.

    ``kept`` are the events that came early, as ``[name, key, payload, event id, received at]``; ``heard`` the ids of
    events, in the order in which they came.
    """

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        self.kept: list[list[Any]] = []
        self.heard: dict[str, None] = {}
        self._kept_bytes = 0
        self._listening: dict[tuple[str, str], dict[int, None]] = {}
        super().__init__(program, inputs, about, max_in_flight)

    # -- timers ----------------------------------------------------------------------------------------------------

    def _begin_timer(self, node: int, inputs: Mapping[str, Any]) -> None:
        try:
            until = timer_until(inputs, self._at)
        except ValueError as error:
            self._fail(node, validation_error(str(error), {}, self.program.ids[node]))
            return
        if until <= self._at:
            self._fire(node)
        else:
            self._wait(node, {"waitsFor": TIMER}, until)

    def _fire(self, node: int) -> None:
        self._wait_over(node)
        self._succeed(node, {"firedAt": format_instant(self._at)}, {})

    # -- events ----------------------------------------------------------------------------------------------------

    def _begin_event(self, node: int, inputs: Mapping[str, Any]) -> None:
        try:
            name, key, timeout = event_wait(inputs)
        except ValueError as error:
            self._fail(node, validation_error(str(error), {}, self.program.ids[node]))
            return
        for number, (kept_name, kept_key, payload, event_id, at) in enumerate(self.kept):
            if (kept_name, kept_key) == (name, key):
                del self.kept[number]
                self._kept_bytes -= len(compact_json(payload))
                self._take(node, payload, event_id, at)
                return
        until = None if timeout is None else self._at + timeout
        self._wait(node, {"waitsFor": EVENT, "event": name, "key": key}, until)
        self._listening.setdefault((name, key), {})[node] = None

    def _take(self, node: int, payload: Mapping[str, Any], event_id: str | None, at: int) -> None:
        self._wait_over(node)
        data = {} if event_id is None else {"eventId": event_id}
        self._succeed(node, {**payload, "receivedAt": format_instant(at)}, data)

    def _event_late(self, node: int) -> None:
        wait = self.waits[node]
        self._wait_over(node)
        message = f"no event {wait['event']!r} with the key {wait['key']!r} came in time"
        self._fail(node, timeout_error(message, self.program.ids[node]))

    def _event_refusal(self, name: str, event: ExternalEvent) -> ImpossibleMove | None:
        return self._wrong_status(name) if self.status in RUN_ENDS else None

    def _hear(self, event: ExternalEvent) -> None:
        if event.event_id is not None:
            if event.event_id in self.heard:
                return
            self._remember(event.event_id)
        listening = self._listening.get((event.name, event.correlation_key))
        if listening:
            self._take(next(iter(listening)), event.payload, event.event_id, self._at)
        else:
            self._keep(event)

    def _remember(self, event_id: str) -> None:
        self.heard[event_id] = None
        if len(self.heard) > MAX_HEARD:
            del self.heard[next(iter(self.heard))]

    def _keep(self, event: ExternalEvent) -> None:
        data = _described(event.name, event.correlation_key, event.event_id)
        if event.operator is not None:
            data["operator"] = event.operator
        payload = dict(event.payload)
        self._emit(EventType.EVENT_RECEIVED, None, data, {"payload": payload})
        self.kept.append([event.name, event.correlation_key, payload, event.event_id, self._at])
        self._kept_bytes += len(compact_json(payload))
        while len(self.kept) > MAX_KEPT_EVENTS or (self._kept_bytes > MAX_KEPT_BYTES and len(self.kept) > 1):
            name, key, payload, event_id, _ = self.kept.pop(0)
            self._kept_bytes -= len(compact_json(payload))
            self._emit(EventType.EVENT_DROPPED, None, _described(name, key, event_id))

    # -- the state -------------------------------------------------------------------------------------------------

    def _wait_over(self, node: int) -> None:
        wait = self.waits.get(node)
        if wait is not None and wait["waitsFor"] == EVENT:
            pair = wait["event"], wait["key"]
            listening = self._listening[pair]
            del listening[node]
            if not listening:
                del self._listening[pair]
        super()._wait_over(node)

    def _renumber(self, program: Program, to: Sequence[int | None]) -> None:
        super()._renumber(program, to)
        self._listening = {
            pair: {new: None for node in nodes if (new := to[node]) is not None}
            for pair, nodes in self._listening.items()
        }

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON; what was heard only where there is any."""
        own: dict[str, Any] = {}
        if self.kept:
            own["kept"] = [list(kept) for kept in self.kept]
        if self.heard:
            own["heard"] = list(self.heard)
        return {**super().snapshot(), **own}

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        super()._load(snapshot)
        self.kept = [list(kept) for kept in snapshot.get("kept", ())]
        self.heard = dict.fromkeys(snapshot.get("heard", ()))
        self._kept_bytes = sum(len(compact_json(kept[2])) for kept in self.kept)
        self._listening = {}
        for node, wait in self.waits.items():
            if wait["waitsFor"] == EVENT:
                self._listening.setdefault((wait["event"], wait["key"]), {})[node] = None


Hearing.wait_types.update({TIMER: Hearing._begin_timer, EVENT: Hearing._begin_event})
Hearing.alarm_handlers.update({TIMER: Hearing._fire, EVENT: Hearing._event_late})


def timeout_error(message: str, node_id: str) -> dict[str, Any]:
    """Return the wire form of the TIMEOUT of a node that waited in vain."""
    return ErrorPayload(type=ErrorType.TIMEOUT, message=message, retryable=False, origin_node=node_id).wire()


def _described(name: str, key: str, event_id: str | None) -> dict[str, Any]:
    return {"event": name, "key": key, **({} if event_id is None else {"eventId": event_id})}
