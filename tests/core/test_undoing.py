"""Compensation in small plans: what is undone, in which order, and what a failed undo means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dalang.builder import NodeBuilder, PlanBuilder
from dalang.compilation import compile_plan
from dalang.events import (
    AlarmRang,
    Begin,
    CancelRequested,
    Event,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    PauseRequested,
    RetryRequested,
    SkipRequested,
    Start,
    TaskDecided,
    TimedOut,
    Undo,
    UndoFailed,
    UndoSucceeded,
)
from dalang.plan import Plan
from dalang.program import Program
from dalang.run import Run
from dalang.statuses import ImpossibleMove, NodeStatus, RunStatus
from dalang.validation import validate

UNDO = {"compensation": {"type": "noop"}}
ERROR = {"type": "TOOL_ERROR", "message": "no", "attempt": 1}
NO_EFFECT = {**ERROR, "noEffect": True}


class Play:
    """A run that is told what happens, node by node."""

    def __init__(self, nodes: dict[str, dict[str, Any]], edges: str = "", **plan: Any) -> None:
        document = {
            "name": "p",
            "nodes": [{"nodeId": name, "type": "noop", **fields} for name, fields in nodes.items()],
            "edges": [
                {"sourceNodeId": source, "targetNodeId": target}
                for source, target in (pair.split("-") for pair in edges.split())
            ],
            **plan,
        }
        self.program = Program(json.loads(json.dumps(compile_plan(Plan.model_validate(document)))))
        self.run = Run(self.program, {"n": 5}, {"id": "r"})
        self.at = 0
        self.begun: list[str] = []
        self.undos: dict[str, Undo] = {}
        self.happen(Begin())

    def happen(self, event: Event, at: int | None = None) -> list[str]:
        """Apply an event and return what begins: ``a`` for a start, ``-a`` for an undo, ``!a`` for a stop."""
        self.at = self.at + 1 if at is None else at
        self.run.apply(event, self.at)
        self.begun = []
        for step in self.run.due(self.at):
            if isinstance(step, Undo):
                self.undos[step.node_id] = step
            mark = {Start: "", Undo: "-"}.get(type(step), "!")
            self.begun.append(mark + step.node_id)
        snapshot = json.loads(json.dumps(self.run.snapshot()))
        again = Run.restore(self.program, {"n": 5}, snapshot)
        assert json.loads(json.dumps(again.snapshot())) == snapshot
        assert (sorted(again._turns), again._open_turns, again._undoing) == (
            sorted(self.run._turns),
            self.run._open_turns,
            self.run._undoing,
        )
        return self.begun

    def ok(self, *nodes: str, **outputs: Any) -> list[str]:
        """Let nodes succeed, one after the other; return what begins at the last of them."""
        for node in nodes:
            self.happen(NodeSucceeded(node, outputs))
        return self.begun

    def fails(self, node: str, error: dict[str, Any] = ERROR, lost: bool = False) -> list[str]:
        return self.happen(NodeFailed(node, error, lost=lost))

    def undone(self, node: str) -> list[str]:
        return self.happen(UndoSucceeded(node))

    def decide(self, node: str, action: str, inputs: dict[str, Any] | None = None) -> list[str]:
        """Let a person decide about a failed undo."""
        (task,) = [task for task in self.run.tasks.values() if task.node == node]
        assert task.kind == "compensation"
        return self.happen(TaskDecided(task.id, action, "ann", task.digest, inputs=inputs))

    @property
    def status(self) -> str:
        return str(self.run.status)

    def of(self, node: str) -> str:
        return str(self.run.statuses[self.program.index[node]])


CHAIN = {"a": UNDO, "b": UNDO, "c": UNDO, "d": {}}


def test_a_failure_undoes_in_reverse_order() -> None:
    """a -> b -> c -> d: when d fails, c is undone, then b, then a, and only then the run is FAILED."""
    play = Play(CHAIN, "a-b b-c c-d")
    play.ok("a", "b", "c", x=1)
    assert play.fails("d") == ["-c"]
    assert (play.status, play.of("c")) == ("COMPENSATING", "COMPENSATING")
    assert play.undone("c") == ["-b"]
    assert play.undone("b") == ["-a"]
    assert play.status == "COMPENSATING"
    play.undone("a")
    assert play.status == "FAILED"
    assert [play.of(node) for node in "abcd"] == ["COMPENSATED"] * 3 + ["FAILED"]
    assert play.run.facts[-1]["data"]["compensated"] == 3


def test_independent_nodes_are_undone_at_once_and_order_passes_through_nodes_without_compensation() -> None:
    """a -> (b, c) -> x -> d, where x has none: d first, then b and c together, then a."""
    play = Play({"a": UNDO, "b": UNDO, "c": UNDO, "x": {}, "d": UNDO, "e": {}}, "a-b a-c b-x c-x x-d d-e")
    play.ok("a", "b", "c", "x", "d")
    assert play.fails("e") == ["-d"]
    assert play.undone("d") == ["-b", "-c"]
    assert play.undone("b") == []
    assert play.undone("c") == ["-a"]


def test_what_was_stopped_is_undone_and_what_never_started_is_not() -> None:
    """Cancelled in flight it may have taken effect; undo waits until it has ended."""
    play = Play({"a": UNDO, "b": UNDO, "c": UNDO}, "a-c")
    assert play.happen(CancelRequested()) == ["!a", "!b"]
    assert play.happen(NodeStopped("a")) == []
    assert play.happen(NodeStopped("b")) == ["-a", "-b"]
    assert play.of("c") == "CANCELLED"
    play.undone("a")
    play.undone("b")
    assert (play.status, play.of("c")) == ("CANCELLED", "CANCELLED")


@pytest.mark.parametrize(
    ("error", "undone"),
    [
        (ERROR, True),
        (NO_EFFECT, False),
        ({**NO_EFFECT, "attempt": 2}, True),
        ({**NO_EFFECT, "attempt": 0}, True),
        ({**ERROR, "noEffect": "yes"}, True),
    ],
)
def test_only_a_first_attempt_can_declare_that_nothing_happened(error: dict[str, Any], undone: bool) -> None:
    """Attempts before the last are invisible, so that one's word counts only when it was the first."""
    play = Play({"a": UNDO})
    assert play.fails("a", error) == (["-a"] if undone else [])
    assert play.status == ("COMPENSATING" if undone else "FAILED")


def test_a_retry_under_the_same_key_is_one_effect_and_changed_inputs_are_another() -> None:
    """Each key is undone once, the newest first; noEffect takes back only the start that declares it."""
    play = Play({"a": {**UNDO, "inputs": {"n": 1}}}, failurePolicy="pause")
    play.fails("a")
    play.happen(RetryRequested("a"))
    play.fails("a", NO_EFFECT)  # the first start of this key is as unsure as before
    play.happen(RetryRequested("a", {"n": 2}))
    play.fails("a", NO_EFFECT)  # nothing under the second key
    play.happen(RetryRequested("a", {"n": 3}))
    play.fails("a")
    play.happen(CancelRequested())
    assert (play.begun, play.undos["a"].generation, play.undos["a"].inputs) == (["-a"], 2, {"n": 3})
    assert play.undone("a") == ["-a"]
    assert (play.undos["a"].generation, play.undos["a"].inputs) == (0, {"n": 1})
    assert play.of("a") == "COMPENSATING"
    play.undone("a")
    assert (play.of("a"), play.status) == ("COMPENSATED", "CANCELLED")
    assert play.run.generations[0] == 3


def test_a_failed_node_that_an_operator_skipped_is_undone_too() -> None:
    """The skip says how the plan goes on, not that nothing happened."""
    play = Play({"a": UNDO, "b": {}}, "a-b", failurePolicy="pause")
    play.fails("a")
    play.happen(SkipRequested("a", {"x": 1}))
    play.fails("b")
    assert play.happen(CancelRequested()) == ["-a"]
    assert play.undos["a"].undoes["outputs"] == {}
    play.undone("a")
    assert play.of("a") == "COMPENSATED"


def test_handled_errors_and_fallbacks_may_have_taken_effect() -> None:
    """ERROR nodes are undone like others, without the fallback as their outputs."""
    play = Play({"a": {**UNDO, "fallback": {"x": 1}}, "b": {}}, "a-b")
    play.fails("a", {**ERROR, "suggestedAction": "FALLBACK"})
    assert play.fails("b") == ["-a"]
    assert play.undos["a"].undoes == {
        "key": "r:a:0:0",
        "status": "ERROR",
        "inputs": {},
        "outputs": {},
        "error": {**ERROR, "suggestedAction": "FALLBACK"},
    }


def test_outputs_that_lack_a_port_are_outputs_for_the_undo() -> None:
    """The handler did its work, whatever is made of its answer."""
    port = {"name": "y", "required": True}
    play = Play({"a": {**UNDO, "descriptor": {"outputs": [port]}}})
    assert play.ok("a", x=1) == ["-a"]
    assert play.undos["a"].undoes["outputs"] == {"x": 1}


def test_inputs_of_a_compensation() -> None:
    """They may read the node's own outputs and inputs, those of nodes upstream, and the run's; without any: all."""
    inputs = {
        "id": "${outputs.?id.orValue('none')}",
        "n": "${undoes.inputs.n}",
        "up": "${nodes.a.outputs.id}",
        "run": "${inputs.n}",
        "status": "${undoes.status}",
        "key": "${undoes.key}",
    }
    play = Play(
        {
            "a": UNDO,
            "b": {"inputs": {"n": 2}, "compensation": {"type": "noop", "inputs": inputs}},
            "c": {"inputs": {"n": 3}, **UNDO},
            "d": {},
        },
        "a-b b-d c-d",
    )
    play.ok("a", id=1)
    play.ok("b", id=2)
    play.ok("c", id=3)
    assert play.fails("d") == ["-b", "-c"]
    assert play.undos["b"].inputs == {"id": 2, "n": 2, "up": 1, "run": 5, "status": "SUCCESS", "key": "r:b:0:0"}
    assert play.undos["c"].inputs == {"n": 3, "id": 3}


@pytest.mark.parametrize(
    ("when", "failed", "cancelled", "completed"),
    [
        (None, True, True, False),
        ("onFailure", True, False, False),
        ("onCancel", False, True, False),
        ("always", True, True, True),
        ("never", False, False, False),
    ],
)
def test_compensate_says_after_which_ends(when: str | None, failed: bool, cancelled: bool, completed: bool) -> None:
    """By default after a failure and a cancel (the timeout is one); always ends as the work ended."""
    plan = {} if when is None else {"compensate": when}
    play = Play({"a": UNDO, "b": {}}, "a-b", **plan)
    play.ok("a")
    assert play.fails("b") == (["-a"] if failed else [])
    for event in (CancelRequested(), TimedOut()):
        play = Play({"a": UNDO, "b": {}}, "a-b", **plan)
        play.ok("a")
        play.happen(event)
        assert play.happen(NodeStopped("b")) == (["-a"] if cancelled else [])
    play = Play({"a": UNDO, "b": {}}, "a-b", outputs={"x": "${nodes.a.outputs.x}"}, **plan)
    play.ok("a", x=7)
    assert play.ok("b") == (["-a"] if completed else [])
    if completed:
        play.undone("a")
    assert (play.status, play.run.result) == ("COMPLETED", {"x": 7})


def test_finally_nodes_run_after_the_undo_and_before_the_end() -> None:
    """They see how the run will end; one that fails a run that had succeeded has it undone after all."""
    play = Play({"a": UNDO}, **{"finally": [{"nodeId": "f", "type": "noop"}]})
    assert play.happen(CancelRequested()) == ["!a"]
    assert play.ok("a") == ["-a"]
    assert play.undone("a") == ["f"]
    assert play.status == "COMPENSATING"
    play.ok("f")
    assert play.status == "CANCELLED"
    play = Play({"a": UNDO}, **{"finally": [{"nodeId": "f", "type": "noop"}]})
    assert play.ok("a") == ["f"]
    assert play.fails("f") == ["-a"]
    play.undone("a")
    assert play.status == "FAILED"


def test_outputs_that_cannot_be_made_fail_the_run_which_is_undone() -> None:
    """The failure is found at the very end and is one like any other."""
    play = Play({"a": UNDO}, outputs={"x": "${nodes.a.outputs.nope}"})
    assert play.ok("a") == ["-a"]
    play.undone("a")
    assert play.status == "FAILED"


def test_a_failed_undo_stops_only_what_its_node_depends_on() -> None:
    """b fails to be undone: c goes on being undone, a waits; after abandon a stays as it is."""
    play = Play({"a": UNDO, "b": UNDO, "c": UNDO, "x": UNDO, "d": {}}, "a-b x-c b-d c-d")
    play.ok("a", "x", "b", "c")
    assert play.fails("d") == ["-b", "-c"]
    assert play.happen(UndoFailed("b", ERROR)) == []
    assert play.of("b") == "COMPENSATION_FAILED"
    assert play.undone("c") == ["-x"]
    play.undone("x")
    assert play.status == "COMPENSATING"
    play.decide("b", "abandon")
    assert play.status == "FAILED"
    assert [play.of(node) for node in "abcx"] == ["SUCCESS", "COMPENSATION_FAILED", "COMPENSATED", "COMPENSATED"]
    assert play.run.facts[-1]["data"]["notUndone"] == ["a", "b"]


def test_a_person_may_retry_or_resolve_a_failed_undo() -> None:
    """A retry has the same generation, so the same key, with other inputs if wanted; resolve lets the rest go on."""
    play = Play({"a": UNDO, "b": UNDO, "d": {}}, "a-b b-d")
    play.ok("a", "b", x=1)
    play.fails("d")
    play.happen(UndoFailed("b", ERROR))
    first = play.undos["b"]
    assert play.decide("b", "retry", {"x": 2}) == ["-b"]
    assert (play.undos["b"].generation, play.undos["b"].inputs) == (first.generation, {"x": 2})
    assert play.of("b") == "COMPENSATING"
    play.happen(UndoFailed("b", ERROR))
    assert play.decide("b", "resolve") == ["-a"]
    assert play.of("b") == "COMPENSATED"


def test_inputs_without_a_value_fail_the_undo_and_a_retry_with_inputs_helps() -> None:
    """The expression cannot be evaluated: that is an undo that failed for good, and no hang."""
    play = Play({"a": {"compensation": {"type": "noop", "inputs": {"id": "${outputs.id}"}}}})
    assert play.fails("a") == []
    assert play.of("a") == "COMPENSATION_FAILED"
    assert play.decide("a", "retry") == []
    assert play.decide("a", "retry", {"id": 3}) == ["-a"]
    assert play.undos["a"].inputs == {"id": 3}


def test_nothing_disturbs_a_run_that_is_being_undone() -> None:
    """Cancel, timeout, pause, retry, skip and events that do not fit are refused and change nothing."""
    play = Play(CHAIN, "a-b b-c c-d")
    play.ok("a", "b", "c")
    play.fails("d")
    before = json.dumps(play.run.snapshot())
    events = [CancelRequested(), TimedOut(), PauseRequested(), RetryRequested("d"), SkipRequested("a")]
    events += [UndoSucceeded("a"), UndoFailed("d", ERROR), UndoSucceeded("nope"), NodeStopped("c"), NodeFailed("c", {})]
    events += [TaskDecided("none", "retry", "ann")]
    for event in events:
        with pytest.raises(ImpossibleMove):
            play.happen(event)
    assert json.dumps(play.run.snapshot()) == before
    assert "the run is COMPENSATING" in str(play.run.refusal(CancelRequested()))


def test_nothing_behind_a_pivot_is_undone() -> None:
    """a -> p(pivot) -> b, c beside: after p succeeded a failure waits for an operator; a cancel undoes b and c."""
    play = Play({"a": UNDO, "p": {**UNDO, "pivot": True}, "b": UNDO, "c": UNDO, "d": {}}, "a-p p-b b-d")
    play.ok("a", "p", "b", "c")
    play.fails("d")
    assert play.status == "PAUSED"
    assert play.happen(CancelRequested()) == ["-b", "-c"]
    play.undone("b")
    play.undone("c")
    assert [play.of(node) for node in "apbc"] == ["SUCCESS", "SUCCESS", "COMPENSATED", "COMPENSATED"]
    play = Play({"a": UNDO, "p": {**UNDO, "pivot": True}}, "a-p")
    play.ok("a")
    assert play.fails("p") == ["-p"]
    assert play.undone("p") == ["-a"]


def test_an_undo_waits_for_a_handler_that_nobody_heard_of() -> None:
    """Lost with its worker it may be at work until its time is over, so its undo is an alarm then."""
    play = Play({"a": {**UNDO, "timeouts": {"startToClose": "1m"}}})
    assert play.fails("a", {**NO_EFFECT}, lost=True) == []
    assert play.status == "COMPENSATING"
    due = play.run.next_alarm
    assert due == play.at + 65_000
    assert play.happen(AlarmRang(), at=due - 1) == []
    assert play.happen(AlarmRang(), at=due) == ["-a"]
    assert play.run.statuses[0] is NodeStatus.COMPENSATING


def test_undos_keep_to_the_slots() -> None:
    """No more of them are in flight than nodes may be."""
    play = Play({name: UNDO for name in "abc"} | {"d": {}}, "a-d b-d c-d", maxInFlight=2)
    play.ok("a", "b", "c")
    assert play.fails("d") == ["-a", "-b"]
    assert play.undone("b") == ["-c"]


def test_runs_without_effects_end_as_before() -> None:
    """No compensation, no COMPENSATING."""
    play = Play({"a": {}, "b": UNDO}, "a-b")
    play.fails("a")
    assert play.run.status is RunStatus.FAILED


def test_types_and_functions_of_compensations_are_checked_against_what_is_registered() -> None:
    """As those of nodes."""
    for undo, code in (
        ({"type": "teleport"}, "UNKNOWN_NODE_TYPE"),
        ({"type": "python", "handler": "nope"}, "UNKNOWN_HANDLER"),
        ({"type": "python", "handler": "known"}, None),
        ({"type": "known"}, None),
    ):
        document = {"name": "p", "nodes": [{"nodeId": "a", "type": "noop", "compensation": undo}]}
        problems = validate(document, node_types=["known"]).problems
        assert [problem.code for problem in problems] == ([code] if code else [])


def test_a_builder_says_it_too() -> None:
    """Compensation, pivot and compensate in Python."""
    node = NodeBuilder("Pay", "noop").compensation("noop", inputs={"x": 1}, retry_policy={"max_attempts": 9})
    plan = PlanBuilder("p").task(node, NodeBuilder("Go", "noop").pivot()).compensate("always").build()
    assert plan.nodes[0].compensation is not None
    assert plan.nodes[0].compensation.inputs == {"x": 1}
    assert plan.nodes[0].compensation.retry_policy is not None
    assert plan.nodes[0].compensation.retry_policy.max_attempts == 9
    assert (plan.nodes[1].pivot, plan.compensate) == (True, "always")
