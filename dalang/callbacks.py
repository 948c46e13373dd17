"""Nodes that end when somebody calls back: field ``callback`` of a node that an activity runs (``docs/waiting.md``).

The activity asks a service for work and hands it an address; what it returns is only the *acknowledgement*. Then the
node goes on waiting, RUNNING, without a worker and without a slot, until the answer comes or its time is up.

The answer is what counts about the work, so it may come at any time after the activity was begun: before the activity
has ended it is kept until then, and it wins over a failure of the activity, which is then a failure to hear of a
request that was taken. It belongs to the node's generation: the same work, asked for again, is ended by the answer to
the first request as well, other work is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dalang.canonical import body_reference, compact_json
from dalang.events import CallbackReceived, NodeDeferred
from dalang.hearing import Hearing, timeout_error
from dalang.program import Program
from dalang.run_state import ACTIVITY, WAIT, moved
from dalang.statuses import IN_FLIGHT, RUN_ENDS, ImpossibleMove
from dalang.wire import INLINE_BODY_BYTES, EventType

CALLBACK = "callback"
"""What such a node waits for; also the kind of its alarm."""
ACKNOWLEDGEMENT = "acknowledgement"
"""The output that holds what the activity returned."""


class Callbacks(Hearing):
    """A run's state with callbacks.

    ``acknowledged`` holds what the activities of waiting nodes returned, ``answers`` what came before that.
    """

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        self.acknowledged: dict[int, Mapping[str, Any]] = {}
        self.answers: dict[int, dict[str, Any]] = {}
        super().__init__(program, inputs, about, max_in_flight)

    def _calls_back(self, node: int) -> bool:
        """Whether the node's end is not that of its activity."""
        return "callback" in self.program.nodes[node]

    # -- the activity ----------------------------------------------------------------------------------------------

    def _acknowledge(self, node: int, acknowledgement: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """The activity of a node with a callback has ended well."""
        self._took_effect(node, {ACKNOWLEDGEMENT: acknowledgement})
        if self._is_answered(node):
            self._use_answer(node, acknowledgement, data)
        elif self.ending and node < self.program.first_finally:
            self._cancel_wait(node)  # it was told to stop, and had ended before it heard of that
        else:
            self._await_callback(node, acknowledgement, data)

    def _took_effect(self, node: int, outputs: Mapping[str, Any]) -> None:
        """The handler succeeded, whatever is made of its outputs: for whoever keeps account of effects."""

    def _deferred(self, event: NodeDeferred) -> None:
        node = self.program.index[event.node]
        if self._is_answered(node):  # what an earlier attempt asked for
            self._withdraw(node)
            self._use_answer(node, {}, {})
        else:
            super()._deferred(event)

    def _await_callback(self, node: int, acknowledgement: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        timeout = self.program.nodes[node]["callback"].get("timeout")
        until = None if timeout is None else self._at + timeout
        self.acknowledged[node] = acknowledgement
        self.answers.pop(node, None)  # to other work, with other inputs
        self.halting.discard(node)  # it ended in the moment in which it was to be interrupted
        self._take_wait_slot(node)
        self._wait(node, {"waitsFor": CALLBACK}, until, data, {ACKNOWLEDGEMENT: acknowledgement})

    def _is_answered(self, node: int) -> bool:
        """Whether the answer to what the node asks for came before its activity ended."""
        answer = self.answers.get(node)
        return answer is not None and answer["generation"] == self.generations.get(node, 0)

    def _use_answer(self, node: int, acknowledgement: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        self._answered(node, self.answers.pop(node), acknowledgement, data)

    # -- the answer ------------------------------------------------------------------------------------------------

    def _callback_refusal(self, name: str, event: CallbackReceived) -> ImpossibleMove | None:
        number = self.program.index.get(event.node)
        if self.status in RUN_ENDS:
            return self._wrong_status(name)
        if number is None or not self._calls_back(number):
            return ImpossibleMove(name, f"node {event.node}", "not in the plan, or waits for no callback")
        if event.callback_id in self.heard:
            return None
        generation = self.generations.get(number, 0)
        if event.generation != generation:
            return ImpossibleMove(name, f"node {event.node}", f"in generation {generation}, not {event.generation}")
        if self._is_answered(number):
            return ImpossibleMove(name, f"node {event.node}", "answered already")
        wanted = self.statuses[number] in IN_FLIGHT or number in self.awaiting or number in self.given
        return None if wanted else ImpossibleMove(name, f"node {event.node}", self.statuses[number])

    def _called_back(self, event: CallbackReceived) -> None:
        if event.callback_id in self.heard:
            return
        self._remember(event.callback_id)
        node = self.program.index[event.node]
        answer: dict[str, Any] = {"generation": event.generation, "callbackId": event.callback_id}
        if event.error is None:
            answer["outputs"] = dict(event.outputs)
        else:
            answer["error"] = dict(event.error)
        if node in self.acknowledged:
            self._answered(node, answer, self.acknowledged[node], {})
        else:
            self.answers[node] = answer
            self._emit(EventType.CALLBACK_RECEIVED, node, {"callbackId": event.callback_id})

    def _answered(
        self, node: int, answer: Mapping[str, Any], acknowledgement: Mapping[str, Any], data: Mapping[str, Any]
    ) -> None:
        self._wait_over(node)
        data = {**data, "callbackId": answer["callbackId"]}
        if "error" in answer:
            self._fail(node, {"originNode": self.program.ids[node], **answer["error"]}, data)
            return
        encoded = compact_json(acknowledgement)
        # The worker has stored what its activity returned, if that is large.
        stored = len(encoded) >= INLINE_BODY_BYTES and "error" not in acknowledgement
        shown = {ACKNOWLEDGEMENT: body_reference(encoded)} if stored else {}
        self._succeed(node, {**answer["outputs"], ACKNOWLEDGEMENT: acknowledgement}, data, shown)

    def _callback_late(self, node: int) -> None:
        self._wait_over(node)
        self._fail(node, timeout_error("nobody called back in time", self.program.ids[node]))

    # -- the state -------------------------------------------------------------------------------------------------

    def _take_wait_slot(self, node: int) -> None:
        if self._slots[node] == ACTIVITY and self.program.max_in_flight is None:
            self._busy[ACTIVITY] -= 1
            self._busy[WAIT] += 1
            self._slots[node] = WAIT

    def _make_ready(self, node: int) -> None:
        if self._calls_back(node) and self._slots[node] == WAIT:
            self._slots[node] = ACTIVITY  # it is run again
        super()._make_ready(node)

    def _wait_over(self, node: int) -> None:
        self.acknowledged.pop(node, None)
        super()._wait_over(node)

    def _index(self) -> None:
        super()._index()
        for node in self.acknowledged:
            self._take_wait_slot(node)

    def _renumber(self, program: Program, to: Sequence[int | None]) -> None:
        super()._renumber(program, to)
        self.acknowledged, self.answers = moved(self.acknowledged, to), moved(self.answers, to)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON; callbacks only where there are any."""
        own: dict[str, Any] = {}
        if self.acknowledged:
            own["acknowledged"] = [[node, value] for node, value in self.acknowledged.items()]
        if self.answers:
            own["answers"] = [[node, value] for node, value in self.answers.items()]
        return {**super().snapshot(), **own}

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        self.acknowledged = {node: value for node, value in snapshot.get("acknowledged", ())}
        self.answers = {node: value for node, value in snapshot.get("answers", ())}
        super()._load(snapshot)


Callbacks.alarm_handlers[CALLBACK] = Callbacks._callback_late
