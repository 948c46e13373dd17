"""Pieces of a large plan that was stored without any are made once, and nobody fails for it."""

from __future__ import annotations

from contextlib import suppress

import pytest

from dalang.plan import Plan
from dalang.store import plan_pieces
from dalang.store.engine import transaction
from dalang.store.plan_parts import PlanGraphs, read_graph, read_parts
from dalang.store.plans import put_document
from tests.store.world import TENANT, World

NODES = [{"nodeId": name, "type": "noop"} for name in "abc"]
EDGES = [{"edgeId": one + other, "sourceNodeId": one, "targetNodeId": other} for one, other in ("ac", "ab")]


async def old_plan(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """Store a plan as an earlier version did; return its digest."""
    async with transaction(world.engine, TENANT) as conn:
        plan = Plan.model_validate({"name": "old", "nodes": NODES, "edges": EDGES})
        digest = await put_document(conn, TENANT, plan)
    monkeypatch.setattr(plan_pieces, "MANY", 1)
    return digest


async def test_who_sees_no_pieces_yet_reads_the_plan(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two look at a plan for the first time; the one that began before the other was done makes them in vain."""
    digest = await old_plan(world, monkeypatch)
    snapshots = world.engine.execution_options(isolation_level="REPEATABLE READ")
    async with transaction(snapshots, TENANT) as slow:
        async with transaction(world.engine, TENANT) as quick:
            assert await read_graph(quick, TENANT, digest) is not None
        graph = await read_graph(slow, TENANT, digest)
        assert graph is not None
        found = await read_parts(slow, TENANT, digest, graph, [1], [0, 1])
        assert found.nodes[1]["nodeId"] == "b"
        assert [found.edges[edge]["targetNodeId"] for edge in (0, 1)] == ["c", "b"]
    assert len(await world.rows("SELECT * FROM plan_graphs")) == 1
    async with transaction(world.engine, TENANT) as conn:
        assert await read_parts(conn, TENANT, digest, graph, [1], [0, 1]) == found


async def test_a_graph_outlives_pieces_that_were_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who made them was cut off before the end; the graph is kept all the same."""
    digest, graphs = await old_plan(world, monkeypatch), PlanGraphs()
    with suppress(TimeoutError):
        async with transaction(world.engine, TENANT) as conn:
            assert await graphs.get(conn, TENANT, digest) is not None
            raise TimeoutError
    assert await world.rows("SELECT * FROM plan_graphs") == []
    async with transaction(world.engine, TENANT) as conn:
        graph = await graphs.get(conn, TENANT, digest)
        assert graph is not None
        found = await read_parts(conn, TENANT, digest, graph, [2], [0])
    assert found.nodes[2]["nodeId"] == found.edges[0]["targetNodeId"] == "c"


async def test_a_large_plan_may_have_no_edges(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its nodes begin at once."""
    monkeypatch.setattr(plan_pieces, "MANY", 1)
    async with transaction(world.engine, TENANT) as conn:
        digest = await put_document(conn, TENANT, Plan.model_validate({"name": "wide", "nodes": NODES}))
        graph = await read_graph(conn, TENANT, digest)
        assert graph is not None
        assert (await read_parts(conn, TENANT, digest, graph, [0], [])).nodes[0]["nodeId"] == "a"
