"""Random pauses that interrupt: nothing is at work twice, nothing is lost, and the run is what the naive model says."""

from __future__ import annotations

import json
from collections import Counter
from random import Random

from hypothesis import settings

from dalang.plan import Plan
from dalang.run import Run
from dalang.statuses import NODE_ENDS, RUN_ENDS
from tests.core.random_runs import chance, random_plan
from tests.core.test_revising_properties import RevisedGame
from tests.core.test_run_properties import ABOUT, INPUTS, Game, bytes_of, check_restore, ordinary, randoms, replay
from tests.effort import noted, tries


def interruptible(rnd: Random) -> Plan:
    """A random plan in which most nodes may be interrupted."""
    plan = random_plan(rnd)
    nodes = tuple(
        node.model_copy(update={"interruptible": node.type != "sleep" and not chance(rnd, 30)}) for node in plan.nodes
    )
    return plan.model_copy(update={"nodes": nodes})


class InterruptedGame(Game):
    """A game in which operators interrupt."""

    def __init__(self, rnd: Random) -> None:
        super().__init__(rnd, interruptible(rnd))
        self.model.interrupts = True

    def compare(self) -> None:
        super().compare()
        ids = self.run.program.ids
        assert {ids[node] for node in self.run.halting} == set(self.model.halting)
        waiting = {
            ids[node] for node, count in self.run.starts.items() if count and str(self.run.statuses[node]) == "PENDING"
        }
        assert waiting == {node for node in self.model.given if self.model.status[node] == "PENDING"}


class RevisedInterruptedGame(RevisedGame, InterruptedGame):
    """A game in which the plan changes, too."""


def check(rnd: Random) -> Counter[str]:
    game = InterruptedGame(rnd)
    game.play()
    run = game.run
    assert run.status in RUN_ENDS
    assert set(run.statuses) <= NODE_ENDS
    assert not run.halting
    assert not run.starts
    assert not run.checkpoints
    begun: Counter[str] = Counter()
    key: dict[str, tuple[int, str]] = {}
    for fact in run.facts:
        node, kind = fact.get("nodeId", ""), fact["type"]
        if kind == "NODE_STARTED":
            begun[node] += 1
            # The same work: under one key, with one set of inputs.
            work = (fact["data"]["generation"], json.dumps(fact["body"]["inputs"], sort_keys=True))
            assert key.setdefault(node, work) == work
        elif kind == "NODE_INTERRUPTED":
            begun[node] -= 1
        assert begun[node] in (0, 1), "at work twice"
    return Counter(fact["type"] for fact in run.facts)


def check_revised(rnd: Random) -> None:
    game = RevisedInterruptedGame(rnd)
    game.play()
    assert set(game.run.statuses) <= NODE_ENDS
    other = Run(game.programs[0][1], INPUTS, ABOUT, game.slots)
    replay(other, game.script)
    assert bytes_of(other.facts) == bytes_of(game.run.facts)


@ordinary
@randoms
def test_an_interrupted_run_agrees_with_the_naive_model(rnd: Random) -> None:
    """A node that is interrupted starts again with the same inputs and key, never before it has stopped."""
    check(rnd)


@settings(ordinary, max_examples=tries(30))
@randoms
def test_a_snapshot_can_be_taken_while_nodes_are_being_interrupted(rnd: Random) -> None:
    """Continue-as-new while paused changes nothing."""
    check_restore(rnd, InterruptedGame)


@settings(ordinary, max_examples=tries(30))
@randoms
def test_the_plan_may_change_while_nodes_are_interrupted(rnd: Random) -> None:
    """An interrupted node that is replaced is other work and begins anew; it cannot be removed."""
    check_revised(rnd)


def test_many_seeds() -> None:
    """The same over plain seeds, in which nodes are interrupted often enough to mean something."""
    seen: Counter[str] = Counter()
    for seed in range(tries(120)):
        with noted(f"seed {seed}"):
            seen += check(Random(seed))
            check_restore(Random(seed), InterruptedGame)
            check_revised(Random(seed))
    assert seen["NODE_INTERRUPTED"] > 50
