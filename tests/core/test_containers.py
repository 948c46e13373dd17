"""The state machine's part of plans, maps and loops: what is given, iterations, results, tolerated failures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalang.compilation import compile_plan
from dalang.events import (
    Begin,
    CancelRequested,
    Event,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    PauseRequested,
    ResumeRequested,
    RetryRequested,
    Start,
    Stop,
)
from dalang.nesting import child_run_id
from dalang.plan import Plan
from dalang.program import Program
from dalang.run import Run
from dalang.run_state import MAX_CHILDREN
from dalang.statuses import RUN_ENDS
from tests.effort import tries

RUN = "6d8a1d1c-2f5c-5c0e-9a53-0f1b6f3f0c11"
BODY = {"nodes": [{"nodeId": "a", "type": "noop"}]}
ERROR = {"type": "TOOL_ERROR", "message": "broken", "attempt": 1}


def program(*nodes: dict[str, Any], **more: Any) -> Program:
    return Program(compile_plan(Plan.model_validate({"name": "p", "nodes": list(nodes), **more})))


def loop(until: str = "outputs.n >= 3", most: int = 5, **more: Any) -> dict[str, Any]:
    spec = {"body": BODY, "until": until, "maxIterations": most}
    return {"nodeId": "l", "type": "loop", "loop": spec, **more}


def begun(of: Program, **inputs: Any) -> Run:
    run = Run(of, inputs, {"id": RUN})
    run.apply(Begin(), 0)
    return run


def starts(run: Run) -> list[Start]:
    return [step for step in run.due(0) if isinstance(step, Start)]


def copied(run: Run) -> Run:
    """Return the run as it is after a continue-as-new."""
    snapshot = json.loads(json.dumps(run.snapshot()))
    again = Run.restore(run.program, run.inputs, snapshot)
    assert again.snapshot() == snapshot
    return again


def test_an_iteration_follows_until_the_condition_holds() -> None:
    """Each is given its number and what the one before put out; the end has how many there were."""
    run = begun(program(loop(inputs={"x": 7})))
    for number in range(3):
        (step,) = starts(run)
        previous = {"n": number} if number else {}
        assert step.inputs == {"x": 7, "iteration": number, "previous": previous}
        assert (step.iteration, step.child) == (number, child_run_id(RUN, "l", number, 0))
        run.apply(NodeSucceeded("l", {"n": number + 1}), 0)
        run = copied(run) if number < 2 else run
    assert str(run.statuses[0]) == "SUCCESS"
    assert run.status in RUN_ENDS
    assert run.snapshot().get("loops") is None


def test_a_pause_holds_the_next_iteration() -> None:
    """What is in flight ends, nothing new starts: an iteration is something new."""
    run = begun(program(loop()))
    starts(run)
    run.apply(PauseRequested(), 0)
    run.apply(NodeSucceeded("l", {"n": 1}), 0)
    assert starts(run) == []
    run = copied(run)
    run.apply(ResumeRequested(), 0)
    (step,) = starts(run)
    assert step.iteration == 1


def test_the_driver_may_want_a_quiet_moment_between_iterations() -> None:
    """Nothing is started before a continue-as-new."""
    run = begun(program(loop()))
    starts(run)
    run.apply(NodeSucceeded("l", {"n": 1}), 0)
    assert run.due(0, starting=False) == []
    (step,) = starts(copied(run))
    assert step.iteration == 1


def test_a_cancel_between_iterations_tells_nobody() -> None:
    """Nothing is in flight for the node, so it is cancelled at once."""
    run = begun(program(loop()))
    starts(run)
    run.apply(NodeSucceeded("l", {"n": 1}), 0)
    run.apply(CancelRequested(), 0)
    assert run.due(0) == []
    assert (str(run.statuses[0]), str(run.status)) == ("CANCELLED", "CANCELLED")


def test_an_iteration_that_ends_before_it_is_stopped_is_the_last() -> None:
    """The stop is on its way: whatever its outputs, none follows."""
    run = begun(program(loop()))
    starts(run)
    run.apply(CancelRequested(), 0)
    assert run.due(0) == [Stop("l")]
    run.apply(NodeSucceeded("l", {"n": 9}), 0)
    assert (str(run.statuses[0]), str(run.status)) == ("CANCELLED", "CANCELLED")


def test_the_failed_iteration_is_repeated() -> None:
    """With the next generation, and what the iteration before it put out."""
    run = begun(program(loop(), failurePolicy="pause"))
    starts(run)
    run.apply(NodeSucceeded("l", {"n": 1}), 0)
    starts(run)
    run.apply(NodeFailed("l", ERROR), 0)
    run = copied(run)
    run.apply(RetryRequested("l"), 0)
    (step,) = starts(run)
    assert (step.iteration, step.generation, step.inputs["previous"]) == (1, 1, {"n": 1})
    assert step.child == child_run_id(RUN, "l", 1, 1)


def test_containers_hold_no_slot_of_activities() -> None:
    """They have a limit of their own, unless the plan limits all nodes."""
    many = [{"nodeId": f"p{n}", "type": "plan", "plan": BODY} for n in range(MAX_CHILDREN + 5)]
    many.append({"nodeId": "x", "type": "noop"})
    assert len(starts(begun(program(*many)))) == MAX_CHILDREN + 1
    assert len(starts(begun(program(*many, maxInFlight=3)))) == 3


def each(count: int, *, tolerated: Any = 0, most: int | None = None, **node: Any) -> Run:
    """Return the run below a map of so many elements."""
    mapped = {"nodeId": "m", "type": "map", "map": {"items": "${inputs.x}", "body": {"type": "noop", **node}}}
    body = compile_plan(Plan.model_validate({"name": "p", "nodes": [mapped]}))["nodes"][0]["container"]["body"]
    of = Program({**body, "repeat": count, "maxInFlight": most, "tolerated": tolerated})
    return begun(of, items=[f"i{n}" for n in range(count)], own="o")


def test_an_element_sees_itself_and_the_maps_inputs() -> None:
    """Not the whole list."""
    run = each(3, inputs={"all": "${inputs}"})
    assert [step.inputs["all"] for step in starts(run)] == [{"own": "o", "item": f"i{n}", "index": n} for n in range(3)]


def test_the_abort_of_one_element_ends_a_map() -> None:
    """However many failures are tolerated."""
    run = each(5, tolerated="100%", most=1)
    starts(run)
    run.apply(NodeFailed("0", {**ERROR, "suggestedAction": "ABORT"}), 0)
    assert str(run.status) == "FAILED"
    assert run.error is not None
    assert run.error["suggestedAction"] == "ABORT"


def test_a_fallback_is_the_result_of_an_element() -> None:
    """It is no failure."""
    run = each(2, fallback={"f": 1})
    starts(run)
    run.apply(NodeFailed("0", {**ERROR, "suggestedAction": "FALLBACK"}), 0)
    run.apply(NodeSucceeded("1", {"x": 2}), 0)
    assert run.result == {"results": [{"f": 1}, {"x": 2}], "failures": [], "succeeded": 2, "failed": 0}


@pytest.mark.parametrize(("value", "code"), [(None, "NO_LIST"), ({"a": 1}, "NO_LIST"), ("abc", "NO_LIST")])
def test_what_is_no_list_fails_the_map(value: Any, code: str) -> None:
    """Before anything starts; an operator may give another one."""
    mapped = {"nodeId": "m", "type": "map", "map": {"items": "${inputs.x}", "body": {"type": "noop"}}}
    run = begun(program(mapped, failurePolicy="pause"), x=value)
    assert starts(run) == []
    assert str(run.statuses[0]) == "FAILED"
    (failed,) = [fact for fact in run.facts if fact["type"] == "NODE_FAILED"]
    assert failed["body"]["error"]["details"]["code"] == code
    run.apply(RetryRequested("m", {"items": 5}), 0)
    assert starts(run) == []
    run.apply(RetryRequested("m", {"items": [1]}), 0)
    (step,) = starts(run)
    assert step.inputs == {"items": [1]}


def test_results_that_are_too_large_fail_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are one value for whoever reads them."""
    monkeypatch.setattr("dalang.containers.MAX_RESULT_BYTES", 100)
    run = each(2)
    starts(run)
    run.apply(NodeSucceeded("0", {"x": "y" * 100}), 0)
    run.apply(NodeSucceeded("1", {}), 0)
    assert str(run.status) == "FAILED"
    assert run.error is not None
    assert run.error["details"]["code"] == "TOO_LARGE"


@settings(max_examples=tries(100), deadline=None)
@given(st.data())
def test_a_map_ends_as_its_results_say(data: st.DataObject) -> None:
    """Any order of ends, any continue-as-new between: results in order, and failures counted against what may fail."""
    count = data.draw(st.integers(0, 12))
    tolerated = data.draw(st.one_of(st.integers(0, 4), st.sampled_from(["25%", "50%", "100%"])))
    run = each(count, tolerated=tolerated, most=data.draw(st.sampled_from([None, 1, 3])))
    limit = tolerated if isinstance(tolerated, int) else count * int(tolerated[:-1]) // 100
    flying: list[str] = []
    told: dict[int, Mapping[str, Any] | None] = {}
    while run.status not in RUN_ENDS:
        for step in run.due(0):
            if isinstance(step, Start):
                flying.append(step.node_id)
            else:
                assert isinstance(step, Stop)
        if run.status in RUN_ENDS:
            break
        name = data.draw(st.sampled_from(flying))
        flying.remove(name)
        event: Event = NodeSucceeded(name, {"x": int(name)})
        if run.ending is not None:
            event = NodeStopped(name)
        elif data.draw(st.integers(0, 3)) == 0:
            event = NodeFailed(name, ERROR)
            told[int(name)] = None
        else:
            told[int(name)] = {"x": int(name)}
        run.apply(event, 0)
        if data.draw(st.booleans()) and run.status not in RUN_ENDS:
            run = copied(run)
    failed = sorted(index for index, outputs in told.items() if outputs is None)
    assert (str(run.status) == "FAILED") == (len(failed) > limit)
    if run.result is not None:
        assert run.result["results"] == [told[index] for index in range(count)]
        assert [one["index"] for one in run.result["failures"]] == failed
        assert (run.result["succeeded"], run.result["failed"]) == (count - len(failed), len(failed))
    else:
        assert run.error is not None
        assert run.error["details"]["failed"] == len(failed) == limit + 1


@settings(max_examples=tries(100), deadline=None)
@given(st.data())
def test_a_loop_goes_the_same_way_whenever_it_continues_as_new(data: st.DataObject) -> None:
    """Pauses, failures, retries: iterations are numbered one after the other, and snapshots change nothing."""
    run = begun(program(loop("outputs.n >= 4", most=6), failurePolicy="pause"))
    iteration, generation, flying = 0, 0, False
    for _ in range(40):
        for step in run.due(0):
            assert isinstance(step, Start)
            assert (step.iteration, step.generation) == (iteration, generation)
            flying = True
        if run.status in RUN_ENDS:
            break
        if data.draw(st.booleans()):
            run = copied(run)
        options: list[str] = ["ok", "ok", "bad"] if flying else []
        if str(run.status) == "PAUSED":
            options += ["retry"] if run.awaiting else ["resume"]
        elif str(run.status) == "RUNNING":
            options.append("pause")
        act = data.draw(st.sampled_from(options))
        if act == "ok":
            run.apply(NodeSucceeded("l", {"n": iteration}), 0)
            iteration, flying = iteration + 1, False
        elif act == "bad":
            run.apply(NodeFailed("l", ERROR), 0)
            flying = False
        elif act == "retry":
            run.apply(RetryRequested("l"), 0)
            generation += 1
        else:
            run.apply(PauseRequested() if act == "pause" else ResumeRequested(), 0)
    if str(run.status) == "COMPLETED":
        assert iteration == 5
