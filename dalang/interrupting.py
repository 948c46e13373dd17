"""Pause by interrupt: what is in flight is stopped, goes back to PENDING, and starts again when the run goes on.

A node that is interrupted is told to stop like one of a run that ends, and stays in flight until it has: nothing starts
it a second time before that, whatever is resumed or paused meanwhile. If it ends in the same moment, that counts. When
it has stopped it waits with the same inputs, generation and idempotency key, so that it is the same work that goes on,
from the last checkpoint of its handler. A handler that did not stop in time - a thread cannot be forced - may be at
work until its deadline, and starts again only after that.

What cannot be stopped safely is left to end: an http request may have had its effect when its connection is cut. A node
says otherwise with ``interruptible``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any

from dalang.events import PauseRequested, Start
from dalang.program import Program
from dalang.run_state import PENDING, moved
from dalang.statuses import IN_FLIGHT, NODE_ENDS, NodeStatus, RunStatus
from dalang.waiting import Waiting
from dalang.wire import Checkpoint, EventType

STILL_WORKING = "still-working"
"""Kind of the alarm after which a handler that did not stop has come to its deadline; its subject is the node."""


class PauseMode(StrEnum):
    """What a pause does with what is in flight."""

    DRAIN = "drain"
    """It ends; nothing new starts."""
    INTERRUPT = "interrupt"
    """It is stopped where that is safe, and starts again when the run goes on."""


class Interrupting(Waiting):
    """A run's state with what is being interrupted, and what nodes that start again go on from.

    ``halting`` are the nodes that were told to stop and will start again; ``starts`` counts, for nodes that did or will
    start again as the same work, the earlier starts; ``checkpoints`` are what the last of them left.
    """

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        super().__init__(program, inputs, about, max_in_flight)
        self.pause_mode: PauseMode | None = None
        self.halting: set[int] = set()
        self.starts: dict[int, int] = {}
        self.checkpoints: dict[int, Checkpoint] = {}
        self._working_on: set[int] = set()

    # -- interrupts ------------------------------------------------------------------------------------------------

    def _may_interrupt(self, event: PauseRequested) -> bool:
        """Whether a run that is paused already may still be told to interrupt what drains."""
        return (
            event.mode == PauseMode.INTERRUPT and self.status is RunStatus.PAUSED and not (self.ending or self.closing)
        )

    def _pause(self, event: PauseRequested) -> None:
        mode = PauseMode(event.mode)
        data: dict[str, Any] = {"operator": event.operator, "reason": event.reason}
        if mode is PauseMode.INTERRUPT:
            data["mode"] = str(mode)
        if self.status is RunStatus.PAUSED:
            given = {key: value for key, value in data.items() if value is not None}
            self._emit(EventType.PLAN_PAUSED, None, {"status": str(self.status), **given})
        else:
            self._move_run(RunStatus.PAUSED, EventType.PLAN_PAUSED, data)
        self.pause_mode = mode
        if mode is PauseMode.INTERRUPT:
            self._interrupt()

    def _move_run(
        self, to: RunStatus, kind: EventType, data: dict[str, Any], body: dict[str, Any] | None = None
    ) -> None:
        super()._move_run(to, kind, data, body)
        self.pause_mode = None

    def _interrupt(self) -> None:
        for node in range(self.program.first_finally):
            at_work = self.statuses[node] in IN_FLIGHT and node not in self.waits
            if at_work and node not in self.halting and self.program.is_interruptible(node):
                self.halting.add(node)
                self._to_stop.append(node)

    def _goes_back(self, node: int, notes: Mapping[str, Any], until: int | None = None) -> bool:
        """Take back a node that stopped because of an interrupt; not where the run is ending meanwhile.

        ``until`` is how long its handler may still be at work.
        """
        if node not in self.halting or self.ending:
            return False
        checkpoint = self.checkpoints.get(node)
        data = {**notes, "checkpointBytes": None if checkpoint is None else checkpoint["size"]}
        self._move_node(node, PENDING, EventType.NODE_INTERRUPTED, data)
        self._starts_again(node)
        if until is not None and until > self._at:
            self._working_on.add(node)
            self._set_alarm(until, STILL_WORKING, node)
        self._make_ready(node)
        return True

    def _was_at_work(self, node: int) -> bool:
        return node in self.starts

    def _make_ready(self, node: int) -> None:
        if node in self._working_on:
            self._readied[node] = True  # and the alarm does the rest
        else:
            super()._make_ready(node)

    def _worked_on(self, node: int) -> None:
        """The deadline of a handler that did not stop has passed."""
        self._working_on.discard(node)
        self._make_ready(node)

    # -- what starts again -----------------------------------------------------------------------------------------

    def _keep_checkpoint(self, node: int, checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            self.checkpoints[node] = checkpoint

    def _starts_again(self, node: int, *, as_other_work: bool = False) -> None:
        """The node will start again: as the same work, from its checkpoint, or as other work, from the beginning."""
        if as_other_work:
            self._forget(node)
        else:
            self.starts[node] = self.starts.get(node, 0) + 1

    def _with_past(self, step: Start) -> Start:
        """Return the step with what earlier starts of the same work left."""
        starts = self.starts.get(step.node, 0)
        return replace(step, starts=starts, checkpoint=self.checkpoints.get(step.node)) if starts else step

    def _move_node(
        self, node: int, to: NodeStatus, kind: EventType, data: Mapping[str, Any], body: dict[str, Any] | None = None
    ) -> None:
        super()._move_node(node, to, kind, data, body)
        self.halting.discard(node)  # whatever it is now, it has ended what it was told to stop
        if to in NODE_ENDS and to is not NodeStatus.FAILED:  # a failed one an operator may have run again
            self._forget(node)

    def _let_go(self, node: int) -> None:
        super()._let_go(node)
        self._forget(node)

    def _forget(self, node: int) -> None:
        self.starts.pop(node, None)
        self.checkpoints.pop(node, None)
        if node in self._working_on:
            self._working_on.discard(node)
            self._drop_alarms(node)

    def _renumber(self, program: Program, to: Sequence[int | None]) -> None:
        super()._renumber(program, to)
        self.halting = {new for node in self.halting if (new := to[node]) is not None}
        self._working_on = {new for node in self._working_on if (new := to[node]) is not None}
        self.starts, self.checkpoints = moved(self.starts, to), moved(self.checkpoints, to)

    # -- snapshot --------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON; what concerns interrupts only where there is something."""
        own: dict[str, Any] = {
            "pauseMode": None if self.pause_mode is None else str(self.pause_mode),
            "halting": sorted(self.halting),
            "starts": [[node, count] for node, count in self.starts.items()],
            "checkpoints": [[node, checkpoint] for node, checkpoint in self.checkpoints.items()],
        }
        return {**super().snapshot(), **{key: value for key, value in own.items() if value}}

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        super()._load(snapshot)
        mode = snapshot.get("pauseMode")
        self.pause_mode = None if mode is None else PauseMode(mode)
        self.halting = set(snapshot.get("halting", ()))
        self.starts = {node: count for node, count in snapshot.get("starts", ())}
        self.checkpoints = {node: checkpoint for node, checkpoint in snapshot.get("checkpoints", ())}
        self._working_on = {subject for _, kind, subject in self._alarms if kind == STILL_WORKING}


Interrupting.alarm_handlers[STILL_WORKING] = Interrupting._worked_on
