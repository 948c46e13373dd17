"""The meaning of a run, written down from DESIGN sections 3 and 4 as simply as it can be said.

It is what ``dalang/run.py`` is compared with. It has no index and no counter: what happened is kept (the status of
every node, the state of every edge, every output for ever), and every question is answered by looking at all of it.
Slow on purpose. It shares with the product only what has its own tests: models of plans, CEL and templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dalang.expressions import ExpressionError, compile, evaluate_condition
from dalang.plan import Edge, Node, Plan, with_derived_ids
from dalang.templates import compile_template

ENDED = ("SUCCESS", "ERROR", "FAILED", "SKIPPED", "CANCELLED")


class _Truth:
    """Kleene's three values as 0, 1 and 2 (false, unknown, true)."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __and__(self, other: _Truth) -> _Truth:
        return _Truth(min(self.value, other.value))

    def __or__(self, other: _Truth) -> _Truth:
        return _Truth(max(self.value, other.value))

    def __invert__(self) -> _Truth:
        return _Truth(2 - self.value)


def boolean_join(source: str, states: Mapping[str, str]) -> int:
    """Return 0, 1 or 2; ids of edges are identifiers here."""
    python = source.replace("&&", "&").replace("||", "|").replace("!", "~")
    names = {name: _Truth({"live": 2, "waiting": 1}.get(state, 0)) for name, state in states.items()}
    decided: _Truth = eval(python, {}, names)  # joins that the tests themselves have written
    return decided.value


def invalid(node_id: str) -> dict[str, Any]:
    """The error of a node that cannot start or whose outputs are wrong, as far as the model knows it."""
    return {"type": "VALIDATION_ERROR", "originNode": node_id}


class Raised(Exception):
    """The node cannot start: its inputs have no value, or its outputs lack a port."""


@dataclass
class NaiveRun:
    """One run. ``happen_*`` and ``begin`` tell it what happened; ``take_due`` starts what is due."""

    plan: Plan
    inputs: Mapping[str, Any]
    about: Mapping[str, Any]
    max_in_flight: int
    begun: bool = False
    paused: bool = False
    ending: str | None = None
    """failFast, cancel or timeout: why the run ends early."""
    closed_as: str | None = None
    """What finally nodes read as run.status: the outcome when their turn came."""
    status: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    skip_reason: dict[str, str] = field(default_factory=dict)
    edge_state: dict[str, str] = field(default_factory=dict)
    raised: list[str] = field(default_factory=list)
    """Edges whose condition raised and whose target does not know yet."""
    event_only: list[str] = field(default_factory=list)
    """Edges whose condition raised too late to matter."""
    to_stop: list[str] = field(default_factory=list)
    interrupts: bool = False
    """Whether pauses that interrupt are played."""
    halting: list[str] = field(default_factory=list)
    """Nodes in flight that were told to stop and will start again."""
    given: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The inputs of nodes that were interrupted and wait to start again."""
    begun_with: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The inputs each node started with."""

    def __post_init__(self) -> None:
        self.plan = with_derived_ids(self.plan)
        self.status = {node.node_id: "PENDING" for node in self.plan.all_nodes()}
        self.edge_state = {self.id(edge): "waiting" for edge in self.plan.edges}

    # Looking things up

    @staticmethod
    def id(edge: Edge) -> str:
        assert edge.edge_id is not None
        return edge.edge_id

    def node(self, node_id: str) -> Node:
        return next(node for node in self.plan.all_nodes() if node.node_id == node_id)

    def incoming(self, node_id: str) -> list[Edge]:
        return [edge for edge in self.plan.edges if edge.target_node_id == node_id]

    def outgoing(self, node_id: str) -> list[Edge]:
        return [edge for edge in self.plan.edges if edge.source_node_id == node_id]

    def main(self) -> list[str]:
        return [node.node_id for node in self.plan.nodes]

    def last(self) -> list[str]:
        return [node.node_id for node in self.plan.finally_]

    def in_flight(self) -> list[str]:
        return [node for node, status in self.status.items() if status == "RUNNING"]

    def ended(self, nodes: list[str]) -> bool:
        return all(self.status[node] in ENDED for node in nodes)

    # What happened

    def begin(self) -> None:
        self.begun = True

    def happen_success(self, node_id: str, outputs: dict[str, Any]) -> None:
        self.over(node_id)
        filled = self.filled(node_id, outputs)
        if filled is None:
            self.fail(node_id, invalid(node_id))
            self.settle()
            return
        outputs = filled
        self.status[node_id] = "SUCCESS"
        self.outputs[node_id] = outputs
        self.light(node_id)
        self.settle()

    def filled(self, node_id: str, outputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the outputs with the ports' defaults, or None if a required one is missing."""
        filled = dict(outputs)
        descriptor = self.node(node_id).descriptor
        for port in descriptor.outputs if descriptor else ():
            if port.name not in filled:
                if port.default_value is not None:
                    filled[port.name] = port.default_value
                elif port.required:
                    return None
        return filled

    def happen_failure(self, node_id: str, error: Mapping[str, Any]) -> None:
        self.over(node_id)
        self.fail(node_id, error)
        self.settle()

    def over(self, node_id: str) -> None:
        self.halting = [node for node in self.halting if node != node_id]

    def happen_stopped(self, node_id: str) -> None:
        again = node_id in self.halting and self.ending is None
        self.over(node_id)
        if again:
            self.status[node_id] = "PENDING"
            self.given[node_id] = self.begun_with[node_id]
            return
        self.status[node_id] = "CANCELLED"
        for edge in self.outgoing(node_id):
            self.edge_state[self.id(edge)] = "blocked"
        self.settle()

    def happen_pause(self) -> None:
        self.paused = True

    def happen_interrupt(self) -> None:
        self.paused = True
        told = [node for node in self.in_flight() if self.node(node).interruptible and node not in self.halting]
        self.halting += told
        self.to_stop += told

    def happen_resume(self) -> None:
        self.paused = False

    def happen_cancel(self, reason: str = "cancel") -> None:
        self.paused = False
        self.end_early(reason)

    def happen_skip(self, node_id: str, outputs: dict[str, Any] | None) -> None:
        self.status[node_id] = "SKIPPED"
        self.skip_reason[node_id] = "operator"
        if outputs is None:
            for edge in self.outgoing(node_id):
                self.edge_state[self.id(edge)] = "dead"
        else:
            filled = self.filled(node_id, outputs)
            assert filled is not None
            self.outputs[node_id] = filled
            self.light(node_id)
        self.settle()

    def happen_revise(self, plan: Plan) -> None:
        """The plan is another one; edges into waiting nodes that are new or other are resolved as if always there."""
        before = {self.id(edge): edge for edge in self.plan.edges}
        self.given = {node: inputs for node, inputs in self.given.items() if not self.is_changed(node, plan)}
        self.plan = with_derived_ids(plan)
        self.status = {node.node_id: self.status.get(node.node_id, "PENDING") for node in self.plan.all_nodes()}
        fresh = [edge for edge in self.plan.edges if before.get(self.id(edge)) != edge]
        states = {**self.edge_state, **{self.id(edge): "waiting" for edge in fresh}}
        self.edge_state = {self.id(edge): states[self.id(edge)] for edge in self.plan.edges}
        for edge in fresh:
            if self.status[edge.source_node_id] in ENDED:
                self.relight(edge)
        self.settle()

    def is_changed(self, node_id: str, plan: Plan) -> bool:
        """Whether a node, or what leads into it, is another in ``plan``."""
        new = with_derived_ids(plan)
        theirs = [edge for edge in new.edges if edge.target_node_id == node_id]
        return self.node(node_id) not in new.all_nodes() or theirs != self.incoming(node_id)

    def may_revise(self, plan: Plan) -> bool:
        """Whether nothing that has started or ended is another in ``plan``, nor what leads into it."""
        if not self.begun or self.ending or self.end() is not None or self.closed_as is not None:
            return False
        new = with_derived_ids(plan)
        kept = {node.node_id: node for node in new.all_nodes()}
        last = {node.node_id for node in new.finally_}
        for node_id, status in self.status.items():
            if status == "PENDING" and (node_id not in self.begun_with or node_id in kept):
                continue
            if kept.get(node_id) != self.node(node_id) or (node_id in last) != (node_id in self.last()):
                return False
            theirs = {self.id(edge): edge for edge in new.edges if edge.target_node_id == node_id}
            if theirs != {self.id(edge): edge for edge in self.incoming(node_id)}:
                return False
        return True

    # What follows from it

    def relight(self, edge: Edge) -> None:
        """Decide an edge whose source ended before there was the edge."""
        source = edge.source_node_id
        status, port, state = self.status[source], edge.source_port, "dead"
        if source in self.outputs:
            if port == "success" or (port != "error" and port in self.outputs[source]):
                self.weigh(edge, self.outputs[source], {})
                return
        elif status == "ERROR" and port == "error":
            self.weigh(edge, {}, self.errors[source])
            return
        elif status in ("FAILED", "CANCELLED") or self.skip_reason.get(source) == "upstreamFailed":
            state = "blocked"
        self.edge_state[self.id(edge)] = state

    def light(self, node_id: str) -> None:
        """A node has outputs: success edges and edges of keys that are there are live if their condition holds."""
        for edge in self.outgoing(node_id):
            port = edge.source_port
            if port == "error" or (port != "success" and port not in self.outputs[node_id]):
                self.edge_state[self.id(edge)] = "dead"
            else:
                self.weigh(edge, self.outputs[node_id], {})

    def fail(self, node_id: str, error: Mapping[str, Any]) -> None:
        self.errors[node_id] = error
        of_errors = [edge for edge in self.outgoing(node_id) if edge.source_port == "error"]
        for edge in of_errors:
            self.weigh(edge, {}, error)
        handled = any(self.edge_state[self.id(edge)] == "live" for edge in of_errors)
        self.status[node_id] = "ERROR" if handled else "FAILED"
        for edge in self.outgoing(node_id):
            if self.edge_state[self.id(edge)] not in ("live", "raised"):
                self.edge_state[self.id(edge)] = "dead" if handled else "blocked"

    def weigh(self, edge: Edge, outputs: Mapping[str, Any], error: Mapping[str, Any]) -> None:
        state = "live"
        if edge.condition is not None:
            context = {**self.context(), "outputs": outputs, "error": error}
            try:
                state = "live" if evaluate_condition(compile(edge.condition), context) else "dead"
            except ExpressionError:
                state = "raised"
                self.raised.append(self.id(edge))
        self.edge_state[self.id(edge)] = state

    def context(self) -> dict[str, Any]:
        nodes = {
            node: {"status": status, "outputs": self.outputs.get(node, {}), "error": self.errors.get(node, {})}
            for node, status in self.status.items()
        }
        run = {**self.about, "status": self.closed_as} if self.closing() else self.about
        return {"inputs": self.inputs, "run": run, "nodes": nodes, "outputs": {}, "error": {}}

    def settle(self) -> None:
        """Let everything follow that follows."""
        while self.raised:
            edge_id = self.raised.pop(0)
            target = next(edge.target_node_id for edge in self.plan.edges if edge.edge_id == edge_id)
            self.edge_state[edge_id] = "blocked"
            if self.status[target] == "PENDING" and target not in self.given:
                self.fail(target, invalid(target))
            else:
                self.event_only.append(edge_id)
        for node_id, status in self.status.items():
            if status == "PENDING" and self.verdict(node_id) == "skip":
                blocked = any(self.edge_state[self.id(edge)] == "blocked" for edge in self.incoming(node_id))
                self.status[node_id] = "SKIPPED"
                self.skip_reason[node_id] = "upstreamFailed" if blocked else "condition"
                for edge in self.outgoing(node_id):
                    self.edge_state[self.id(edge)] = "blocked" if blocked else "dead"
                self.settle()
                return
        failed = [node for node in self.main() if self.status[node] == "FAILED"]
        fatal = [
            node
            for node in failed
            if self.plan.failure_policy == "failFast" or self.errors[node].get("suggestedAction") == "ABORT"
        ]
        if fatal and self.ending is None:
            self.end_early("failFast")

    def end_early(self, reason: str) -> None:
        already, self.ending = self.ending, reason
        if already:
            return
        for node in self.main():
            if self.status[node] == "PENDING":
                self.status[node] = "CANCELLED"
        self.to_stop += [node for node in self.main() if self.status[node] == "RUNNING" and node not in self.halting]

    def verdict(self, node_id: str) -> str:
        """Return start, skip or wait."""
        states = [self.edge_state[self.id(edge)] for edge in self.incoming(node_id)]
        resolved = "waiting" not in states
        join = self.node(node_id).join
        if not states:
            return "start"
        if join in ("allLive", "all"):
            if "blocked" in states:
                return "skip"
            if not resolved:
                return "wait"
            met = "live" in states if join == "allLive" else "dead" not in states
            return "start" if met else "skip"
        if join == "any":
            return "start" if "live" in states else "skip" if resolved else "wait"
        if join == "allDone":
            return "start" if resolved else "wait"
        names = {self.id(edge): self.edge_state[self.id(edge)] for edge in self.incoming(node_id)}
        return "start" if boolean_join(join, names) == 2 else "skip" if resolved else "wait"

    # What is due

    def rank(self, node_id: str) -> int:
        """The longest path of estimated work from the node to an end."""
        own = max(self.node(node_id).requirements.estimated_duration or 0, 1)
        return own + max((self.rank(edge.target_node_id) for edge in self.outgoing(node_id)), default=0)

    def ready(self) -> list[str]:
        """Every node that could start now if slots were free, in the order in which slots are given."""
        if not self.begun or self.paused or self.end() is not None:
            return []
        may = self.last() if self.closing() else self.main()
        ready = [node for node in may if self.status[node] == "PENDING" and self.verdict(node) == "start"]
        order = list(self.status)
        return sorted(
            ready, key=lambda node: (self.is_timer(node), -self.priority(node), -self.rank(node), order.index(node))
        )

    def is_timer(self, node_id: str) -> bool:
        """Whether the node holds no slot: a sleep, unless the plan itself says how many nodes may run at once."""
        return self.plan.max_in_flight is None and self.node(node_id).type == "sleep"

    def slot_free(self, node_id: str) -> bool:
        holding = [node for node in self.in_flight() if not self.is_timer(node)]
        return self.is_timer(node_id) or len(holding) < (self.plan.max_in_flight or self.max_in_flight)

    def priority(self, node_id: str) -> int:
        own = self.node(node_id).priority
        return self.plan.priority if own is None else own

    def take_due(self) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
        """Return (nodes to stop, nodes that start with their inputs)."""
        starts: list[tuple[str, dict[str, Any]]] = []
        while startable := [node for node in self.ready() if self.slot_free(node)]:
            node = startable[0]
            try:
                inputs = self.given.pop(node) if node in self.given else self.render(node)
            except (ExpressionError, Raised):
                self.fail(node, invalid(node))
                self.settle()
                continue
            self.status[node] = "RUNNING"
            self.begun_with[node] = inputs
            starts.append((node, inputs))
        stops, self.to_stop = [node for node in self.to_stop if self.status[node] == "RUNNING"], []
        return stops, starts

    def render(self, node_id: str) -> dict[str, Any]:
        node = self.node(node_id)
        template = compile_template(node.inputs)
        values = dict(node.inputs if template is None else template.render(self.context()))
        for edge in self.incoming(node_id):
            if self.edge_state[self.id(edge)] == "live":
                values.update(self.carried(edge))
        for port in node.descriptor.inputs if node.descriptor else ():
            if port.name not in values:
                if port.default_value is not None:
                    values[port.name] = port.default_value
                elif port.required:
                    raise Raised(port.name)
        return values

    def carried(self, edge: Edge) -> dict[str, Any]:
        if edge.source_port == "error":
            error = self.errors[edge.source_node_id]
            if edge.mapping:
                fields = {"error": error, **error}
                return {target: fields[key] for key, target in edge.mapping.items() if key in fields}
            return {edge.target_port or "error": error}
        outputs = self.outputs[edge.source_node_id]
        if edge.mapping:
            return {target: outputs[key] for key, target in edge.mapping.items() if key in outputs}
        if edge.target_port is not None:
            return {edge.target_port: outputs if edge.source_port == "success" else outputs[edge.source_port]}
        return dict(outputs)

    # The end

    def closing(self) -> bool:
        """Whether only ``finally`` nodes are left to run; ``ready`` asks it before the first of them starts."""
        closing = self.begun and not self.paused and self.ended(self.main())
        if closing and self.closed_as is None:
            self.closed_as = self.outcome()
        return closing

    def outcome(self) -> str:
        if self.ending in ("cancel", "timeout"):
            return "CANCELLED"
        return "FAILED" if "FAILED" in self.status.values() else "COMPLETED"

    def end(self) -> str | None:
        """Return the status the run ended with, or None while it goes on."""
        if not self.closing() or not self.ended(self.last()):
            return None
        outcome = self.outcome()
        return "FAILED" if outcome == "COMPLETED" and self.result() is None else outcome

    def result(self) -> dict[str, Any] | None:
        """Return the outputs of the plan, or None if they have no value."""
        template = compile_template(self.plan.outputs)
        try:
            return (self.plan.outputs or {}) if template is None else template.render(self.context())
        except ExpressionError:
            return None

    # What is possible

    def possible(self, request: str, node_id: str | None = None, outputs: Mapping[str, Any] | None = None) -> bool:
        """Tell whether begin, success, failure, stopped, pause, interrupt, resume, cancel, timeout or skip fits."""
        going = self.begun and self.end() is None
        if request == "begin":
            return not self.begun
        if request in ("success", "failure"):
            return node_id in self.in_flight()
        if request == "stopped":
            told = node_id in self.halting or (node_id in self.main() and self.ending is not None)
            return node_id in self.in_flight() and told
        if request == "interrupt":
            return going and self.ending is None and not self.closing()
        if request == "pause":
            return going and not self.paused and self.ending is None and not self.closing()
        if request == "resume":
            return self.paused
        if request in ("cancel", "timeout"):
            return going and not self.closing() and self.ending not in ("cancel", "timeout")
        assert request == "skip"
        waits = going and self.ending is None and self.status.get(node_id or "") == "PENDING"
        return waits and (outputs is None or self.filled(node_id or "", outputs) is not None)
