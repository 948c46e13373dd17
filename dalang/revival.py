"""Starting a finished run again: which nodes run again, under which keys, and the state in which the new run begins.

Theory of operation. Of every node of the old run one *outcome* is known. :func:`choose` says which nodes run *again*:
the chosen ones (default: the failed ones), what did not end or was undone, and all that is downstream of those;
``finally`` nodes are downstream of every other node. All else is *kept*. :func:`revive` puts the outcomes of the kept
nodes into a run and lights their edges by the state machine's own rules, with the conditions evaluated again; the
snapshot of that is where the new run begins (``reviving.py``). Nothing of the old run's edges is copied.

An idempotency key is kept exactly where a node is asked for the same work again: it was started, neither succeeded nor
was undone, gets the same inputs - the recorded ones - and nothing upstream of it runs again. Everything else that was
started gets the next generation (DESIGN section 4, trap 13). The new run takes over the undo of what took effect and
was not undone, of kept nodes and of those that run again (:class:`Told`).

Pure: no store, no clock; who calls brings the values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dalang.program import Program
from dalang.run import Run
from dalang.run_state import BLOCKED, DEAD
from dalang.statuses import NodeStatus, RunStatus
from dalang.undoing import Effect, undoes
from dalang.wire import EventType

KEPT_STATUSES = frozenset({NodeStatus.SUCCESS, NodeStatus.ERROR, NodeStatus.FAILED, NodeStatus.SKIPPED})
"""How a node has ended whose outcome can be kept. Cancelled nodes have none, and undone ones have it no more."""
UNDONE = frozenset({NodeStatus.COMPENSATING, NodeStatus.COMPENSATED, NodeStatus.COMPENSATION_FAILED})
"""Whose effect is gone, or half gone: their work is new work."""

Values = Mapping[str, Any]
"""Of one node: ``inputs``, ``outputs``, ``error``, as far as there are any."""


class NothingToRedrive(Exception):
    """No node would run again; the text says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a node has come to.

    ``started``: it was begun at least once, and its inputs are known; ``late``: it came to this after the checkpoint;
    ``undone_below``: a run below it undid what it had done, so that keys below it are of no use any more.
    """

    status: NodeStatus = NodeStatus.PENDING
    generation: int = 0
    started: bool = False
    skip_reason: str | None = None
    late: bool = False
    undone_below: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """An event of a node that can be undone, as far as it says what the node may have done, with its whole body."""

    node: int
    type: str
    data: Mapping[str, Any]
    body: Mapping[str, Any]


NOTHING = Outcome()
"""Of a node that nothing has happened to."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a redrive does, by node number.

    ``given`` are those that run again with their recorded inputs; ``overrides`` replace inputs, key by key.
    """

    again: Sequence[bool]
    generations: Mapping[int, int]
    given: frozenset[int]
    overrides: Mapping[int, Values] = field(default_factory=dict)


def choose(
    program: Program,
    outcomes: Sequence[Outcome],
    wanted: Iterable[int] | None = None,
    changes: Mapping[int, Values] | None = None,
    carried: Mapping[int, Values] | None = None,
) -> Choice:
    """Return what runs again when ``wanted`` nodes do (default: the failed ones), with ``changes`` of their inputs.

    ``carried`` are changes that were made before, in the old run or when it was started again: they hold on.

    Raises:
        NothingToRedrive: every node keeps its outcome.
    """
    changes = changes or {}
    failed = [node for node, one in enumerate(outcomes) if one.status is NodeStatus.FAILED]
    tops = dict.fromkeys(failed if wanted is None else wanted)
    tops.update(dict.fromkeys(node for node, one in enumerate(outcomes) if one.late or one.status not in KEPT_STATUSES))
    again = _downstream(program, tops)
    if not any(again):
        raise NothingToRedrive("no node failed, was cancelled or undone; name the nodes that shall run again")
    after = _after_others(program, again)
    generations, given = {}, set()
    for node, one in enumerate(outcomes):
        if not again[node]:
            generations[node] = one.generation
        elif one.started:
            same = not after[node] and node not in changes and one.status not in UNDONE
            same = same and one.status is not NodeStatus.SUCCESS and not one.undone_below
            generations[node] = one.generation + (not same)
            if not after[node]:
                given.add(node)
    generations = {node: generation for node, generation in generations.items() if generation}
    corrected = {**(carried or {}), **changes}
    overrides = {node: {**(carried or {}).get(node, {}), **changes.get(node, {})} for node in corrected if again[node]}
    return Choice(again, generations, frozenset(given), overrides)


def _downstream(program: Program, tops: Iterable[int]) -> list[bool]:
    """Return by node whether it is one of ``tops`` or comes after one."""
    again = [False] * len(program.ids)
    stack = list(tops)
    last = range(program.first_finally, len(again))
    while stack:
        node = stack.pop()
        if again[node]:
            continue
        again[node] = True
        stack.extend(program.targets[edge] for edge in program.edges_out[node])
        if node < program.first_finally:
            stack.extend(last)
            last = range(0)
    return again


def _after_others(program: Program, again: Sequence[bool]) -> list[bool]:
    """Return by node whether something upstream of it runs again, so that its inputs may be others."""
    main = any(again[: program.first_finally])
    return [
        (main and node >= program.first_finally) or any(again[program.sources[edge]] for edge in incoming)
        for node, incoming in enumerate(program.edges_in)
    ]


def needed(program: Program, outcomes: Sequence[Outcome], choice: Choice) -> list[tuple[str, ...]]:
    """Return by node which of its values :func:`revive` reads; those of all others may be as large as they like."""
    again, given = choice.again, choice.given
    read = set(program.kept)
    for node, sources in enumerate(program.reads):
        if again[node]:  # also where its recorded inputs should do: they may be gone
            read.update(sources)
    for references in program.edge_reads.values():
        read.update(references)
    for edge, source in enumerate(program.sources):
        decides = program.conditions[edge] is not None or not program.is_success_port(edge)
        decides = decides or program.types[source] == "human"  # whose decision says which way it went
        if decides or again[program.targets[edge]]:
            read.add(source)
    found: list[tuple[str, ...]] = []
    for node, one in enumerate(outcomes):
        if again[node]:
            found.append(("inputs",) if node in given else ())
        elif node in read:
            found.append(("outputs", "error"))
        else:
            found.append(("error",) if one.status is NodeStatus.FAILED else ())
    return found


def revive(
    program: Program,
    inputs: Mapping[str, Any],
    about: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    choice: Choice,
    values: Mapping[int, Values],
    told: Iterable[Told] = (),
    hands: Mapping[str, Sequence[str]] | None = None,
    ending: Ending | None = None,
) -> Revived:
    """Return the state in which the new run begins.

    ``values`` holds by node what :func:`needed` asks for, ``hands`` by node id who had a hand in it.
    """
    run = _Revived(program, inputs, about)
    run._hands.update({node: list(names) for node, names in (hands or {}).items()})
    run.recall(told)
    if ending is not None:
        run.begin_ending(ending)
    run.keep(outcomes, choice, values)
    raised = run.light(outcomes, choice, values)
    return Revived(run.snapshot(), raised, run.effects)


@dataclass(frozen=True)
class Ending:
    """The end in which a run begins that only undoes; ``quiet`` says by node until when its handler may be at work."""

    status: RunStatus
    error: Mapping[str, Any] | None = None
    reason: str | None = None
    quiet: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Revived:
    """What a seed is made of: the state, the edges whose condition raised, and what may have taken effect, by node."""

    snapshot: dict[str, Any]
    raised: list[tuple[int, str, str]]
    effects: Mapping[int, list[Effect]]


class _Revived(Run):
    """A run under construction; it is never begun."""

    _recalled = False

    def __init__(self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        super().__init__(program, inputs, about)
        self._begun: dict[int, tuple[int, Mapping[str, Any], Mapping[str, Any]]] = {}

    def _took_effect(self, node: int, outputs: Mapping[str, Any]) -> None:
        if not self._recalled:  # when its edges are lit, its outputs may not have been read: they were not needed
            super()._took_effect(node, outputs)

    def recall(self, told: Iterable[Told]) -> None:
        """Remember what may have taken effect and was not undone, as it happened."""
        for one in told:
            node = one.node
            if node not in self.program.compensations:
                self._recall_below(one)
            if one.type == EventType.NODE_KEPT:
                self.effects[node] = [dict(effect) for effect in one.body.get("effects", ())]  # type: ignore[misc]
            elif one.type == EventType.NODE_STARTED:
                self._may_take_effect(node, one.body.get("inputs", {}), one.data.get("generation", 0))
            elif one.type == EventType.NODE_COMPLETED:
                self._took_effect(node, one.body.get("outputs", {}))
            elif one.type == EventType.NODE_COMPENSATED:
                left = [effect for effect in self.effects.get(node, ()) if not undoes(one.data, effect)]
                self.effects[node] = left
            elif "error" in one.body and one.type != EventType.NODE_COMPENSATION_FAILED:
                self._effect_unsure(node, one.body["error"], False)
            if not self.effects.get(node):
                self.effects.pop(node, None)
        self._recalled = True

    def _recall_below(self, one: Told) -> None:
        """Remember runs below a container that can be undone."""
        node, data = one.node, one.data
        if one.type == EventType.NODE_STARTED:
            self._begun[node] = (data.get("generation", 0), one.body.get("inputs", {}), {})
        if node not in self._begun:
            return
        generation, inputs, previous = self._begun[node]
        iterated = one.type == EventType.NODE_ITERATED
        if data.get("undoable") is True:
            iteration = data["iteration"] - 1 if iterated else data["iteration"]
            if self.program.types[node] == "loop":
                inputs = {**inputs, "iteration": iteration, "previous": previous}
            run = data["endedRunId" if iterated else "childRunId"]
            self._note_below(node, run, generation, iteration, inputs)
        if iterated:
            self._begun[node] = (generation, self._begun[node][1], one.body.get("outputs", {}))

    def begin_ending(self, ending: Ending) -> None:
        """Let the run begin in its end, with what may be at work still."""
        self.ending, self.reason = ending.status, ending.reason
        if ending.error is not None:
            self.error = ending.error
        for node, at in ending.quiet.items():
            if node in self.effects:
                self.effects[node][-1]["quietAt"] = at

    def keep(self, outcomes: Sequence[Outcome], choice: Choice, values: Mapping[int, Values]) -> None:
        for node, one in enumerate(outcomes):
            own = values.get(node, {})
            if choice.again[node]:
                if node in choice.given and "inputs" in own:
                    self.given[node] = own["inputs"]
                continue
            self.statuses[node] = one.status
            if "outputs" in own:
                self.outputs[node] = own["outputs"]
            if "error" in own:
                self.errors[node] = own["error"]
            if one.status is NodeStatus.FAILED and self.error is None:
                self.error = own.get("error", {})
        self.generations.update(choice.generations)
        self.overrides.update(choice.overrides)
        self._index()

    def light(
        self, outcomes: Sequence[Outcome], choice: Choice, values: Mapping[int, Values]
    ) -> list[tuple[int, str, str]]:
        """Resolve the edges of kept nodes; return those whose condition raised and will fail a node."""
        for node, one in enumerate(outcomes):
            if not choice.again[node]:
                self._edges_of(node, one, values.get(node, {}))
        for edge, state in self._resolved:
            self.edges[edge] = state
        raised = [
            (edge, failure.code, failure.message)
            for edge, failure in self._raised
            if choice.again[self.program.targets[edge]]
        ]
        self._index()
        self.outputs = {node: value for node, value in self.outputs.items() if self._readers[node]}
        self.errors = {node: value for node, value in self.errors.items() if self._readers[node]}
        return raised

    def _edges_of(self, node: int, one: Outcome, own: Values) -> None:
        outgoing = self.program.edges_out[node]
        if one.status is NodeStatus.SUCCESS or "outputs" in own:
            self._light(node, own.get("outputs", {}))
        elif one.status is NodeStatus.ERROR:
            error = own.get("error", {})
            for edge in outgoing:
                self._resolved.append(
                    (edge, self._weigh(edge, {}, error) if self.program.is_error_port(edge) else DEAD)
                )
        else:
            blocked = one.status is NodeStatus.FAILED or one.skip_reason == "upstreamFailed"
            self._resolved.extend((edge, BLOCKED if blocked else DEAD) for edge in outgoing)
