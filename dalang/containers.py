"""Nodes that hold other nodes: what is given to the run below one, iterations of a loop, results of a map.

The driver starts one run below a ``plan`` or ``map`` node, and one for each iteration of a ``loop``; how it ended comes
back as NodeSucceeded, NodeFailed or NodeStopped, like the end of any node. Between two iterations a loop's node is
RUNNING and nobody works on it: that it is to be started again stands in :attr:`Containers.again`.

The run below a map runs one node for each element (``Program.repeat``); its end is here, too: the results in order, and
how many failures are too many.

A run below that fails or is cancelled undoes itself. One that has ended well is undone by another run when the run
above is undone, unless the container says itself what undoes it (``undoing.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dalang.canonical import compact_json
from dalang.dataflow import InvalidInputs, expression_error
from dalang.errors import ErrorPayload, ErrorType
from dalang.events import Start
from dalang.expressions import Expression, ExpressionError, evaluate_condition
from dalang.expressions import compile as compile_expression
from dalang.nesting import child_run_id
from dalang.plan_containers import MAX_ELEMENTS, tolerated
from dalang.program import Program
from dalang.questions import Questions
from dalang.run_state import BLOCKED, moved
from dalang.statuses import NodeStatus, RunStatus
from dalang.validation.run_inputs import schema_problems, with_schema_defaults
from dalang.wire import EventType

MAX_RESULT_BYTES = 16 * 1024 * 1024
"""All results of a map together, as JSON: what one node may have as outputs."""
SCHEMA_STEPS = 100_000
"""The budget for checking the inputs of a run below a node, since it is checked within a workflow task."""
SHOWN_FAILURES = 10


class Containers(Questions):
    """A run's state with its containers. ``loops`` says of a loop's node its iteration and the outputs before it."""

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        super().__init__(program, inputs, about, max_in_flight)
        self.loops: dict[int, tuple[int, Mapping[str, Any]]] = {}
        self.again: list[int] = []
        self._failed_elements = 0

    # -- what the run below is given -------------------------------------------------------------------------------

    def _with_items(self, node: int, inputs: dict[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of a node, of a map with its items.

        Raises:
            ExpressionError: ``items`` cannot be evaluated.
        """
        container = self.program.container(node)
        if container is None or "items" not in container:
            return inputs
        template = self.program.items_template(node)
        return {**inputs, "items": container["items"] if template is None else template.render(context)}

    def _fitting(self, node: int, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of a node as the run below it takes them.

        Raises:
            InvalidInputs: it does not take them.
        """
        container = self.program.container(node)
        if container is None:
            return inputs
        if "body" not in container:
            raise InvalidInputs("the plan that this node names was not looked up", {"code": "UNKNOWN_PLAN"})
        if "items" in container:
            _check_items(inputs["items"])
        return inputs if "until" in container else checked_inputs(container, inputs)

    def _own_inputs(self, node: int) -> Mapping[str, Any]:
        """Return what ``inputs`` means for a node: the run's, and for an element of a map that element, too."""
        if self.program.repeat is None:
            return self.inputs
        own = {key: value for key, value in self.inputs.items() if key != "items"}
        return {**own, "item": self.inputs["items"][node], "index": node}

    def _step(self, node: int, inputs: Mapping[str, Any]) -> Start:
        """Return the step that starts ``node``, with the inputs and the id of the run below a container."""
        program, node_id, generation = self.program, self.program.ids[node], self._generation(node)
        if program.container(node) is None:
            return Start(node, node_id, program.types[node], inputs, generation)
        iteration, previous = self.loops.get(node, (0, {}))
        if program.types[node] == "loop":
            inputs = {**inputs, "iteration": iteration, "previous": previous}
        child = child_run_id(str(self.about.get("id", "")), node_id, iteration, generation)
        return Start(node, node_id, program.types[node], inputs, generation, iteration, child)

    def _generation(self, node: int) -> int:
        return self.generations.get(node, 0)

    # -- iterations ------------------------------------------------------------------------------------------------

    def _iterated(self, node: int, outputs: Mapping[str, Any], notes: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the outputs of a node that succeeded; None when it is a loop that goes on, or that has failed now."""
        container = self.program.container(node)
        if container is None or "until" not in container:
            return outputs
        iteration, _ = self.loops.get(node, (0, {}))
        until: Expression = compile_expression(container["until"])
        context = {"outputs": outputs, "iteration": iteration, "inputs": self.given[node]}
        try:
            is_over = evaluate_condition(until, context)
        except ExpressionError as failure:
            place = f"until of node {self.program.ids[node]}"
            self._fail(node, expression_error(place, failure, self.program.ids[node]), notes)
            return None
        if self.ending is not None and node < self.program.first_finally:
            self._end_loop(node)  # it was told to stop, and ended first
            return None
        if is_over:
            self.loops.pop(node, None)
            return {**outputs, "iterations": iteration + 1}
        if iteration + 1 >= container["maxIterations"]:
            self._fail(node, self._exhausted(node, iteration + 1), notes)
            return None
        self.loops[node] = (iteration + 1, outputs)
        self.again.append(node)
        child = child_run_id(str(self.about.get("id", "")), self.program.ids[node], iteration, self._generation(node))
        data = {"status": str(NodeStatus.RUNNING), "iteration": iteration + 1, "endedRunId": child}
        data |= {"undoable": True} if notes.get("undoable") else {}
        self._emit(EventType.NODE_ITERATED, node, data, {"outputs": outputs})
        return None

    def _exhausted(self, node: int, iterations: int) -> dict[str, Any]:
        return ErrorPayload(
            type=ErrorType.RESOURCE_EXHAUSTED,
            message=f"`until` was not true after {iterations} iterations",
            details={"code": "MAX_ITERATIONS", "iterations": iterations},
            origin_node=self.program.ids[node],
        ).wire()

    def _restarts(self) -> list[Start]:
        """Return the starts of the next iterations of loops, unless the run is held."""
        if self.status not in (RunStatus.RUNNING, RunStatus.COMPENSATING) or not self.again:
            return []
        nodes, self.again = self.again, []
        return [self._step(node, self.given[node]) for node in nodes]

    def _cancel_between(self, node: int) -> None:
        """The run is ending, and the loop's node is between two iterations: nobody has to be told."""
        self.again.remove(node)
        self._end_loop(node)

    def _end_loop(self, node: int) -> None:
        self.loops.pop(node, None)
        self.given.pop(node, None)
        self._move_node(node, NodeStatus.CANCELLED, EventType.NODE_CANCELLED, {})
        self._resolved.extend((edge, BLOCKED) for edge in self.program.edges_out[node])

    def _let_go(self, node: int) -> None:
        """The node will not start again."""
        self.loops.pop(node, None)
        super()._let_go(node)

    # -- the run below a map ---------------------------------------------------------------------------------------

    def _give_up(self, node: int, error: Mapping[str, Any]) -> None:
        """Let a failure take its effect; in a map's run as many as are tolerated have none."""
        repeat = self.program.repeat
        if repeat is None:
            super()._give_up(node, error)
            return
        self._failed_elements += 1
        limit = tolerated(self.program.document.get("tolerated", 0), repeat)
        if (self._failed_elements > limit or error.get("suggestedAction") == "ABORT") and self.error is None:
            self.error = self._intolerable(node, error, limit)
            self._fatal = node

    def _intolerable(self, node: int, error: Mapping[str, Any], limit: int) -> dict[str, Any]:
        shown = [
            {"index": index, "type": one.get("type"), "message": one.get("message")}
            for index, one in self._failures()[:SHOWN_FAILURES]
        ]
        details = {"index": node, "failed": self._failed_elements, "tolerated": limit, "details": error.get("details")}
        message = f"element {node} failed: {error.get('message', '')}"
        if self._failed_elements > 1:
            message = (
                f"{self._failed_elements} of {self.program.repeat} elements failed, {limit} are tolerated; {message}"
            )
        own = {"originNode": self.program.ids[node], **error, "message": message[:2000]}
        own["details"] = {**details, "failures": shown}
        return ErrorPayload.model_validate(own).wire()

    def _failures(self) -> list[tuple[int, Mapping[str, Any]]]:
        failed = NodeStatus.FAILED
        return [(node, self.errors.get(node, {})) for node, status in enumerate(self.statuses) if status is failed]

    def _results(self) -> dict[str, Any]:
        """Return the outputs of a map's run.

        Raises:
            InvalidInputs: they are too large.
        """
        failures = self._failures()
        outputs = {
            "results": [self.outputs.get(node) for node in range(len(self.statuses))],
            "failures": [{"index": node, "error": error} for node, error in failures],
            "succeeded": self.counts.get(NodeStatus.SUCCESS, 0) + self.counts.get(NodeStatus.ERROR, 0),
            "failed": len(failures),
        }
        size = len(compact_json(outputs))
        if size > MAX_RESULT_BYTES:
            message = f"the results of the map have {size:,} bytes; at most {MAX_RESULT_BYTES:,} are carried"
            raise InvalidInputs(message, {"code": "TOO_LARGE"})
        return outputs

    # -- keeping track -------------------------------------------------------------------------------------------------

    def _renumber(self, program: Program, to: Sequence[int | None]) -> None:
        super()._renumber(program, to)
        self.loops = moved(self.loops, to)
        self.again = [new for node in self.again if (new := to[node]) is not None]

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON; loops only where there are any."""
        own: dict[str, Any] = {}
        if self.loops:
            own["loops"] = [[node, *state] for node, state in self.loops.items()]
        if self.again:
            own["again"] = list(self.again)
        return {**super().snapshot(), **own}

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        super()._load(snapshot)
        self.loops = {node: (iteration, previous) for node, iteration, previous in snapshot.get("loops", ())}
        self.again = list(snapshot.get("again", ()))
        if self.program.repeat is not None:
            self._failed_elements = self.counts.get(NodeStatus.FAILED, 0) - len(self.awaiting)


def checked_inputs(container: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of the run below a node with the defaults of its plan's schema.

    Raises:
        InvalidInputs: they are not what the schema asks for.
    """
    schema = container.get("schema")
    if schema is None:
        return dict(inputs)
    filled = with_schema_defaults(schema, inputs)
    problems = schema_problems(schema, filled, SCHEMA_STEPS)
    if problems:
        first = problems[0]
        place = f" at {first.pointer}" if first.pointer else ""
        message = f"the inputs are not what the plan in the node takes{place}: {first.message}"
        found = [
            {"pointer": one.pointer, "code": one.code, "message": one.message} for one in problems[:SHOWN_FAILURES]
        ]
        raise InvalidInputs(message, {"code": "INVALID_INPUT", "problems": found})
    return filled


def _check_items(items: Any) -> None:
    if not isinstance(items, list):
        kind = "null" if items is None else type(items).__name__
        raise InvalidInputs(f"the items of a map are a list, not {kind}", {"code": "NO_LIST"})
    if len(items) > MAX_ELEMENTS:
        message = f"a map takes at most {MAX_ELEMENTS:,} items, not {len(items):,}"
        raise InvalidInputs(message, {"code": "TOO_MANY_ITEMS", "items": len(items)})
