"""Automatic revisions: an evaluator's verdict, or a failure that suggests AUTO_FIX, asks the plan's planner for one.

A *cause* is a node that asks. An evaluator with the verdict ``replan`` has succeeded, but its edges stay undecided; a
failed node waits as one that an operator decides about. Then the run is REPLANNING: nothing new starts, what is in
flight goes on, and the planner is asked. Its answer is a revision like any other. When it is taken, evaluators' edges
are decided by the new plan, and a failed node runs again if it was replaced. Where no revision comes of it - the
planner fails, answers what cannot be taken three times, or was asked ``maxReplans`` times before - a failure goes the
way it would have gone without a planner, and a verdict fails the run.

``docs/replanning.md``. One :class:`~dalang.events.MakePlan` is answered by exactly one PlanRevised or ReplanFailed with
its number, unless the run began to end meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dalang.dataflow import validation_error
from dalang.errors import ErrorPayload, ErrorType
from dalang.events import MakePlan, PlanRevised, ReplanFailed
from dalang.plan_planner import DEFAULT_MAX_REPLANS
from dalang.program import Program
from dalang.revising import Revising
from dalang.run_state import BLOCKED, moved
from dalang.statuses import ImpossibleMove, RunStatus
from dalang.wire import EventType

PLANNER_ATTEMPTS = 3
"""So often the planner is asked about the same causes, when its answers cannot be taken."""
VERDICT, FAILURE = "verdict", "failure"
REPLANNING = RunStatus.REPLANNING


class Planning(Revising):
    """A run's state with what asks for another plan.

    ``causes`` are ``[node, kind, outputs or error]``, those of ``planning`` among them; ``planning`` is the request
    under way: its ``number``, the ``attempt``, the ``nodes`` it is about, ``problems`` of the answer before, whether it
    is ``due``. ``held`` are the outputs of evaluators whose edges wait.
    """

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        super().__init__(program, inputs, about, max_in_flight)
        self.replans = 0
        self.causes: list[list[Any]] = []
        self.planning: dict[str, Any] | None = None
        self.held: dict[int, Mapping[str, Any]] = {}
        self._withheld: int | None = None

    # -- what asks for a plan --------------------------------------------------------------------------------------

    def _may_replan(self, node: int) -> bool:
        """Whether a planner can be asked because of ``node``."""
        if self.ending or self.closing or node >= self.program.first_finally or self._fatal is not None:
            return False
        waiting = self.planning is None and bool(self.causes)  # one request serves all that wait for it
        return self.program.planner is not None and (waiting or self.replans < self._most_replans())

    def _most_replans(self) -> int:
        most: int = self.program.document.get("maxReplans", DEFAULT_MAX_REPLANS)
        return most

    def _succeed(
        self, node: int, outputs: Mapping[str, Any], data: Mapping[str, Any], shown: Mapping[str, Any] | None = None
    ) -> None:
        if not self.program.nodes[node].get("evaluator"):
            super()._succeed(node, outputs, data, shown)
            return
        said = _said(outputs)
        verdict, reason = said.get("verdict"), str(said.get("reason") or "it gave no reason")
        node_id = self.program.ids[node]
        if verdict == "replan" and self._may_replan(node):
            self._withheld = node
            super()._succeed(node, outputs, {**data, "verdict": verdict}, shown)
            self._withheld = None
            if node in self.held:
                self.causes.append([node, VERDICT, outputs])
        elif verdict == "pass":
            super()._succeed(node, outputs, {**data, "verdict": verdict}, shown)
        elif verdict == "fail":
            self._fail(node, _verdict_error(f"the evaluator {node_id} failed it: {reason}", node_id))
        elif verdict == "replan":
            why = "no planner can be asked any more" if self.program.planner else "the plan has no planner"
            self._fail(
                node, _verdict_error(f"the evaluator {node_id} wants another plan, but {why}: {reason}", node_id)
            )
        else:
            message = f"the evaluator {node_id} gave no verdict: outputs.verdict is pass, replan or fail"
            self._fail(node, validation_error(message, {"code": "NO_VERDICT"}, node_id))

    def _light(self, node: int, outputs: Mapping[str, Any]) -> None:
        if node == self._withheld:
            self.held[node] = outputs
        else:
            super()._light(node, outputs)

    def _needs_decision(self, node: int, error: Mapping[str, Any]) -> bool:
        return self._is_fixable(node, error) or super()._needs_decision(node, error)

    def _is_fixable(self, node: int, error: Mapping[str, Any]) -> bool:
        return error.get("suggestedAction") == "AUTO_FIX" and self._may_replan(node)

    def _bring_up(self, node: int, error: Mapping[str, Any]) -> None:
        if self._is_fixable(node, error):
            self.causes.append([node, FAILURE, error])
        else:
            super()._bring_up(node, error)

    @property
    def holding(self) -> list[int]:
        """Failed nodes that hold the run until an operator decides about them; not those a planner is asked about."""
        asked = {cause[0] for cause in self.causes}
        return [node for node in super().holding if node not in asked]

    # -- asking ----------------------------------------------------------------------------------------------------

    def _weigh_waiting(self) -> None:
        if not self._begin_planning():
            super()._weigh_waiting()

    def _begin_planning(self) -> bool:
        """Be REPLANNING if something asks for a plan and nothing holds the run."""
        if not self._is_planning() or self.status not in (RunStatus.RUNNING, RunStatus.AWAITING_HITL):
            return self.status is REPLANNING
        if self.status is RunStatus.AWAITING_HITL:
            self._move_run(RunStatus.RUNNING, EventType.PLAN_RESUMED, {})
        if self.planning is None:
            if self.replans >= self._most_replans():
                self._let_fall([cause[0] for cause in self.causes], "maxReplans is reached")
                self._settle()
                return False
            self.replans += 1
            nodes = [cause[0] for cause in self.causes]
            self.planning = {"number": self.replans, "attempt": 1, "nodes": nodes, "problems": [], "due": True}
        names = [self.program.ids[node] for node in self.planning["nodes"][:20]]
        data = {"replan": self.planning["number"], "maxReplans": self._most_replans(), "causes": names}
        self._move_run(REPLANNING, EventType.PLAN_REPLANNING, data)
        return True

    def _is_planning(self) -> bool:
        """Whether a plan is asked for, or will be."""
        return not self.ending and (self.planning is not None or bool(self.causes))

    def _plans_due(self) -> list[MakePlan]:
        """Return the request to begin now, if there is one, and take note that it is begun."""
        planning = self.planning
        if self.status is not REPLANNING or planning is None or not planning["due"]:
            return []
        planning["due"] = False
        ids = self.program.ids
        causes = [
            {"nodeId": ids[node], "kind": kind, ("outputs" if kind == VERDICT else "error"): dict(value)}
            for node, kind, value in self.causes
            if node in planning["nodes"]
        ]
        return [MakePlan(planning["number"], planning["attempt"], causes, list(planning["problems"]))]

    # -- what comes of it ------------------------------------------------------------------------------------------

    def _revise_refusal(self, name: str, event: PlanRevised) -> ImpossibleMove | None:
        return self._stale(name, event.planning) or super()._revise_refusal(name, event)

    def _replan_failed_refusal(self, name: str, event: ReplanFailed) -> ImpossibleMove | None:
        return self._stale(name, event.planning)

    def _stale(self, name: str, number: int | None) -> ImpossibleMove | None:
        if number is None or (self.planning is not None and self.planning["number"] == number):
            return None
        return ImpossibleMove(name, f"the planner's request {number}", "not under way")

    def _revise(self, event: PlanRevised) -> None:
        super()._revise(event)
        if event.planning is None:
            return
        served = self._served()
        for node, kind, value in served:
            if kind == VERDICT:
                self._light(node, self.held.pop(node))
            elif node in self.awaiting:  # the planner had no better idea
                self._fall(node, kind, value, "the planner left the failed node as it is")
        self._settle()

    def _announce(self, event: PlanRevised, data: dict[str, Any], body: dict[str, Any]) -> None:
        if event.planning is not None and self.status is REPLANNING:
            self._move_run(RunStatus.RUNNING, EventType.PLAN_REVISED, {**data, "replan": event.planning}, body)
        else:
            super()._announce(event, data, body)

    def _replan_failed(self, event: ReplanFailed) -> None:
        assert self.planning is not None
        planning = self.planning
        final = event.final or planning["attempt"] >= PLANNER_ATTEMPTS
        data = {"replan": planning["number"], "attempt": planning["attempt"], "final": final}
        body = {"error": dict(event.error), "problems": list(event.problems)}
        if not final:
            planning.update(attempt=planning["attempt"] + 1, problems=list(event.problems), due=True)
            self._emit(EventType.PLAN_REPLAN_FAILED, None, data, body)
            return
        if self.status is REPLANNING:
            self._move_run(RunStatus.RUNNING, EventType.PLAN_REPLAN_FAILED, data, body)
        else:
            self._emit(EventType.PLAN_REPLAN_FAILED, None, data, body)
        nodes = planning["nodes"]
        self.planning = None
        self._let_fall(nodes, str(event.error.get("message") or "the planner failed"))

    def _served(self) -> list[list[Any]]:
        """The request is over; return its causes."""
        assert self.planning is not None
        nodes, self.planning = self.planning["nodes"], None
        served = [cause for cause in self.causes if cause[0] in nodes]
        self.causes = [cause for cause in self.causes if cause[0] not in nodes]
        return served

    def _let_fall(self, nodes: Sequence[int], why: str) -> None:
        """No revision came of it: what asked for one goes the way it would have gone without a planner."""
        falling = [cause for cause in self.causes if cause[0] in nodes]
        self.causes = [cause for cause in self.causes if cause[0] not in nodes]
        for node, kind, value in falling:
            self._fall(node, kind, value, why)

    def _fall(self, node: int, kind: str, value: Mapping[str, Any], why: str) -> None:
        if kind == VERDICT:
            del self.held[node]
            reason, node_id = _said(value).get("reason") or "it gave no reason", self.program.ids[node]
            message = f"the evaluator {node_id} wants another plan ({reason}), but none could be made: {why}"
            self._give_up(node, _verdict_error(message, node_id))
        elif node in self.awaiting:
            if Revising._needs_decision(self, node, value):
                Revising._bring_up(self, node, value)
            else:
                self.awaiting.remove(node)
                self._let_go(node)
                self._give_up(node, value)

    def _stop_planning(self) -> None:
        """The run is ending: nobody is asked any more."""
        if self.status is REPLANNING:
            self._move_run(RunStatus.RUNNING, EventType.PLAN_RESUMED, {"reason": "the run is ending"})
        for node in self.held:
            self._resolved.extend((edge, BLOCKED) for edge in self.program.edges_out[node])
        self.causes, self.planning, self.held = [], None, {}

    def _is_over(self, node: int) -> bool:
        return super()._is_over(node) and node not in self.held

    def _is_known(self, node: int, known: Mapping[str, Any]) -> bool:
        return node in self.held or super()._is_known(node, known)

    # -- keeping track ---------------------------------------------------------------------------------------------

    def _renumber(self, program: Program, to: Sequence[int | None]) -> None:
        super()._renumber(program, to)
        self.held = moved(self.held, to)
        self.causes = [[new, kind, value] for node, kind, value in self.causes if (new := to[node]) is not None]
        if self.planning is not None:
            nodes = [new for node in self.planning["nodes"] if (new := to[node]) is not None]
            self.planning = {**self.planning, "nodes": nodes}

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON; of automatic revisions only where there is something."""
        own = {
            "replans": self.replans,
            "causes": [list(cause) for cause in self.causes],
            "planning": None if self.planning is None else dict(self.planning),
            "held": [[node, outputs] for node, outputs in self.held.items()],
        }
        return {**super().snapshot(), **{key: value for key, value in own.items() if value}}

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        super()._load(snapshot)
        self.replans = snapshot.get("replans", 0)
        self.causes = [list(cause) for cause in snapshot.get("causes", ())]
        planning = snapshot.get("planning")
        self.planning = None if planning is None else dict(planning)
        self.held = {node: outputs for node, outputs in snapshot.get("held", ())}


def _said(outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return where an evaluator's verdict stands: in its outputs, of an http node in the body of the answer."""
    body = outputs.get("body")
    return body if "verdict" not in outputs and isinstance(body, Mapping) else outputs


def _verdict_error(message: str, node_id: str) -> dict[str, Any]:
    return ErrorPayload(type=ErrorType.POLICY_VIOLATION, message=message, retryable=False, origin_node=node_id).wire()
