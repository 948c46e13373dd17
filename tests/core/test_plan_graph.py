"""A part of a plan explains its nodes as the whole plan does."""

from __future__ import annotations

from random import Random
from typing import Any

from dalang.compilation import compile_plan
from dalang.plan import Plan, with_derived_ids
from dalang.plan_graph import Parts, PlanGraph, excerpt, names_read
from dalang.program import Program
from tests.core.random_runs import random_plan
from tests.core.test_provenance import told
from tests.core.test_run_properties import Game
from tests.effort import tries


def graph_of(document: dict[str, Any]) -> PlanGraph:
    """Return the graph of a plan as it comes back from where it is kept."""
    graph = PlanGraph.of(document)
    return PlanGraph.unpacked(list(graph.ids), *graph.packed())


def test_a_node_is_explained_by_its_part_of_the_plan() -> None:
    """Random plans and runs: of a few nodes the same is told by their excerpt as by everything."""
    seen = 0
    for seed in range(tries(40)):
        rnd = Random(seed)
        plan = random_plan(rnd)
        game = Game(rnd, plan)
        game.play(checks=False)
        document = with_derived_ids(plan).wire()
        graph = graph_of(document)
        chosen = sorted(rnd.sample(range(len(graph.ids)), min(3, len(graph.ids))))
        edges, cut = graph.edges_into(chosen)
        assert not cut
        nodes = [*document["nodes"], *document.get("finally", ())]
        parts = Parts({one: nodes[one] for one in chosen}, {one: document["edges"][one] for one in edges})
        part = Program(compile_plan(Plan.model_validate(excerpt(graph, parts))))
        names = {graph.ids[one] for one in chosen}
        facts = [fact for fact in game.run.facts if fact.get("nodeId", part.ids[0]) in part.index]
        less = told(_Facts(facts), part).executions  # type: ignore[arg-type]
        whole = told(game.run, game.program).executions
        assert [one for one in less if one["nodeId"] in names] == [one for one in whole if one["nodeId"] in names], seed
        seen += len(part.ids) < len(graph.ids)
    assert seen


class _Facts:
    def __init__(self, facts: list[Any]) -> None:
        self.facts = facts


def test_the_nearest_and_what_is_left_out(monkeypatch: Any) -> None:
    """Nearest first along edges and reads, without what is known; of too many edges those between known nodes stay."""
    nodes: list[dict[str, Any]] = [{"nodeId": name, "type": "noop"} for name in "abcdef"]
    nodes[3]["inputs"] = {"x": "${nodes.f.outputs.x}"}
    edges = [{"sourceNodeId": one, "targetNodeId": other} for one, other in ("ab", "bc", "cd", "ad", "ed")]
    graph = graph_of({"nodes": nodes, "edges": edges})
    assert graph.nearest([3], 9, (), forward=False) == [3, 2, 0, 4, 5, 1]
    assert graph.nearest([3, 0], 3, {3}, forward=True) == [0, 1, 2]
    assert graph.nearest([5], 9, (), forward=True) == [5, 3]
    assert [graph.edges_by_target[graph.place_of_edge(edge)] for edge in range(5)] == [0, 1, 2, 3, 4]
    monkeypatch.setattr("dalang.plan_graph.MAX_INTO", 2)
    assert graph.edges_into([3, 4, 1]) == ([0, 4], {"d": 2})


def test_names_are_seen_however_a_node_is_named() -> None:
    """By a dot or in brackets, also where the quotes are written in JSON."""
    text = r"${nodes.a.outputs.x + nodes['b-c'].outputs.y + nodes[\"d\"].status + nodes.?e.outputs} mynodes.f"
    assert names_read(text) == {"a", "b-c", "d", "e"}
