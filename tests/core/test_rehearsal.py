"""Rehearsals: the state machine on a virtual clock, held against what must be true of every schedule."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from dalang.activities.failures import next_delay
from dalang.compilation import compile_plan
from dalang.errors import InvalidDocument
from dalang.program import Program
from dalang.rehearsal import load_options, prepare, rehearse, rehearse_once
from dalang.rehearsal.attempts import retry_delay
from dalang.rehearsal.distributions import parse_distribution
from dalang.rehearsal.waits import written_ms
from dalang.wait_inputs import sleep_ms
from dalang.workflows import dispatch
from tests.core.rehearsed import once, plan_of, spans


def test_retries_follow_the_policy_of_the_plan() -> None:
    """Each attempt takes its time, each delay is the policy's, and the last failure fails the node."""
    policy = {"maxAttempts": 3, "initialDelay": "10s", "backoffMultiplier": 3, "retryOn": ["NETWORK_ERROR"]}
    plan = plan_of(nodes=[{"nodeId": "a", "type": "noop", "retryPolicy": policy}])
    scenario, trace = once(plan, nodes={"a": {"duration": "5s", "failures": 1}})
    work = trace.nodes[0].work
    assert work is not None
    assert [(start, end) for start, end, _ in work.attempts] == [(0, 5000), (15_000, 20_000), (50_000, 55_000)]
    assert (trace.status, trace.makespan) == ("FAILED", 55_000)
    assert trace.error is not None
    assert (trace.error["type"], trace.error["attempt"], trace.error["originNode"]) == ("NETWORK_ERROR", 3, "a")
    assert len(scenario.warnings) == 0


@pytest.mark.parametrize("strategy", ["FIXED", "LINEAR", "EXPONENTIAL"])
@pytest.mark.parametrize("jitter", [False, True])
def test_delays_are_those_that_the_worker_and_temporal_keep_to(strategy: str, jitter: bool) -> None:
    """By the worker's own function where that says when, else by the policy that Temporal is given."""
    policy = {"backoffStrategy": strategy, "jitter": jitter, "initialDelay": "2s", "maxDelay": "20s"}
    program = Program(compile_plan(plan_of(nodes=[{"nodeId": "a", "type": "noop", "retryPolicy": policy}])))
    (retry,) = program.retries
    temporal = dispatch.retry_policy(retry)
    assert temporal.initial_interval is not None
    assert temporal.maximum_interval is not None
    for attempt in (1, 2, 3, 5, 9):
        own = temporal.initial_interval * temporal.backoff_coefficient ** (attempt - 1)
        server = min(own, temporal.maximum_interval).total_seconds() * 1000
        assert retry_delay(retry, attempt, Random(1), by_server=True) == server
        told = next_delay(retry, attempt)
        drawn = retry_delay(retry, attempt, Random(1))
        if told is None:
            assert drawn == server
        elif not jitter:
            assert drawn == told.total_seconds() * 1000
        else:
            whole = next_delay({**retry, "jitter": False}, attempt)
            most = server if whole is None else whole.total_seconds() * 1000
            assert most / 2 <= drawn <= most


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"duration": "90s"},
        {"duration": 5},
        {"duration": "400d"},
        {"duration": "PT5M", "seconds": 1},
        {"seconds": 1.5},
        {"seconds": 0},
        {"seconds": -1},
        {"seconds": True},
        {"seconds": "9"},
    ],
)
def test_sleeps_last_as_long_as_in_a_run(inputs: dict[str, Any]) -> None:
    """What the workflow refuses, a rehearsal refuses."""
    try:
        expected: int | None = sleep_ms(inputs)
    except ValueError:
        expected = None
    assert written_ms(inputs) == expected


def test_an_attempt_that_takes_too_long_is_timed_out_and_tried_again() -> None:
    """startToClose ends an attempt, scheduleToClose all of them."""
    node = {"nodeId": "a", "type": "noop", "timeouts": {"startToClose": "10s"}}
    _, trace = once(plan_of(nodes=[node]), nodes={"a": {"duration": "11s"}})
    assert trace.makespan == 10_000 + 1000 + 10_000 + 2000 + 10_000
    assert trace.error is not None
    assert trace.error["type"] == "TIMEOUT"
    node["timeouts"] = {"startToClose": "10s", "scheduleToClose": "15s"}
    _, trace = once(plan_of(nodes=[node]), nodes={"a": {"duration": "11s"}})
    assert trace.makespan == 15_000


def test_a_lost_worker_is_noticed_after_the_heartbeat() -> None:
    """The attempt is lost, and repeated since TIMEOUT is in retryOn; without it the node fails."""
    node: dict[str, Any] = {"nodeId": "a", "type": "noop", "timeouts": {"heartbeat": "30s"}}
    plan = plan_of(nodes=[node])
    summary = rehearse(plan, load_options({"runs": 400, "nodes": {"a": {"duration": "10s", "crashes": 0.5}}}))
    (found,) = summary.nodes
    assert 0.3 < found.retries < 0.9
    assert summary.ends["FAILED"] == pytest.approx(0.125, abs=0.06)
    lost = summary.worst.nodes[0].work
    assert lost is not None
    assert all(30_000 <= end - start <= 40_000 for start, end, error in lost.attempts if error)
    node["retryPolicy"] = {"retryOn": ["NETWORK_ERROR"]}
    again = rehearse(plan_of(nodes=[node]), load_options({"runs": 400, "crashes": 0.5, "types": {}}))
    assert again.ends["FAILED"] == pytest.approx(0.5, abs=0.1)
    assert again.nodes[0].retries == 0


def test_the_runs_timeout_cancels_and_finally_nodes_still_run() -> None:
    """With reason TIMEOUT, at that moment; a run that ends at that moment has ended in time."""
    fields: dict[str, Any] = {
        "nodes": [{"nodeId": "a", "type": "sleep", "inputs": {"duration": "1h"}}],
        "finally": [{"nodeId": "tidy", "type": "sleep", "inputs": {"duration": "5s"}}],
    }
    scenario, trace = once(plan_of(timeout="10m", **fields))
    assert (trace.status, trace.reason, trace.makespan) == ("CANCELLED", "TIMEOUT", 605_000)
    assert spans(scenario, trace) == {"a": (0, 600_000), "tidy": (600_000, 605_000)}
    assert rehearse(plan_of(timeout="10m", **fields)).causes[0].type == "TIMEOUT"
    _, trace = once(plan_of(timeout="1h", **fields))
    assert trace.status == "COMPLETED"


def test_fail_fast_stops_what_is_in_flight_and_what_waits_for_an_agent() -> None:
    """All of it at the moment of the failure; the path leads through the node that failed."""
    nodes = [{"nodeId": name, "type": "agent", "requirements": {"capabilities": ["code"]}} for name in "abc"]
    options = {"agents": {"code": 2}, "nodes": {"a": {"duration": "5s", "failures": {"rate": 1, "type": "TOOL_ERROR"}}}}
    scenario, trace = once(plan_of(nodes=nodes), types={"agent": {"duration": "1m"}}, **options)
    assert (trace.status, trace.makespan) == ("FAILED", 5000)
    assert [str(status) for status in trace.statuses] == ["FAILED", "CANCELLED", "CANCELLED"]
    assert spans(scenario, trace)["c"] == (None, 5000)
    assert trace.path[0] == 0


def test_a_run_that_is_held_by_a_failure_ends_its_rehearsal_paused() -> None:
    """Nobody decides in a rehearsal: it says which node waits for an operator."""
    plan = plan_of(failurePolicy="pause", nodes=[{"nodeId": "a", "type": "noop"}, {"nodeId": "b", "type": "noop"}])
    summary = rehearse(plan, load_options({"nodes": {"a": {"failures": {"rate": 1, "type": "TOOL_ERROR"}}}}))
    assert summary.ends == {"PAUSED": 1.0}
    assert (summary.causes[0].node_id, summary.causes[0].type) == ("a", "TOOL_ERROR")


def test_scarce_agents_serve_priority_then_the_longest_path_then_age() -> None:
    """And the wait is told, with the resource that caused it."""
    capable = {"capabilities": ["code"], "estimatedDuration": "10s"}
    nodes: list[dict[str, Any]] = [
        {"nodeId": name, "type": "agent", "requirements": capable} for name in ("first", "short", "long", "urgent")
    ]
    nodes[3]["priority"] = "high"
    nodes.append({"nodeId": "after", "type": "sleep", "inputs": {"duration": "1m"}})
    plan = plan_of(nodes=nodes, edges=[{"sourceNodeId": "long", "targetNodeId": "after"}], maxInFlight=10)
    scenario, trace = once(plan, agents={"code": 1})
    started = sorted(
        (one.start, scenario.program.ids[node]) for node, one in trace.nodes.items() if one.start is not None
    )
    assert [name for _, name in started if name != "after"] == ["urgent", "long", "first", "short"]
    summary = rehearse(plan, load_options({"agents": {"code": 1}}))
    assert summary.bottleneck is not None
    assert summary.bottleneck.name == "agent code"
    assert summary.bottleneck.waiting == 10_000 + 20_000 + 30_000
    assert summary.bottleneck.utilisation == pytest.approx(40 / 80)


def test_a_large_demand_is_not_starved_by_small_ones() -> None:
    """What it waits for is kept for it, while others that need something else pass."""
    nodes = [
        {"nodeId": name, "type": "noop", "priority": priority, "requirements": {"estimatedDuration": "10s"}}
        for name, priority in (("small1", 2), ("large", 1), ("small2", 0), ("other", 0))
    ]
    needs = {"small1": {"gpu": 1}, "large": {"gpu": 2}, "small2": {"gpu": 1}, "other": {"licences": 1}}
    scenario, trace = once(
        plan_of(nodes=nodes),
        pools={"gpu": 2, "licences": 1},
        nodes={name: {"needs": amounts} for name, amounts in needs.items()},
    )
    starts = {name: start for name, (start, _) in spans(scenario, trace).items()}
    assert starts == {"small1": 0, "large": 10_000, "small2": 20_000, "other": 0}


def test_what_can_never_be_admitted_fails_and_is_told_before() -> None:
    """A pool that is too small and capabilities that no agent has together are no reason to wait for ever."""
    nodes = [
        {"nodeId": "a", "type": "agent", "requirements": {"capabilities": ["code", "test"]}},
        {"nodeId": "b", "type": "t", "requirements": {"resources": {"gpu": 4}}},
    ]
    summary = rehearse(
        plan_of(failurePolicy="continue", nodes=nodes),
        load_options({"agents": {"code": 1, "test": 1}, "pools": {"gpu": 2}}),
    )
    assert summary.ends == {"FAILED": 1.0}
    assert [one.code for one in summary.scenario.warnings if one.code == "NEVER_ADMITTED"] == ["NEVER_ADMITTED"] * 2
    assert summary.causes[0].type == "RESOURCE_EXHAUSTED"


BRANCHES: dict[str, Any] = {
    "failurePolicy": "continue",
    "nodes": [
        {"nodeId": "review", "type": "agent", "inputs": {"n": "${inputs.n}"}},
        {"nodeId": "ship", "type": "noop", "inputs": {"score": "${nodes.review.outputs.score + 1.0}"}},
        {"nodeId": "rework", "type": "agent"},
        {"nodeId": "patch", "type": "agent", "descriptor": {"inputs": [{"name": "diff", "required": True}]}},
    ],
    "edges": [
        {"edgeId": "good", "sourceNodeId": "review", "targetNodeId": "ship", "condition": "outputs.score >= 0.8"},
        {"edgeId": "bad", "sourceNodeId": "review", "targetNodeId": "rework", "condition": "outputs.score < 0.8"},
        {
            "edgeId": "diff",
            "sourceNodeId": "review",
            "sourcePort": "diff",
            "targetNodeId": "patch",
            "targetPort": "diff",
        },
    ],
    "inputs": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 3}}},
    "outputs": {"score": "${nodes.review.outputs.score}"},
}


def test_what_nobody_gave_is_assumed_and_told() -> None:
    """Conditions hold, inputs are left as written, ports find null, inputs get a placeholder; each with its place."""
    summary = rehearse(plan_of(**BRANCHES))
    assert summary.ends == {"COMPLETED": 1.0}
    assert [node.run for node in summary.nodes] == [1, 1, 1, 1]
    assert [(one.code, one.pointer) for one in summary.scenario.warnings] == [
        ("ASSUMED_INPUT", "/inputs/properties/n"),
        ("ASSUMED_CONDITION", "/edges/0/condition"),
        ("ASSUMED_CONDITION", "/edges/1/condition"),
        ("ASSUMED_INPUTS", "/nodes/1/inputs"),
        ("ASSUMED_INPUTS", "/outputs"),
        ("ASSUMED_DURATION", "/nodes/0"),
    ]
    dead = rehearse(plan_of(**BRANCHES), load_options({"unknownConditions": "dead"}))
    assert [node.run for node in dead.nodes] == [1, 0, 0, 1]


def test_outcomes_decide_conditions_as_often_as_they_are_said_to() -> None:
    """Outputs that are given are evaluated by the plan's own conditions."""
    outcomes = [{"weight": 3, "outputs": {"score": 0.9, "diff": "x"}}, {"weight": 1, "outputs": {"score": 0.5}}]
    options = {"runs": 800, "inputs": {"n": 4}, "nodes": {"review": {"outcomes": outcomes}}}
    summary = rehearse(plan_of(**BRANCHES), load_options(options))
    assert {one.code for one in summary.scenario.warnings} == {"ASSUMED_DURATION"}
    review, ship, rework, patch = (node.run for node in summary.nodes)
    assert review == 1
    assert ship == pytest.approx(0.75, abs=0.06)
    assert ship + rework == pytest.approx(1)
    assert patch == ship


def test_how_often_an_edge_is_live_can_be_given() -> None:
    """Then its condition is not evaluated, and not warned of."""
    options = {"runs": 800, "inputs": {"n": 4}, "edges": {"good": 0.25, "bad": 1}}
    summary = rehearse(plan_of(**BRANCHES), load_options(options))
    assert not [one for one in summary.scenario.warnings if one.code == "ASSUMED_CONDITION"]
    assert summary.nodes[1].run == pytest.approx(0.25, abs=0.06)
    assert summary.nodes[2].run == 1


def test_what_fails_on_given_data_fails_as_in_a_run_and_says_why() -> None:
    """A condition that raises on outputs that were given is a VALIDATION_ERROR of its target."""
    options = {"inputs": {"n": 4}, "nodes": {"review": {"outputs": {"diff": 1}}}}
    summary = rehearse(plan_of(**BRANCHES), load_options(options))
    assert summary.ends == {"FAILED": 1.0}
    assert (summary.causes[0].type, summary.causes[0].node_id) == ("VALIDATION_ERROR", "ship")
    assert "edge good" in summary.causes[0].message


@pytest.mark.parametrize(
    ("options", "pointer", "words"),
    [
        ({"runs": 0}, "/runs", "greater than or equal to 1"),
        ({"nodes": {"a": {"duration": "poisson(3s)"}}}, "/nodes/a/duration", "There is no distribution poisson"),
        ({"nodes": {"a": {"duration": "uniform(3s, 1s)"}}}, "/nodes/a/duration", "It takes min <= max"),
        ({"nodes": {"a": {"duration": 5}}}, "/nodes/a/duration", "A duration is a text"),
        ({"nodes": {"a": {"failures": 1.5}}}, "/nodes/a/failures/0/rate", "less than or equal to 1"),
        ({"nodes": {"a": {"failures": [{"rate": 0.7}, {"rate": 0.7}]}}}, "/nodes/a", "at most 1"),
        ({"nodes": {"a": {"failures": {"rate": 1, "type": "OOPS"}}}}, "/nodes/a/failures/0/type", "TOOL_ERROR"),
        ({"nodes": {"nobody": {}}}, "/nodes/nobody", "no node 'nobody'"),
        ({"types": {"agent": {}}}, "/types/agent", "no type 'agent'"),
        ({"edges": {"x": 1}}, "/edges/x", "no edge 'x'"),
        ({"edges": {"a->b": 1}}, "/edges/a->b", "no condition"),
        ({"agents": {"coder": -1}}, "/agents/coder/capacity", "greater than or equal to 0"),
        ({"pools": {"gpu": "much"}}, "/pools/gpu", "valid number"),
        ({"inputs": {"n": "text"}}, "/n", "integer"),
        ({"surprise": 1}, "/surprise", "not permitted"),
    ],
)
def test_wrong_options_are_refused_with_their_place(options: dict[str, Any], pointer: str, words: str) -> None:
    """By JSON Pointer and a sentence."""
    plan = plan_of(
        inputs={"type": "object", "properties": {"n": {"type": "integer"}}},
        nodes=[{"nodeId": "a", "type": "noop"}, {"nodeId": "b", "type": "noop"}],
        edges=[{"sourceNodeId": "a", "targetNodeId": "b"}],
    )
    with pytest.raises(InvalidDocument) as refused:
        prepare(plan, load_options(options))
    (problem,) = refused.value.problems
    assert problem.pointer == pointer
    assert words in problem.message


@pytest.mark.parametrize(
    ("text", "mean"),
    [
        ("90s", 90_000),
        ("uniform(1m, 3m)", 120_000),
        ("normal(2m, 10s)", 120_000),
        ("triangular(0s, 1m, 2m)", 60_000),
        ("lognormal(1m, 3m)", 60_000 * 2.718281828 ** (0.5 * (1.0986123 / 1.6448536) ** 2)),
    ],
)
def test_distributions_have_their_means(text: str, mean: float) -> None:
    """And are never negative; they are written as they are read."""
    distribution = parse_distribution(text)
    rnd = Random(5)
    drawn = [distribution.draw(rnd) for _ in range(20_000)]
    assert min(drawn) >= 0
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.03)
    assert parse_distribution(str(distribution)) == distribution


def test_percentiles_are_lengths_of_rehearsals_that_can_be_repeated() -> None:
    """The median and the worst are traces; the worst is found again by its seed alone."""
    plan = plan_of(nodes=[{"nodeId": "a", "type": "noop"}])
    options = {"runs": 101, "seed": 30, "nodes": {"a": {"duration": "uniform(0s, 100s)"}}}
    summary = rehearse(plan, load_options(options))
    lengths = sorted(rehearse_once(summary.scenario, 30 + number).makespan for number in range(101))
    spread = summary.makespan
    assert [spread.least, spread.p5, spread.p50, spread.p95, spread.most] == [lengths[at] for at in (0, 5, 50, 95, 100)]
    assert summary.median.makespan == spread.p50
    alone = rehearse(plan, load_options({**options, "runs": 1, "seed": summary.worst.seed}))
    assert alone.makespan.p50 == spread.most


def test_a_budget_ends_the_rehearsals_early_and_says_so() -> None:
    """What was rehearsed until then is summed up."""
    plan = plan_of(nodes=[{"nodeId": "a", "type": "noop"}])
    options = load_options({"nodes": {"a": {"duration": "uniform(0s, 100s)"}}})
    summary = rehearse(plan, options, budget=40)
    assert (summary.runs, summary.complete) == (20, False)


def test_jitter_is_drawn_from_the_seed() -> None:
    """Two seeds give two lengths, one seed one."""
    policy = {"jitter": True, "initialDelay": "1m"}
    plan = plan_of(nodes=[{"nodeId": "a", "type": "noop", "retryPolicy": policy}])
    counts = Counter(once(plan, seed=seed, nodes={"a": {"failures": 1}})[1].makespan for seed in (1, 2, 2))
    assert sorted(counts.values()) == [1, 2]


def _imports(key: str) -> dict[str, Any]:
    return {"type": "t", "requirements": {"pools": {"db": {"key": key}}}}


def test_pools_are_those_that_the_plan_names_and_each_key_is_one() -> None:
    """Two imports into one region take turns, another region's is beside them; a need that is given adds to it."""
    plan = plan_of(
        inputs={"type": "object", "properties": {"region": {"type": "string"}}},
        nodes=[
            {"nodeId": "a", **_imports("${inputs.region}")},
            {"nodeId": "b", **_imports("eu")},
            {"nodeId": "c", **_imports("us")},
            {"nodeId": "d", "type": "t"},
        ],
    )
    scenario, trace = once(plan, inputs={"region": "eu"}, pools={"db": 1}, defaultDuration="1s")
    assert spans(scenario, trace) == {"a": (0, 1000), "b": (1000, 2000), "c": (0, 1000), "d": (0, 1000)}
    assert trace.nodes[1].waited_for == ("pool db/eu",)
    scenario, trace = once(
        plan, inputs={"region": "eu"}, pools={"db": 1, "x": 1}, types={"t": {"duration": "1s", "needs": {"x": 1}}}
    )
    assert trace.makespan == 4000


def test_nodes_take_what_their_type_does_where_that_is_limited() -> None:
    """A language model's node takes two cores, one that only passes on takes none."""
    nodes = [{"nodeId": "a", "type": "agent"}, {"nodeId": "b", "type": "t"}, {"nodeId": "c", "type": "noop"}]
    scenario, trace = once(plan_of(nodes=nodes), pools={"cpu": 2}, defaultDuration="1s")
    assert spans(scenario, trace) == {"a": (0, 1000), "b": (1000, 2000), "c": (0, 0)}


@pytest.mark.parametrize(("priority", "next_one"), [(1, "low"), (5, "high")])
def test_a_minute_of_waiting_is_worth_a_step_of_priority(priority: int, next_one: str) -> None:
    """A node that is more important comes first unless the other has waited for longer than that is worth."""
    needs = {"type": "t", "requirements": {"pools": {"desk": 1}}}
    nodes = [
        {"nodeId": "first", **needs, "priority": 1},
        {"nodeId": "low", **needs, "priority": 0},
        {"nodeId": "wait", "type": "sleep", "inputs": {"duration": "3m"}},
        {"nodeId": "high", **needs, "priority": priority},
    ]
    plan = plan_of(nodes=nodes, edges=[{"sourceNodeId": "wait", "targetNodeId": "high"}])
    scenario, trace = once(plan, pools={"desk": 1}, defaultDuration="4m")
    begun = {name: start for name, (start, _) in spans(scenario, trace).items()}
    assert begun["first"] == 0
    assert begun[next_one] == 240_000


def test_the_key_of_a_pool_that_cannot_be_evaluated_fails_the_node() -> None:
    """As in a run."""
    plan = plan_of(nodes=[{"nodeId": "a", **_imports("${inputs.nobody.x}")}])
    _, trace = once(plan, pools={"db": 1})
    assert trace.status == "FAILED"
    assert trace.error is not None
    assert trace.error["type"] == "VALIDATION_ERROR"
