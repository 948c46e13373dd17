"""Properties of rehearsals over random plans: they end, repeat by their seed, and keep to every limit."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dalang.graph import critical_path
from dalang.plan import Plan
from dalang.rehearsal import load_options, prepare, rehearse, rehearse_once
from dalang.statuses import NODE_ENDS
from tests.core.random_runs import chance, random_plan
from tests.core.rehearsed import WILD, highest, known, once, ordinary, spans


def random_dag(rnd: Random) -> Plan:
    count = rnd.randint(1, 14)
    density = rnd.choice((10, 30, 60))
    nodes = [
        {"nodeId": f"n{at}", "type": "noop", "requirements": {"estimatedDuration": f"{rnd.randint(0, 40)}s"}}
        for at in range(count)
    ]
    edges = [
        {"sourceNodeId": f"n{source}", "targetNodeId": f"n{target}"}
        for target in range(count)
        for source in range(target)
        if chance(rnd, density)
    ]
    return Plan.model_validate({"name": "dag", "nodes": nodes, "edges": edges})


def edges_of(plan: Plan) -> list[tuple[str, str]]:
    return [(edge.source_node_id, edge.target_node_id) for edge in plan.edges]


@given(st.randoms(use_true_random=False), st.integers(0, 1000))
@ordinary
def test_every_rehearsal_ends_and_its_seed_repeats_it(rnd: Random, seed: int) -> None:
    """Whatever the plan and whatever goes wrong: an end, every node ended, and the same again from the same seed."""
    plan = random_plan(rnd)
    options = load_options(
        {**known(plan, WILD), "seed": seed, "inputs": {"flag": chance(rnd, 50), "zero": 0}, "runs": 2}
    )
    summary = rehearse(plan, options)
    assert set(summary.ends) <= {"COMPLETED", "FAILED", "CANCELLED", "PAUSED"}
    assert summary.worst.status == "PAUSED" or all(status in NODE_ENDS for status in summary.worst.statuses)
    assert all(
        one.start is None or one.ready <= one.begun <= one.start <= one.end for one in summary.worst.nodes.values()
    )
    assert rehearse(plan, options).wire() == summary.wire()
    alone = rehearse_once(prepare(plan, options), summary.worst.seed)
    assert (alone.makespan, alone.statuses, alone.path) == (
        summary.worst.makespan,
        summary.worst.statuses,
        summary.worst.path,
    )


@given(st.randoms(use_true_random=False))
@ordinary
def test_never_more_at_once_than_there_is(rnd: Random) -> None:
    """Slots, pools and agents are never over-committed, by what the trace itself says of times."""
    plan = random_plan(rnd)
    slots, cpu, capacity = rnd.randint(1, 4), rnd.randint(1, 3), rnd.randint(1, 2)
    nodes = {
        node.node_id: {"needs": {"cpu": rnd.choice((0, 1, 1, cpu)), "licences": rnd.choice((0, 0.5))}}
        for node in plan.all_nodes()
    }
    given_options = {**known(plan, WILD), "nodes": nodes, "maxInFlight": slots}
    given_options["pools"] = {"cpu": cpu, "licences": 1}
    given_options["agents"] = {"one": capacity, "two": {"capacity": 1, "capabilities": ["one"]}}
    plan = plan.model_copy(
        update={
            "nodes": tuple(
                node.model_copy(
                    update={"requirements": node.requirements.model_copy(update={"capabilities": ("one",)})}
                )
                if chance(rnd, 50)
                else node
                for node in plan.nodes
            )
        }
    )
    scenario, trace = once(plan, inputs={"flag": True, "zero": 0}, seed=rnd.randint(0, 999), **given_options)
    program = scenario.program
    limited = {
        node: one
        for node, one in trace.nodes.items()
        if program.types[node] != "sleep" or program.max_in_flight is not None
    }
    begun = [
        change for one in limited.values() for change in ((one.begun, 1.0), (one.end, -1.0)) if one.end > one.begun
    ]
    assert highest(begun) <= (program.max_in_flight or slots)
    for name, size in (("cpu", cpu), ("licences", 1)):
        held = [
            change
            for one in trace.nodes.values()
            if one.lease is not None and one.start is not None and one.end > one.start
            for pool, amount in one.lease.demand.pools
            if pool == name
            for change in ((one.start, amount), (one.end, -amount))
        ]
        assert highest(held) <= size + 1e-9
    for agent, most in ((0, capacity), (1, 1)):
        busy = [
            change
            for one in trace.nodes.values()
            if one.lease is not None and one.lease.agent == agent and one.start is not None and one.end > one.start
            for change in ((one.start, 1.0), (one.end, -1.0))
        ]
        assert highest(busy) <= most


@given(st.randoms(use_true_random=False))
@ordinary
def test_without_limits_fixed_durations_take_the_critical_path(rnd: Random) -> None:
    """The makespan is the critical path, the path that is told has its length, and nodes start at their earliest."""
    plan = random_dag(rnd)
    expected = critical_path(
        [node.node_id for node in plan.nodes],
        edges_of(plan),
        lambda name: next(n.requirements.estimated_duration or 0 for n in plan.nodes if n.node_id == name),
    )
    scenario, trace = once(plan)
    assert trace.makespan == expected.length
    assert {name: start for name, (start, _) in spans(scenario, trace).items()} == expected.earliest
    path = [trace.nodes[node] for node in trace.path]
    assert path[0].start == 0
    assert path[-1].end == trace.makespan
    assert all(after.start == before.end for before, after in pairwise(path))
    assert rehearse(plan).runs == 1


@given(st.randoms(use_true_random=False))
@ordinary
def test_the_makespan_is_at_least_the_critical_path_of_what_ran(rnd: Random) -> None:
    """Also with random durations and few slots; no node starts before all that it depends on has ended."""
    plan = random_dag(rnd)
    scenario, trace = once(
        plan,
        seed=rnd.randint(0, 999),
        maxInFlight=rnd.randint(1, 3),
        types={"noop": {"duration": "lognormal(10s, 60s)", "failures": 0.2}},
        pools={"cpu": 1},
    )
    if trace.status != "COMPLETED":
        return
    times = spans(scenario, trace)
    lasted = {name: end - (start or 0) for name, (start, end) in times.items()}
    assert trace.makespan >= critical_path(list(lasted), edges_of(plan), lambda name: lasted[name]).length
    assert all((times[target][0] or 0) >= times[source][1] for source, target in edges_of(plan))
