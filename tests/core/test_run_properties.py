"""Properties of the state machine over random plans and random orders of events.

``naive_model.py`` says what DESIGN sections 3 and 4 mean; here ``dalang/run.py`` is held against it after every event.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
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
    SkipRequested,
    Start,
    Step,
    TimedOut,
)
from dalang.plan import Plan
from dalang.program import Program
from dalang.run import START, Run
from dalang.statuses import IN_FLIGHT, NODE_ENDS, RUN_ENDS, ImpossibleMove, NodeStatus, RunStatus
from tests.core.naive_model import NaiveRun
from tests.core.random_runs import any_event, chance, random_event, random_plan
from tests.effort import noted, tries

ordinary = settings(
    max_examples=tries(60),
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
randoms = given(st.randoms(use_true_random=False))
SEEDS = tries(100)
"""Games per plain seed: no shrinking, but many more of them in the same time than Hypothesis plays."""

INPUTS = {"flag": True, "zero": 0}
ABOUT = {"id": "r1"}
NAMES = ("waiting", "live", "dead", "blocked")
REQUESTS = {
    Begin: "begin",
    NodeSucceeded: "success",
    NodeFailed: "failure",
    NodeStopped: "stopped",
    PauseRequested: "pause",
    ResumeRequested: "resume",
    CancelRequested: "cancel",
    TimedOut: "timeout",
    SkipRequested: "skip",
}


def request(event: Event) -> str:
    """Return what the model calls the event."""
    interrupts = isinstance(event, PauseRequested) and event.mode == "interrupt"
    return "interrupt" if interrupts else REQUESTS[type(event)]


class Game:
    """A run and its model, played against each other from Begin to the end; ``script`` is what was played."""

    def __init__(self, rnd: Random, plan: Plan | None = None) -> None:
        self.rnd = rnd
        self.plan = plan or random_plan(rnd)
        self.program = Program(json.loads(json.dumps(compile_plan(self.plan))))
        self.slots = rnd.choice((50, 50, 2))
        self.run = self.new_run()
        self.model = NaiveRun(self.plan, INPUTS, ABOUT, self.slots)
        self.script: list[Event | bool] = []
        """Events, and calls of ``due`` as what they were told about starting."""
        self.answers: dict[str, int] = {}

    def new_run(self) -> Run:
        return Run(self.program, INPUTS, ABOUT, self.slots)

    def play(self, most: int = 60, checks: bool = True) -> None:
        """Play until the run has ended; past ``most`` steps nothing but what leads to its end happens."""
        while len(self.script) < 2 * most and not (self.model.end() and not self.model.in_flight()):
            if checks and chance(self.rnd, 15):
                self.try_anything()
            event: Event = ResumeRequested()
            if len(self.script) < most or self.model.in_flight() or not self.model.paused:
                event = random_event(self.rnd, self.model, 12 if len(self.script) < most else 0)
            if not self.possible(event):
                if not self.model.in_flight():
                    self.due(checks)
                continue
            self.apply(event)
            if checks:
                self.compare()
            if chance(self.rnd, 80) or not self.model.in_flight():
                self.due(checks)

    def possible(self, event: Event) -> bool:
        outputs = event.outputs if isinstance(event, SkipRequested) else None
        return self.model.possible(request(event), getattr(event, "node", None), outputs)

    def apply(self, event: Event) -> None:
        self.script.append(event)
        self.run.apply(event, len(self.script))
        tell(self.model, event)
        if isinstance(event, NodeSucceeded | NodeFailed | NodeStopped):
            self.answers[event.node] = self.answers.get(event.node, 0) + 1

    def due(self, checks: bool) -> list[Step]:
        steps: list[Step] = []
        if chance(self.rnd, 10):
            self.script.append(False)
            steps += self.run.due(len(self.script), starting=False)
            assert not any(isinstance(step, Start) for step in steps)
        self.script.append(True)
        steps += self.run.due(len(self.script))
        stops, starts = self.model.take_due()
        actual = [(step.node_id, plain(step.inputs)) for step in steps if isinstance(step, Start)]
        assert actual == [(node, plain(inputs)) for node, inputs in starts]
        assert [step.node_id for step in steps if not isinstance(step, Start)] == stops
        if checks:
            self.compare()
            flying = self.model.in_flight()
            assert flying or self.model.paused or self.run.status in RUN_ENDS, "a dead end"
        return steps

    def try_anything(self) -> None:
        """What the model calls impossible is refused and changes nothing; what it calls possible is not refused."""
        event = any_event(self.rnd, self.model)
        refusal = self.run.refusal(event)
        possible = self.possible(event)
        assert (refusal is None) == possible, (event, refusal)
        if refusal is not None:
            before = json.dumps(self.run.snapshot())
            with pytest.raises(ImpossibleMove, match="is not possible"):
                self.run.apply(event, 0)
            assert json.dumps(self.run.snapshot()) == before

    def compare(self) -> None:
        run, model = self.run, self.model
        ids = self.program.ids
        assert dict(zip(ids, map(str, run.statuses), strict=True)) == model.status
        edges = {edge: NAMES[state] for edge, state in zip(self.program.edge_ids, run.edges, strict=True)}
        assert edges == model.edge_state
        reasons = {f["nodeId"]: f["data"]["skipReason"] for f in run.facts if f["type"] == "NODE_SKIPPED"}
        assert reasons == model.skip_reason
        late = [f["data"]["edgeId"] for f in run.facts if f["type"] == "CONDITION_FAILED"]
        assert late == model.event_only
        assert (str(run.status) if run.status in RUN_ENDS else None) == model.end()
        assert (run.status is RunStatus.PAUSED) == model.paused
        ready = [entry[-1] for heap in run._ready for entry in heap if run.statuses[entry[-1]] is NodeStatus.PENDING]
        if run.status is RunStatus.RUNNING:
            assert sorted(ids[number] for number in ready) == sorted(model.ready())
        if model.end() == "COMPLETED":
            assert plain(run.result) == plain(model.result())
        check_facts(run)
        check_indexes(run, model)


def tell(model: NaiveRun, event: Event) -> None:
    """Tell the model what happened."""
    if isinstance(event, Begin):
        model.begin()
    elif isinstance(event, NodeSucceeded):
        model.happen_success(event.node, dict(event.outputs))
    elif isinstance(event, NodeFailed):
        model.happen_failure(event.node, event.error)
    elif isinstance(event, NodeStopped):
        model.happen_stopped(event.node)
    elif isinstance(event, PauseRequested):
        if event.mode == "interrupt":
            model.happen_interrupt()
        else:
            model.happen_pause()
    elif isinstance(event, ResumeRequested):
        model.happen_resume()
    elif isinstance(event, CancelRequested):
        model.happen_cancel()
    elif isinstance(event, TimedOut):
        model.happen_cancel("timeout")
    elif isinstance(event, SkipRequested):
        model.happen_skip(event.node, None if event.outputs is None else dict(event.outputs))


def plain(value: Any) -> Any:
    """Return ``value`` with the engine's own errors cut to what the model knows of them."""
    if isinstance(value, str) and "VALIDATION_ERROR" in value:
        return "... VALIDATION_ERROR ..."
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") == "VALIDATION_ERROR":
        return {key: value[key] for key in ("type", "originNode")}
    return {key: plain(item) for key, item in value.items()}


def check_facts(run: Run) -> None:
    assert [fact["seq"] for fact in run.facts] == list(range(1, run.seq + 1))
    json.dumps(run.facts, allow_nan=False)


def check_indexes(run: Run, model: NaiveRun) -> None:
    """Every index equals what its definition gives, and every output that may still be read is there."""
    program = run.program
    numbers = range(len(program.ids))
    assert {s: c for s, c in run.counts.items() if c} == {s: run.statuses.count(s) for s in set(run.statuses)}
    slots = [int(program.max_in_flight is None and program.types[n] == "sleep") for n in numbers]
    assert list(run._slots) == slots
    flying = [slots[n] for n in numbers if run.statuses[n] in IN_FLIGHT]
    assert run._busy == [flying.count(kind) for kind in range(len(run._busy))]
    first = program.first_finally
    assert run._open == [sum(s not in NODE_ENDS for s in part) for part in (run.statuses[:first], run.statuses[first:])]
    for number in numbers:
        states = [run.edges[edge] for edge in program.edges_in[number]]
        assert [run._waiting[number], run._live[number], run._blocked[number]] == [states.count(s) for s in (0, 1, 3)]
    readers = [0] * len(program.ids)
    for number in numbers:
        if run.statuses[number] is NodeStatus.PENDING and number not in run.given:
            for source in program.reads[number]:
                readers[source] += 1
    for edge, sources in program.edge_reads.items():
        if run.edges[edge] == 0:
            for source in sources:
                readers[source] += 1
    for source in program.kept:
        readers[source] += 1
    assert list(run._readers) == readers
    named = {program.ids[number]: number for number in numbers if readers[number]}
    assert {number: model.outputs[name] for name, number in named.items() if name in model.outputs} == run.outputs
    assert {named[name] for name in model.errors if name in named} == set(run.errors)
    assert not run._raised
    assert not run._resolved
    assert run._fatal is None


def bytes_of(facts: Any) -> bytes:
    return json.dumps(facts, sort_keys=True).encode()


def replay(run: Run, script: list[Event | bool], first: int = 0) -> list[list[Step]]:
    """Play ``script`` from its entry ``first`` on with ``run`` and return what was due."""
    answers = []
    for number, event in enumerate(script[first:], first + 1):
        if isinstance(event, bool):
            answers.append(run.due(number, starting=event))
        else:
            run.apply(event, number)
    return answers


def check_agrees(rnd: Random) -> None:
    game = Game(rnd)
    game.play()
    assert game.run.status in RUN_ENDS
    started = [fact["nodeId"] for fact in game.run.facts if fact["type"] == "NODE_STARTED"]
    assert sorted(started) == sorted(game.answers), "each Start is answered"
    assert set(game.answers.values()) <= {1}, "once"
    assert set(game.run.statuses) <= NODE_ENDS
    assert not game.run.due(0)


def check_order(rnd: Random) -> None:
    """Whatever a node starts with, its join allowed it, no slot was overdrawn and no better node was passed over."""
    game = Game(rnd)
    run, program = game.run, game.program
    original = run._start

    def start(node: int) -> Start | None:
        assert not program.edges_in[node] or run._verdict(node) == START
        return original(node)

    run._start = start  # type: ignore[method-assign]
    game.play(checks=False)
    limit = program.max_in_flight or game.slots
    flying: set[str] = set()
    for fact in run.facts:
        if fact["type"] == "NODE_STARTED":
            flying.add(fact["nodeId"])
        else:
            flying.discard(fact.get("nodeId", ""))
        assert sum(not run._slots[program.index[node]] for node in flying) <= limit


def check_replay(rnd: Random) -> None:
    game = Game(rnd)
    game.play(checks=False)
    other = Run(Program(json.loads(json.dumps(game.program.document))), INPUTS, ABOUT, game.slots)
    replay(other, game.script)
    assert bytes_of(other.facts) == bytes_of(game.run.facts)


def check_restore(rnd: Random, play: Callable[[Random], Game] = Game) -> None:
    game = play(rnd)
    game.play(checks=False)
    first = game.new_run()
    cut = rnd.randint(0, len(game.script))
    replay(first, game.script[:cut])
    seen = len(first.facts)
    snapshot = json.loads(json.dumps(first.snapshot()))
    second = Run.restore(game.program, INPUTS, snapshot, game.slots)
    assert bytes_of(second.snapshot()) == bytes_of(snapshot)
    assert replay(second, game.script, cut) == replay(first, game.script, cut)
    assert bytes_of(second.facts) == bytes_of(first.facts[seen:])
    assert bytes_of(second.snapshot()) == bytes_of(first.snapshot())


CHECKS = {"agrees": check_agrees, "order": check_order, "replay": check_replay, "restore": check_restore}


@ordinary
@randoms
def test_agrees_with_the_naive_model(rnd: Random) -> None:
    """After every event statuses, edges, reasons, ready nodes, inputs and end are the model's; no dead end."""
    check_agrees(rnd)


@settings(ordinary, max_examples=tries(40))
@randoms
def test_nothing_starts_before_its_join_is_decided(rnd: Random) -> None:
    """A node starts only on a join that is met, and never are more in flight than there are slots."""
    check_order(rnd)


@settings(ordinary, max_examples=tries(40))
@randoms
def test_same_events_give_same_facts(rnd: Random) -> None:
    """Replaying the same events gives the same facts byte for byte."""
    check_replay(rnd)


@settings(ordinary, max_examples=tries(60))
@randoms
def test_a_snapshot_can_be_taken_at_any_moment(rnd: Random) -> None:
    """A run that is restored from JSON goes on as the one that was never interrupted."""
    check_restore(rnd)


@pytest.mark.parametrize("name", CHECKS)
def test_many_seeds(name: str) -> None:
    """The same properties over plain seeds, many at once."""
    for seed in range(SEEDS):
        _seed(name, seed)


@pytest.mark.soak
@pytest.mark.parametrize("name", CHECKS)
def test_very_many_seeds(name: str) -> None:
    """The same for a long time, with other seeds."""
    for seed in range(1_000_000, 1_020_000):
        _seed(name, seed)


def _seed(name: str, seed: int) -> None:
    with noted(f"{name}, seed {seed}"):
        CHECKS[name](Random(seed))
