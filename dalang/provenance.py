"""Where everything in a run came from: its executions and the sources of their inputs, derived from plan and events.

Theory of operation. The events of a run are told again, in order, to :class:`Telling`: a run's edges without its
decisions. When a node ends, its edges are lit by the state machine's own rules (``joining.py``), so that at the moment
a node's inputs are made it is known which edges are live, and whose outputs stand at their other ends. The sources of
the inputs follow from that and the plan (``provenance_sources.py``); nothing of it is stored. What does not follow -
worker, build, model, code - is in the data of the events (``made``), where the worker's answer has put it.

Values are only compared and digested, never shown. One that is known by its digest only, or was erased, costs certainty
and no more: edges that depend on it are taken with ``certain: false``, an input nobody can explain is ``unknown``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dalang.canonical import pointer
from dalang.joining import Joining
from dalang.program import Program
from dalang.program_changes import changes
from dalang.provenance_sources import (
    Candidates,
    Source,
    digest_of,
    input_candidates,
    is_reference,
    undo_sources,
    written,
)
from dalang.run_state import LIVE
from dalang.statuses import NodeStatus
from dalang.wire import EventType

MAYBE = 4
"""State of an edge whose condition cannot be weighed any more, since what it reads is not at hand."""
_NO_PROGRAM: dict[str, Any] = {
    "nodes": [], "edges": [], "retries": [], "policy": "", "priority": 0, "maxInFlight": None, "timeout": None,
    "finally": 0,
}  # fmt: skip
MADE = ("worker", "build", "model", "implementation")
OF_RUN = (EventType.PLAN_STARTED, EventType.PLAN_REVISED, EventType.PLAN_COMPLETED, EventType.CHAIN_GAP)
"""What happens to a run, and not to a node of it, and is to be told."""


@dataclass(frozen=True, slots=True)
class Happened:
    """An event as it is told again; ``body`` None: there is none, or it was erased."""

    id: str
    type: str
    node_id: str | None
    at: str
    data: Mapping[str, Any]
    body: Mapping[str, Any] | None


@dataclass(frozen=True)
class About:
    """What is known of the run beside its events; links to other runs are their ids."""

    run_id: str
    inputs: Any
    about: Mapping[str, Any] = field(default_factory=dict)
    plan_digest: str = ""
    redrive_of: str | None = None
    undo_of: str | None = None
    changed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Inputs that were changed when the run was started again, by node."""
    created_by: str = ""


class Telling(Joining):
    """A run's edges, told what happened; all outputs are kept."""

    def __init__(self, program: Program, about: About) -> None:
        inputs = about.inputs if isinstance(about.inputs, Mapping) else {}
        super().__init__(program, inputs, about.about)
        self.latest: dict[int, str] = {}

    def _is_read(self, node: int) -> bool:
        return True

    def _fail(self, node: int, error: Mapping[str, Any], notes: Mapping[str, Any] | None = None) -> None:
        """Nothing is decided here: what a failure meant is told by events."""

    def _end_early(self, node: int) -> None:
        """Nothing is decided here."""

    def execution_of(self, node: int) -> str | None:
        """Return which execution of a node its outputs are from."""
        return self.latest.get(node)

    def light(self, node: int, outputs: Mapping[str, Any]) -> None:
        """The node has outputs: light its edges as the run did."""
        self.outputs[node] = outputs
        for edge in self.program.edges_out[node]:
            self.edges[edge] = self._state(edge, outputs, None)

    def light_errors(self, node: int, error: Mapping[str, Any]) -> bool:
        """The node failed: light its error edges as the run did, and tell whether one is live."""
        self.errors[node] = error
        edges = [edge for edge in self.program.edges_out[node] if self.program.is_error_port(edge)]
        for edge in edges:
            self.edges[edge] = self._state(edge, {}, error)
        return any(self.edges[edge] in (LIVE, MAYBE) for edge in edges)

    def _state(self, edge: int, outputs: Mapping[str, Any], error: Mapping[str, Any] | None) -> int:
        program, condition = self.program, self.program.condition(edge)
        by_value = condition is not None or not (program.is_success_port(edge) or program.is_error_port(edge))
        by_value = by_value or program.types[program.sources[edge]] == "human"
        read = [self.outputs.get(node) for node in program.edge_reads.get(edge, ())]
        if by_value and any(map(is_reference, (outputs, error, *read))):
            return MAYBE
        if error is not None:
            return self._weigh(edge, {}, error)
        return self._lit(edge, outputs)

    def live_into(self, node: int) -> list[tuple[int, bool]]:
        """Return the edges into ``node`` that are live by now, in plan order, and whether that is certain."""
        states = ((edge, self.edges[edge]) for edge in self.program.edges_in[node])
        return [(edge, state == LIVE) for edge, state in states if state in (LIVE, MAYBE)]


Execution = dict[str, Any]


class Provenance:
    """The provenance of one run; :meth:`tell` takes its events in order. ``executions`` are in the order they began."""

    def __init__(self, about: About, program_of: Callable[[str], Program | None]) -> None:
        self.about = about
        self._program_of = program_of
        self.executions: list[Execution] = []
        self.outputs: dict[str, Any] | None = None
        self.gaps: list[str] = []
        self.revision, self.plan_digest = 1, about.plan_digest
        self.told = Telling(self._program(about.plan_digest), about)
        self._open: dict[str, Execution] = {}
        self._of_node: dict[str, list[Execution]] = {}
        self._inputs: dict[str, Candidates] = {}
        self._overrides: dict[str, dict[str, Source]] = {}
        self._kept: list[Happened] = []
        for node, own in about.changed.items():
            self._override(node, own, {"operator": about.created_by, "run": about.run_id})

    def _program(self, digest: str) -> Program:
        return self._program_of(digest) or Program(_NO_PROGRAM)

    def tell(self, events: Iterable[Happened]) -> Provenance:
        """Take what happened next."""
        for event in events:
            if event.type == EventType.NODE_KEPT:
                self._kept.append(event)
                continue
            self._light_kept()
            handler = _HANDLERS.get(event.type)
            if handler is not None:
                handler(self, event)
        return self

    def forget_values(self) -> None:
        """Nothing more is told: let go of what nodes put out, which may be large. What is known of it stays."""
        self.told.outputs.clear()
        self.told.errors.clear()

    # -- executions ------------------------------------------------------------------------------------------------

    def _begun(self, event: Happened, kind: str) -> Execution:
        name = str(event.node_id)
        mine = self._of_node.setdefault(name, [])
        execution: Execution = {
            "id": f"{name}@{len(mine) + 1}",
            "nodeId": name,
            "kind": kind,
            "status": str(event.data.get("status", "RUNNING")),
            "startedEvent": event.id,
            "startedAt": event.at,
            "plan": self.plan_digest,
            "revision": self.revision,
        }
        node = self.told.program.index.get(name)
        if node is not None:
            document = self.told.program.nodes[node]
            execution["type"] = document["type"]
            if "implementation" in document:
                planned = document["implementation"]
                execution["implementation"] = {
                    key: planned[key] for key in ("type", "coordinate", "digest") if key in planned
                }
        mine.append(execution)
        self.executions.append(execution)
        return execution

    def _made_inputs(self, event: Happened) -> None:
        """The inputs of a node are made when it is first queued or started; later starts of the same work keep them."""
        name = str(event.node_id)
        node = self.told.program.index.get(name)
        if name not in self._inputs and node is not None:
            self._inputs[name] = input_candidates(self.told, node, self.told.live_into(node))

    def _queued(self, event: Happened) -> None:
        self._made_inputs(event)

    def _started(self, event: Happened) -> None:
        self._made_inputs(event)
        name, data = str(event.node_id), event.data
        self._set_status(event)
        current = self._open.get(name)
        if current is None or current.get("generation", 0) != data.get("generation", 0):
            current = self._open[name] = self._begun(event, "work")
            current["generation"] = data.get("generation", 0)
            current["inputs"] = self._sources(name, event.body)
        else:
            current["starts"] = current.get("starts", 1) + 1
            current["status"] = "RUNNING"
        for key, told in (("agent", "agent"), ("maxAttempts", "maxAttempts")):
            if data.get(told) is not None:
                current[key] = data[told]
        if data.get("childRunId"):
            _add(current, "childRuns", data["childRunId"])

    def _sources(self, name: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        inputs = _part(body, "inputs")
        candidates = self._inputs.get(name, Candidates())
        sources = candidates.chosen(inputs, "before" if self.about.redrive_of else "unknown")
        changed = self._overrides.get(name, {})
        if changed:
            sources = [one for one in sources if _key(one) not in changed] + list(changed.values())
        return {"digest": digest_of(inputs), "sources": sources}

    def _end(self, event: Happened, status: str) -> Execution:
        """The node has ended, or was given what it never did."""
        name = str(event.node_id)
        self._set_status(event)
        self._inputs.pop(name, None)
        execution = self._open.pop(name, None) or self._begun(event, "given")
        execution |= {"status": status, "endedEvent": event.id, "endedAt": event.at}
        _take_made(execution, event.data)
        return execution

    def _completed(self, event: Happened) -> None:
        execution = self._end(event, "SUCCESS")
        by = "person" if execution.get("type") == "human" else "outside" if execution.get("type") == "event" else "work"
        self._put_out(execution, event, by)
        if event.data.get("childRunId"):
            _add(execution, "childRuns", event.data["childRunId"])

    def _put_out(self, execution: Execution, event: Happened, by: str) -> None:
        outputs = _part(event.body, "outputs")
        execution["outputs"] = {"digest": digest_of(outputs), "from": by}
        node = self.told.program.index.get(str(event.node_id))
        if node is not None:
            self.told.latest[node] = execution["id"]
            self.told.light(node, outputs if isinstance(outputs, Mapping) else {"$ref": ""})

    def _failed(self, event: Happened) -> None:
        error = _part(event.body, "error")
        name = str(event.node_id)
        node = self.told.program.index.get(name)
        given = self._inputs.get(name)
        if name not in self._open:
            self._set_status(event)
            execution = self._begun(event, "notStarted")
            execution |= {"endedEvent": event.id, "endedAt": event.at}
        else:
            execution = self._open[name]
        if node is not None:
            self.told.latest[node] = execution["id"]
            self.told.light_errors(node, error if isinstance(error, Mapping) else {"$ref": ""})
        if name in self._open:
            self._end(event, str(event.data.get("status")))
        if event.data.get("awaiting") and given is not None:
            self._inputs[name] = given  # it is run again with the same inputs, should somebody want that
        if isinstance(error, Mapping):
            execution["error"] = {"digest": digest_of(error), "type": event.data.get("errorType")}
        if event.data.get("fallback"):
            self._put_out(execution, event, "fallback")

    def _skipped(self, event: Happened) -> None:
        if _part(event.body, "outputs") is None:
            self._cancelled(event)
            return
        execution = self._end(event, "SKIPPED")
        _add(execution, "people", event.data.get("operator"))
        self._put_out(execution, event, "operator")

    def _cancelled(self, event: Happened) -> None:
        if event.node_id in self._open:
            self._end(event, str(event.data.get("status")))
        self._set_status(event)
        self._inputs.pop(str(event.node_id), None)

    def _goes_on(self, event: Happened) -> None:
        """An attempt failed or was stopped, and the same work goes on later."""
        self._set_status(event)
        if event.node_id in self._open:
            self._open[event.node_id]["status"] = str(event.data.get("status"))
            _take_made(self._open[event.node_id], event.data)

    def _iterated(self, event: Happened) -> None:
        if event.node_id in self._open:
            _add(self._open[event.node_id], "childRuns", event.data.get("endedRunId"))

    def _retried(self, event: Happened) -> None:
        self._set_status(event)
        own = _part(event.body, "inputs")
        if isinstance(own, Mapping):
            self._override(str(event.node_id), own, {"operator": event.data.get("operator"), "event": event.id})

    def _override(self, name: str, own: Mapping[str, Any], by: Mapping[str, Any]) -> None:
        changed = self._overrides.setdefault(name, {})
        changed.update({key: {"pointer": pointer(key), "from": "operator", **by} for key in own})

    def _person(self, event: Happened) -> None:
        if event.node_id in self._open:
            _add(self._open[event.node_id], "people", event.data.get("completedBy") or event.data.get("operator"))

    # -- what was kept, undone, revised ----------------------------------------------------------------------------

    def _light_kept(self) -> None:
        """Take over what the run before came to: first all of it, then its edges, as ``revival.py`` does."""
        kept, self._kept = self._kept, []
        for event in kept:
            self._set_status(event)
            execution = self._begun(event, "kept")
            execution["keptFrom"] = self.about.redrive_of or self.about.undo_of
            execution |= {"endedEvent": event.id, "endedAt": event.at}
            node = self.told.program.index.get(str(event.node_id))
            if node is None:
                continue
            self.told.latest[node] = execution["id"]
            for part, into in (("outputs", self.told.outputs), ("error", self.told.errors)):
                value = _part(event.body, part)
                if isinstance(value, Mapping):
                    into[node] = value
                    execution[part] = {"digest": digest_of(value)}
            if "outputs" in execution:
                execution["outputs"]["from"] = "kept"
        for event in kept:
            node = self.told.program.index.get(str(event.node_id))
            if node is not None:
                self._light_again(node, str(event.data.get("status")))

    def _light_again(self, node: int, status: str) -> None:
        told = self.told
        if node in told.outputs or status == "SUCCESS":
            told.light(node, told.outputs.get(node, {"$ref": ""}))
        elif status == "ERROR" and node in told.errors:
            told.light_errors(node, told.errors[node])

    def _undoing(self, event: Happened) -> None:
        name = str(event.node_id)
        undone = next((one for one in reversed(self._of_node.get(name, ())) if _is_undone(one, event)), None)
        execution = self._open[name] = self._begun(event, "undo")
        execution["type"] = event.data.get("type", execution.get("type"))
        execution["undoes"] = None if undone is None else undone["id"]
        inputs = _part(event.body, "undoInputs")
        node = self.told.program.index.get(name)
        sources = []
        if node is not None:
            sources = undo_sources(self.told, node, execution["undoes"], inputs)
        execution["inputs"] = {"digest": digest_of(inputs), "sources": sources}

    def _undone(self, event: Happened) -> None:
        execution = self._open.pop(str(event.node_id), None)
        if execution is None:
            return
        execution |= {"status": str(event.data.get("status")), "endedEvent": event.id, "endedAt": event.at}
        _take_made(execution, event.data)
        outputs, error = _part(event.body, "undoOutputs"), _part(event.body, "error")
        if outputs is not None:
            execution["outputs"] = {"digest": digest_of(outputs), "from": "work"}
        if isinstance(error, Mapping):
            execution["error"] = {"digest": digest_of(error), "type": error.get("type")}

    def _revised(self, event: Happened) -> None:
        """The run goes on with another plan: edges that are new are lit by what has ended, the others stay."""
        self.revision = int(event.data.get("revision") or self.revision + 1)
        self.plan_digest = str(event.data.get("plan") or "")
        old, told = self.told, Telling(self._program(self.plan_digest), self.about)
        change = changes(old.program, told.program)
        numbers = {node: told.program.index.get(node_id) for node, node_id in enumerate(old.program.ids)}
        for before, after in numbers.items():
            if after is not None:
                told.statuses[after] = old.statuses[before]
                for mine, other in ((told.outputs, old.outputs), (told.errors, old.errors)):
                    if before in other:
                        mine[after] = other[before]
                if before in old.latest:
                    told.latest[after] = old.latest[before]
            if old.program.ids[before] in change.nodes | change.rewired:
                self._inputs.pop(old.program.ids[before], None)
        self.told = told
        for node in {told.program.sources[edge] for edge in change.fresh}:
            self._light_again(node, str(told.statuses[node]))
        for new, before in change.kept.items():
            told.edges[new] = old.edges[before]

    # -- the run -------------------------------------------------------------------------------------------------------

    def _started_run(self, event: Happened) -> None:
        inputs = _part(event.body, "inputs")
        if self.about.inputs is None and isinstance(inputs, Mapping):
            self.told.inputs = inputs

    def _completed_run(self, event: Happened) -> None:
        program, outputs = self.told.program, _part(event.body, "outputs")
        sources = written(self.told, program.document.get("outputs") or {}, {})
        if program.repeat is not None:
            sources = [{"pointer": "", "from": "elements"}]
        self.outputs = {"digest": digest_of(outputs), "sources": sources}

    def _gap(self, event: Happened) -> None:
        self.gaps.append(event.id)

    def _set_status(self, event: Happened) -> None:
        node = self.told.program.index.get(str(event.node_id))
        status = event.data.get("status")
        if node is not None and isinstance(status, str) and status in NodeStatus.__members__:
            self.told.statuses[node] = NodeStatus(status)

    def wire(self) -> dict[str, Any]:
        """Return the whole as JSON, without executions."""
        return {
            "runId": self.about.run_id,
            "plan": self.plan_digest,
            "revision": self.revision,
            "inputs": {"digest": digest_of(self.about.inputs)},
            "outputs": self.outputs,
            "gaps": self.gaps,
        }


def _is_undone(one: Execution, event: Happened) -> bool:
    return bool(one["kind"] == "kept") or (
        one["kind"] == "work" and one.get("generation", 0) == event.data.get("undoes", 0)
    )


def _part(body: Mapping[str, Any] | None, part: str) -> Any:
    """Return a part of a body; of a whole body that is somewhere else, the reference with its part."""
    if body is None:
        return None
    return {**body, "part": part} if "$ref" in body else body.get(part)


def _key(source: Source) -> str:
    return str(source["pointer"][1:].partition("/")[0].replace("~1", "/").replace("~0", "~"))


def _add(execution: Execution, key: str, value: Any) -> None:
    if value is not None and value not in execution.setdefault(key, []):
        execution[key].append(value)


def _take_made(execution: Execution, data: Mapping[str, Any]) -> None:
    """Take what the worker told of itself and of what it used."""
    made = data.get("made")
    told = {**(made if isinstance(made, Mapping) else {}), "worker": data.get("worker")}
    for key in MADE:
        if told.get(key) is not None:
            execution[key] = told[key]
    if isinstance(data.get("attempt"), int):
        execution["attempt"] = data["attempt"]


_HANDLERS: Mapping[str, Callable[[Provenance, Happened], None]] = {
    EventType.PLAN_STARTED: Provenance._started_run,
    EventType.PLAN_REVISED: Provenance._revised,
    EventType.PLAN_COMPLETED: Provenance._completed_run,
    EventType.CHAIN_GAP: Provenance._gap,
    EventType.NODE_QUEUED: Provenance._queued,
    EventType.NODE_STARTED: Provenance._started,
    EventType.NODE_ITERATED: Provenance._iterated,
    EventType.NODE_RETRYING: Provenance._goes_on,
    EventType.NODE_INTERRUPTED: Provenance._goes_on,
    EventType.NODE_RETRY_REQUESTED: Provenance._retried,
    EventType.NODE_COMPLETED: Provenance._completed,
    EventType.NODE_ERROR: Provenance._failed,
    EventType.NODE_FAILED: Provenance._failed,
    EventType.NODE_SKIPPED: Provenance._skipped,
    EventType.NODE_CANCELLED: Provenance._cancelled,
    EventType.NODE_COMPENSATING: Provenance._undoing,
    EventType.NODE_COMPENSATED: Provenance._undone,
    EventType.NODE_COMPENSATION_FAILED: Provenance._undone,
    EventType.HITL_TASK_VOTED: Provenance._person,
    EventType.HITL_TASK_COMPLETED: Provenance._person,
}
