"""The activity ``segment``: runs connected light nodes forward, one after the other, in one activity.

Each node is worked on by the same wrapper as if it had an activity of its own (``execution.py``): deadline, policies,
secrets, breakers, attempts that are recorded. What follows from its end the state machine says, over the part of the
run that came in (``dalang/segments.py``). It ends when nothing more can begin, when its time is up, or when it has
gathered enough; the workflow goes on from there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError

from dalang.activities.execution import Handler, is_wanted_to_stop
from dalang.canonical import compact_json
from dalang.events import Start
from dalang.node_task import node_task
from dalang.plan import FailurePolicy
from dalang.segment_wire import SegmentInput, SegmentNode, SegmentResult, add
from dalang.segments import Ahead
from dalang.wire import ASKS_PERSON, DEFERRED, SEGMENT, NodeTask

SECONDS = 2.0
"""How long nodes are begun; then the run is told what was done until now."""
MAX_RESULT_BYTES = 200_000

Choose = Callable[[NodeTask], Handler]
One = Callable[[NodeTask, Choose], Awaitable[Any]]


def segment_activity(handlers: Mapping[str, Choose], one: One) -> Callable[..., Awaitable[Any]]:
    """Return the activity; ``handlers`` go by node type, and ``one`` makes one attempt of a node."""

    @activity.defn(name=SEGMENT)
    async def segment(request: Any) -> Any:
        return await _Segment(request, handlers, one).run()

    return segment


class _Segment:
    def __init__(self, request: SegmentInput, handlers: Mapping[str, Choose], one: One) -> None:
        self._request = request
        self._handlers = handlers
        self._one = one
        self._ahead = Ahead(request["part"])
        self._ends_with_failure = request["part"]["policy"] == FailurePolicy.FAIL_FAST
        self._result: SegmentResult = {"nodes": [], "alone": []}

    async def run(self) -> SegmentResult:
        """Go forward as far as that can be done."""
        until, size = time.monotonic() + SECONDS, 0
        while time.monotonic() < until and size < MAX_RESULT_BYTES:
            start = self._ahead.next(_now())
            if start is None:
                break
            done = await self._work(start)
            if done is None:  # it goes by itself
                self._result["alone"].append(start.node_id)
                self._ahead.leave(start.node)
                continue
            add(self._result, done)
            if "result" in done:
                outputs = done["result"]["outputs"]
                size += len(compact_json(outputs))
                self._ahead.succeed(start.node_id, outputs, done["ended"])
            elif "error" in done and not self._ends_with_failure:
                self._ahead.leave(start.node)
            else:
                break
        self._result["alone"] += self._ahead.unmade
        return self._result

    async def _work(self, start: Start) -> SegmentNode | None:
        """Make a node's first attempt and return what became of it; None: nothing, and it is not for here."""
        choose = self._handlers.get(start.type)
        if choose is None:
            return None
        request, part = self._request, self._request["part"]
        task = node_task(
            self._ahead.program, start, request["runId"], request["tenantId"], part["about"], request["keyRoot"]
        )
        node: SegmentNode = {"node": start.node_id, "began": _now(), "ended": 0}
        try:
            result = await self._one(task, choose)
            if not result.get("stopped"):
                node["result"] = result
        except asyncio.CancelledError:
            if not is_wanted_to_stop():
                raise
        except ApplicationError as error:
            if error.type in (DEFERRED, ASKS_PERSON):
                return None
            node["error"] = error.details[0]
            if len(error.details) > 2:
                node["usage"] = error.details[2]
        node["ended"] = _now()
        return node


def _now() -> int:
    return time.time_ns() // 1_000_000
