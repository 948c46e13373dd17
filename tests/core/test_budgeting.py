"""Budgets of runs: what counts, when a run is paused, and how it goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalang.compilation import compile_plan
from dalang.events import (
    AlarmRang,
    Begin,
    BudgetRaised,
    CancelRequested,
    LeaseAnswered,
    NodeDeferred,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    PauseRequested,
    ResumeRequested,
    Start,
    TenantBudgetSpent,
)
from dalang.needs import EVERY_NODE
from dalang.plan import Plan
from dalang.program import Program
from dalang.run import Run
from dalang.statuses import ImpossibleMove, NodeStatus, RunStatus
from dalang.usage import added, usage_of

DAY = 86_400_000


def program(count: int = 3, budget: dict[str, Any] | None = None, chain: bool = True, **more: Any) -> Program:
    nodes = [{"nodeId": f"n{at}", "type": "python", "handler": "f"} for at in range(count)]
    edges = [{"sourceNodeId": f"n{at}", "targetNodeId": f"n{at + 1}"} for at in range(count - 1)] if chain else []
    document = {"name": "p", "nodes": nodes, "edges": edges, **more, **({"budget": budget} if budget else {})}
    return Program(json.loads(json.dumps(compile_plan(Plan.model_validate(document)))))


def begun(of: Program) -> Run:
    run = Run(of, {}, {"id": "r"})
    run.apply(Begin(), 0)
    return run


def started(run: Run, at: int = 1) -> list[str]:
    return [step.node_id for step in run.due(at) if isinstance(step, Start)]


def succeed(run: Run, node: str, at: int = 1, **usage: Any) -> None:
    run.apply(NodeSucceeded(node, {}, notes={"usage": usage} if usage else {}), at)


def last(run: Run, kind: str) -> dict[str, Any]:
    return [dict(fact) for fact in run.facts if fact["type"] == kind][-1]["data"]


def test_a_run_whose_tokens_are_spent_is_paused_when_the_next_node_would_begin() -> None:
    run = begun(program(budget={"tokens": 100}))
    assert started(run) == ["n0"]
    succeed(run, "n0", tokens=100)
    assert started(run) == []
    assert run.status is RunStatus.PAUSED
    told = last(run, "PLAN_PAUSED")
    assert told["reason"] == "the run's budget is spent: tokens"
    assert told["budget"] == {"scope": "run", "measure": "tokens", "limit": 100, "spent": 100}


def test_a_run_that_needs_nothing_more_ends_whatever_it_has_spent() -> None:
    run = begun(program(1, {"tokens": 100, "cost": 0.5}))
    started(run)
    succeed(run, "n0", tokens=1_000, cost=3)
    assert started(run) == []
    assert run.status is RunStatus.COMPLETED


def test_failed_and_stopped_attempts_count() -> None:
    run = begun(program(3, {"tokens": 30}, chain=False, failurePolicy="continue"))
    assert len(started(run)) == 3
    run.apply(NodeFailed("n0", {"type": "LLM_ERROR"}, notes={"usage": {"tokens": 10}}), 1)
    succeed(run, "n1", tokens=5, cost=0.1)
    run.apply(CancelRequested(), 1)
    run.due(1)
    run.apply(NodeStopped("n2", notes={"usage": {"tokens": 7}}), 2)
    assert run.spent == {"nodes": 3, "tokens": 22, "cost": 0.1}
    assert last(run, "NODE_FAILED")["usage"] == {"tokens": 10}
    assert last(run, "NODE_CANCELLED")["usage"] == {"tokens": 7}


def test_what_was_used_before_a_breaker_held_the_node_counts() -> None:
    run = begun(program(1, {"tokens": 30}))
    started(run)
    run.apply(NodeDeferred("n0", 100, "breaker", attempts=1, notes={"usage": {"tokens": 12}}), 1)
    assert run.spent["tokens"] == 12
    assert last(run, "NODE_QUEUED")["usage"] == {"tokens": 12}


def test_what_a_run_below_used_counts_with_its_nodes() -> None:
    run = begun(program(2, {"nodes": 6}))
    started(run)
    notes = {"childRunId": "c", "usage": {"tokens": 4, "nodes": 5}}
    run.apply(NodeSucceeded("n0", {}, notes=notes), 1)
    assert started(run) == []
    assert run.status is RunStatus.PAUSED
    assert last(run, "PLAN_PAUSED")["budget"]["measure"] == "nodes"


def test_raising_the_budget_lets_the_run_go_on_and_nothing_else_does() -> None:
    run = begun(program(budget={"nodes": 1, "tokens": 5}))
    started(run)
    succeed(run, "n0", tokens=9)
    started(run)
    with pytest.raises(ImpossibleMove, match="until its budget is raised"):
        run.apply(ResumeRequested(), 2)
    run.apply(BudgetRaised(tokens=50, operator="kim"), 3)
    assert run.status is RunStatus.PAUSED, "of nodes nothing is left"
    run.apply(BudgetRaised(nodes=2, operator="kim", reason="go"), 4)
    assert last(run, "BUDGET_RAISED")["budget"] == {"tokens": 50, "nodes": 2}
    assert run.status is RunStatus.RUNNING
    assert started(run) == ["n1"]
    with pytest.raises(ImpossibleMove, match="is needed"):
        run.apply(BudgetRaised(operator="kim"), 5)


def test_the_budget_of_nodes_is_kept_where_many_are_ready() -> None:
    run = begun(program(10, {"nodes": 4}, chain=False))
    assert len(started(run)) == 4
    assert run.status is RunStatus.PAUSED


def test_no_more_nodes_wait_for_leases_than_may_begin() -> None:
    run = Run(program(10, {"nodes": 4}, chain=False), {}, {"id": "r"})

    run.limited = frozenset((EVERY_NODE,))
    run.apply(Begin(), 0)
    assert started(run) == []
    assert run.counts[NodeStatus.QUEUED] == 4
    assert run.status is RunStatus.RUNNING
    for at in range(4):
        run.apply(LeaseAnswered(f"n{at}", 1, "GRANTED"), 1)
    assert started(run) == ["n0", "n1", "n2", "n3"]
    assert started(run) == []
    assert run.status is RunStatus.PAUSED


def test_time_is_up_at_the_moment_it_is() -> None:
    run = begun(program(budget={"wallTime": "1m"}))
    assert run.next_alarm == 60_000
    started(run)
    run.apply(AlarmRang(), 60_000)
    assert run.status is RunStatus.PAUSED
    succeed(run, "n0", 61_000)
    run.apply(BudgetRaised(wall_time=120_000), 62_000)
    assert run.status is RunStatus.RUNNING
    assert run.next_alarm == 120_000
    assert started(run, 62_000) == ["n1"]


def test_time_that_passed_in_a_pause_counts_when_the_run_goes_on() -> None:
    run = begun(program(budget={"wallTime": "1m"}))
    started(run)
    succeed(run, "n0")
    run.apply(PauseRequested("kim"), 2)
    run.apply(AlarmRang(), 60_000)
    run.apply(ResumeRequested("kim"), 70_000)
    assert started(run, 70_000) == []
    assert last(run, "PLAN_PAUSED")["budget"]["spent"] == 70_000


def test_cleaning_up_is_done_whatever_it_costs() -> None:
    tidy = [{"nodeId": "tidy", "type": "python", "handler": "f"}]
    run = begun(program(2, {"nodes": 1}, **{"finally": tidy}))
    started(run)
    succeed(run, "n0")
    started(run)
    assert run.status is RunStatus.PAUSED
    run.apply(CancelRequested(), 2)
    assert started(run, 2) == ["tidy"]
    succeed(run, "tidy")
    run.due(3)
    assert run.status is RunStatus.CANCELLED


def test_the_tenants_day_holds_a_run_until_it_is_over() -> None:
    run = begun(program())
    run.apply(TenantBudgetSpent("cost", 10.0, 12.5, DAY), 0)
    assert started(run) == []
    told = last(run, "PLAN_PAUSED")
    assert told["budget"] == {"scope": "tenant", "measure": "cost", "limit": 10.0, "spent": 12.5}
    assert told["until"] == "1970-01-02T00:00:00.000Z"
    assert run.next_alarm == DAY
    run = Run.restore(run.program, {}, json.loads(json.dumps(run.snapshot())))
    run.apply(AlarmRang(), DAY)
    assert run.status is RunStatus.RUNNING
    assert started(run, DAY) == ["n0"]


def test_an_operator_goes_on_before_the_day_is_over() -> None:
    run = begun(program())
    run.apply(TenantBudgetSpent("cost", 10.0, 12.5, DAY), 0)
    run.apply(ResumeRequested("kim"), 5)
    assert run.next_alarm is None
    assert started(run) == ["n0"]


def test_a_plan_without_a_budget_pays_nothing() -> None:
    run = begun(program())
    started(run)
    assert run.next_alarm is None
    assert not {"spent", "raised", "short"} & run.snapshot().keys()


@pytest.mark.parametrize(
    "told",
    [None, 5, {"tokens": -1}, {"tokens": True}, {"tokens": 1.5}, {"cost": float("nan")}, {"cost": "9"}, {"nodes": 3}],
)
def test_what_is_no_use_counts_nothing(told: Any) -> None:
    assert usage_of(told) == {}


@given(st.lists(st.floats(0, 1_000), max_size=30))
def test_costs_add_up(costs: list[float]) -> None:
    total: dict[str, Any] = {}
    for cost in costs:
        total = added(total, usage_of({"cost": cost}))
    assert total.get("cost", 0) == pytest.approx(sum(costs), abs=1e-6)


@given(
    st.integers(1, 60),
    st.integers(1, 12),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 20)), max_size=60),
)
def test_nothing_begins_when_nothing_is_left(limit: int, count: int, chain: bool, moves: list[tuple[int, int]]) -> None:
    """Whatever ends in which order, also with a restart after every event: what is spent is the sum of what was told,
    and no node begins once that has reached the limit."""
    of = program(count, {"tokens": limit}, chain=chain, maxInFlight=3)
    run, working, total = begun(of), list[str](), 0
    for choice, tokens in moves:
        before = run.spent.get("tokens", 0)
        new = started(run)
        assert not (new and before >= limit)
        working += new
        if not working:
            break
        succeed(run, working.pop(choice % len(working)), tokens=tokens)
        total += tokens
        assert run.spent.get("tokens", 0) == total
        run = Run.restore(of, {}, json.loads(json.dumps(run.snapshot())))
    if run.status is RunStatus.PAUSED:
        assert total >= limit
