"""Compensation: what may have taken effect, and how it is undone in reverse dependency order (DESIGN section 4).

An *effect* is what one start of a node - one idempotency key - may have done. It is there from the node's start on and
goes only when every start under this key declared ``noEffect`` on its first attempt, or when it is undone. Whether a
success was heard of, what the last error says, whether an operator skipped the node: none of it matters.

The undo begins when all nodes have ended. A node is *clear* when it has nothing to undo, or is undone, and all that
depend on it are clear; it is a node's *turn* when all that depend on it are clear. So a failed undo, until a person has
decided about it, holds up what its node depends on and nothing else. A turn waits for ``quietAt`` where nobody heard
the handler end: until then it may be at work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, NotRequired, TypedDict

from dalang.asking import without_none
from dalang.canonical import safe_text
from dalang.dataflow import expression_error
from dalang.events import NodeDeferred, TaskDecided, Undo, UndoFailed, UndoSucceeded
from dalang.expressions import ExpressionError
from dalang.human_task import COMPENSATION, OpenTask
from dalang.people import MAX_DESCRIPTION, MAX_TITLE
from dalang.plan import FailurePolicy
from dalang.plan_undo import Compensate
from dalang.program import Program
from dalang.reviving import Reviving
from dalang.statuses import ImpossibleMove, NodeStatus, RunStatus
from dalang.templates import compile_template
from dalang.wire import EventType, idempotency_key

UNHEARD_GRACE_MS = 5_000
"""How much longer than its time a handler that nobody heard of is thought to be at work."""
ALARM = "undo"
MAX_NAMED = 50
"""So many nodes that were not undone are named in the event of the run's end."""

COMPENSATING, COMPENSATED = NodeStatus.COMPENSATING, NodeStatus.COMPENSATED
COMPENSATION_FAILED = NodeStatus.COMPENSATION_FAILED

ENDS: Mapping[str | None, tuple[RunStatus, ...]] = {
    None: (RunStatus.FAILED, RunStatus.CANCELLED),
    Compensate.ON_FAILURE: (RunStatus.FAILED,),
    Compensate.ON_CANCEL: (RunStatus.CANCELLED,),
    Compensate.ALWAYS: (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED),
    Compensate.NEVER: (),
}
"""After which ends a run undoes, by the plan's ``compensate``."""


BELOW: Mapping[str, Any] = {"type": "run", "inputs": {}}
"""What undoes a container that does not say it: a run that undoes the one below it."""


class Effect(TypedDict):
    """What a node may have done under one key: the inputs it started with, and how it ended as far as that is known.

    ``unsure`` counts the starts that did not declare to have had no effect. ``state`` is there while the effect is
    being undone: ``begun`` (with what was ``given`` to it), ``failed`` (a person has to decide), ``again`` (he wants
    another try, where ``undoInputs`` replace inputs), ``abandoned``. ``run`` is the finished run below a container, of
    its ``iteration``: undoing the node is undoing that. ``by`` is the compensation of the node as it was then, when a
    revision of the plan gave it another one.
    """

    generation: int
    inputs: Mapping[str, Any]
    unsure: int
    outputs: NotRequired[Mapping[str, Any]]
    error: NotRequired[Mapping[str, Any]]
    quietAt: NotRequired[int]
    state: NotRequired[str]
    run: NotRequired[str]
    iteration: NotRequired[int]
    undoInputs: NotRequired[Mapping[str, Any]]
    given: NotRequired[Mapping[str, Any]]
    by: NotRequired[Mapping[str, Any]]


class Undoing(Reviving):
    """A run's state with its effects, by node; those of one node in the order in which they came to be.

    ``key_root`` begins the idempotency keys, which expressions of compensations may read; default: the run's id.
    """

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        super().__init__(program, inputs, about, max_in_flight)
        self.effects: dict[int, list[Effect]] = {}
        self.key_root = str(about.get("id", ""))
        self._uncleared: list[int] = []
        self._turns: list[tuple[int, int]] = []
        self._open_turns = 0
        self._undoing = 0

    # -- what may have taken effect --------------------------------------------------------------------------------

    def _may_take_effect(self, node: int, inputs: Mapping[str, Any], generation: int) -> None:
        """The node has started: from now on it may have taken effect."""
        if node not in self.program.compensations:
            return
        effects = self.effects.setdefault(node, [])
        if not effects or effects[-1]["generation"] != generation:
            effects.append({"generation": generation, "inputs": inputs, "unsure": 0})
        effects[-1]["unsure"] += 1

    def _took_effect(self, node: int, outputs: Mapping[str, Any]) -> None:
        """The node's handler succeeded, whatever is made of its outputs."""
        if node in self.effects:
            self.effects[node][-1]["outputs"] = outputs
            self.effects[node][-1].pop("error", None)

    def _took_effect_below(self, node: int) -> None:
        """A run below the node has ended well, and can be undone; unless the node says itself what undoes it."""
        if node in self.program.compensations:
            return
        step = self._step(node, self.given.get(node, {}))
        assert step.child is not None, "only containers have runs below them"
        self._note_below(node, step.child, step.generation, step.iteration, step.inputs)

    def _note_below(self, node: int, run: str, generation: int, iteration: int, inputs: Mapping[str, Any]) -> None:
        effect: Effect = {
            "generation": generation,
            "inputs": inputs,
            "unsure": 1,
            "run": run,
            "iteration": iteration,
        }
        self.effects.setdefault(node, []).append(effect)

    @property
    def undoable(self) -> bool:
        """Whether the run has done what could be undone yet."""
        never = self.program.document.get("compensate") == Compensate.NEVER
        return not never and not self.effects.keys() <= self._spared()

    def _succeed(
        self, node: int, outputs: Mapping[str, Any], data: Mapping[str, Any], shown: Mapping[str, Any] | None = None
    ) -> None:
        self._took_effect(node, outputs)
        super()._succeed(node, outputs, data, shown)

    def _light(self, node: int, outputs: Mapping[str, Any]) -> None:
        if self.statuses[node] is NodeStatus.SUCCESS:  # and with what its output ports add
            self._took_effect(node, outputs)
        super()._light(node, outputs)

    def _effect_unsure(self, node: int, error: Mapping[str, Any], lost: bool) -> None:
        """The node's handler failed: only a first attempt can say that nothing happened, later ones know too little."""
        if node not in self.effects or "run" in self.effects[node][-1]:
            return
        effect = self.effects[node][-1]
        if error.get("noEffect") is True and error.get("attempt") == 1 and not lost:
            effect["unsure"] -= 1
        effect["error"] = error
        if lost:
            effect["quietAt"] = self._at + self.program.nodes[node]["timeouts"][0] + UNHEARD_GRACE_MS
        self._drop_none(node)

    def _deferred(self, event: NodeDeferred) -> None:
        node = self.program.index[event.node]
        if node in self.effects and event.attempts <= self.attempts.get(node, 0):  # this start has attempted nothing
            self.effects[node][-1]["unsure"] -= 1
            self._drop_none(node)
        super()._deferred(event)

    def _drop_none(self, node: int) -> None:
        """Forget the newest effect of the node if none of its starts can have had it."""
        if not self.effects[node][-1]["unsure"]:
            self.effects[node].pop()
            if not self.effects[node]:
                del self.effects[node]

    def _policy(self) -> str:
        """Return the failure policy; after a pivot there is no way back, so failures wait for an operator."""
        past = any(self.statuses[pivot] is NodeStatus.SUCCESS for pivot in self.program.pivots)
        policy = super()._policy()
        return FailurePolicy.PAUSE if past and policy in (FailurePolicy.FAIL_FAST, FailurePolicy.CONTINUE) else policy

    def _spared(self) -> set[int]:
        """Return the pivots that succeeded and all they depend on: no longer undone."""
        stack = [pivot for pivot in self.program.pivots if self.statuses[pivot] is NodeStatus.SUCCESS]
        spared = set(stack)
        while stack:
            for edge in self.program.edges_in[stack.pop()]:
                source = self.program.sources[edge]
                if source not in spared:
                    spared.add(source)
                    stack.append(source)
        return spared

    # -- the order -------------------------------------------------------------------------------------------------

    def _begin_undo(self, outcome: RunStatus) -> bool:
        """Begin to undo what took effect, if there is something and the plan wants it after this end of the run."""
        wanted = ENDS[self.program.document.get("compensate")]
        if self.status is RunStatus.COMPENSATING or outcome not in wanted or not self.effects:
            return False
        spared = self._spared()
        self.effects = {node: effects for node, effects in self.effects.items() if node not in spared}
        if not self.effects:
            return False
        data = {"nodes": len(self.effects), "ending": str(outcome), "reason": self.reason}
        self._move_run(RunStatus.COMPENSATING, EventType.PLAN_COMPENSATING, data)
        self._index_undo()
        return True

    def _index_undo(self) -> None:
        """Build the order of the undo from effects and statuses: what is clear, and whose turn it is."""
        program = self.program
        self._uncleared = [len(edges) for edges in program.edges_out]
        self._turns, self._open_turns, self._undoing = [], 0, 0
        self._clear([node for node in range(program.first_finally) if not program.edges_out[node]])

    def _clear(self, nodes: list[int]) -> None:
        """All that depend on these nodes is clear: it is their turn, or they are clear too, and so on."""
        stack = list(reversed(nodes))
        while stack:
            node = stack.pop()
            if node in self.effects:
                self._take_turn(node)
                continue
            for edge in self.program.edges_in[node]:
                source = self.program.sources[edge]
                self._uncleared[source] -= 1
                if not self._uncleared[source]:
                    stack.append(source)

    def _take_turn(self, node: int) -> None:
        state = self.effects[node][-1].get("state")
        if state == "abandoned":
            return
        self._open_turns += 1
        if state == "begun":
            self._undoing += 1
        elif state != "failed":
            self._await_quiet(node)

    def _await_quiet(self, node: int) -> None:
        if self._alarms.has(ALARM, node):
            return
        quiet_at = max(effect.get("quietAt", 0) for effect in self.effects[node])
        if quiet_at > self._at:
            self._set_alarm(quiet_at, ALARM, node)
        else:
            self._quiet(node)

    def _quiet(self, node: int) -> None:
        """Nothing is at work on the node any more."""
        for effect in self.effects[node]:
            effect.pop("quietAt", None)
        heappush(self._turns, (-self.program.node_priority(node), node))

    def _undo_is_open(self) -> bool:
        """Whether something is still to be undone, or to be decided."""
        return self.status is RunStatus.COMPENSATING and self._open_turns > 0

    # -- one undo --------------------------------------------------------------------------------------------------

    def _next_undo(self) -> Undo | None:
        """Return the undo to begin next and take note that it is begun, or None."""
        while self._turns and self._undoing < self._max_in_flight:
            node = heappop(self._turns)[-1]
            undo = self._start_undo(node)
            if undo is not None:
                return undo
        return None

    def _start_undo(self, node: int) -> Undo | None:
        program, effect = self.program, self.effects[node][-1]
        below, iteration = effect.get("run"), effect.get("iteration", 0)
        compensation = BELOW if below else effect.get("by") or compensation_of(program, node)
        known = {
            "key": idempotency_key(self.key_root, program.ids[node], iteration, effect["generation"]),
            "status": str(self.statuses[node]),
            "inputs": effect["inputs"],
            "outputs": effect.get("outputs", {}),
            "error": effect.get("error", {}),
        }
        # Undone work that is done again is other work, whatever becomes of the undo.
        self.generations[node] = max(self.generations.get(node, 0), effect["generation"] + 1)
        self._undoing += 1
        try:
            inputs = {**self._undo_inputs(node, compensation, known), **effect.get("undoInputs", {})}
            failure = None
        except ExpressionError as error:
            inputs, failure = dict(effect.get("undoInputs", {})), error
        data = {"type": compensation["type"], **_named(effect)}
        body = {"undoInputs": inputs}
        if self.statuses[node] is COMPENSATING:  # an earlier generation of the same node
            self._emit(EventType.NODE_COMPENSATING, node, {"status": str(COMPENSATING), **data}, body)
        else:
            self._move_node(node, COMPENSATING, EventType.NODE_COMPENSATING, data, body)
        effect["state"], effect["given"] = "begun", inputs
        if failure is not None and "undoInputs" not in effect:
            place = f"compensation/inputs{failure.pointer or ''} of node {program.ids[node]}"
            self._undo_failed(UndoFailed(program.ids[node], expression_error(place, failure, program.ids[node])))
            return None
        return Undo(node, program.ids[node], compensation, inputs, effect["generation"], known, iteration, below)

    def _undo_inputs(self, node: int, compensation: Mapping[str, Any], undoes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the inputs of a compensation; where it names none, all that is known of the node's work."""
        own: Mapping[str, Any] | None = compensation.get("inputs")
        template = compile_template(own)
        if template is None:
            return {**undoes["inputs"], **undoes["outputs"]} if own is None else own
        names = [name for _, expression in template.expressions for name in expression.references]
        context = self._context([name for name in dict.fromkeys(names) if name in self.program.index])
        context.update(inputs=self._own_inputs(node), outputs=undoes["outputs"], error=undoes["error"], undoes=undoes)
        rendered: Mapping[str, Any] = template.render(context)
        return rendered

    def _undo_refusal(self, name: str, event: UndoSucceeded | UndoFailed) -> ImpossibleMove | None:
        """Return why this cannot be how an undo ended, or None."""
        node = self.program.index.get(event.node)
        if node is None:
            return ImpossibleMove(name, f"node {event.node}", "not in the plan")
        undoing = self.status is RunStatus.COMPENSATING and node in self.effects
        if undoing and self.effects[node][-1].get("state") == "begun":
            return None
        return ImpossibleMove(name, f"node {event.node}", f"{self.statuses[node]} and not being undone")

    def _undo_succeeded(self, event: UndoSucceeded) -> None:
        node = self.program.index[event.node]
        self._undoing -= 1
        self._undone(node, dict(event.notes), {"undoOutputs": event.outputs})

    def _undone(self, node: int, data: dict[str, Any], body: dict[str, Any] | None = None) -> None:
        """The newest effect of a node is undone: what is left of it takes its turn, or the node is clear."""
        effects = self.effects[node]
        data.update(_named(effects.pop()))
        if effects:
            self._emit(EventType.NODE_COMPENSATED, node, {"status": str(self.statuses[node]), **data}, body)
            self._open_turns -= 1
            self._take_turn(node)
            return
        del self.effects[node]
        self._move_node(node, COMPENSATED, EventType.NODE_COMPENSATED, data, body)
        self._open_turns -= 1
        self._clear([node])

    def _undo_failed(self, event: UndoFailed) -> None:
        node = self.program.index[event.node]
        effect = self.effects[node][-1]
        effect["state"] = "failed"
        self._undoing -= 1
        data = {**_named(effect), "errorType": event.error.get("type"), **event.notes}
        kind = EventType.NODE_COMPENSATION_FAILED
        self._move_node(node, COMPENSATION_FAILED, kind, data, {"error": dict(event.error)})
        self._ask_about_undo(node, effect.pop("given", {}), event.error)

    def _ask_about_undo(self, node: int, inputs: Mapping[str, Any], error: Mapping[str, Any]) -> None:
        """Ask a person what to do about an undo that failed for good."""
        name = self.program.nodes[node].get("name", self.program.ids[node])
        self._raise_task(
            node,
            COMPENSATION,
            # Below a container people have decided already.
            ("resolve", "abandon") if "run" in self.effects[node][-1] else ("retry", "resolve", "abandon"),
            error,
            title=safe_text(f"{name} could not be undone", MAX_TITLE),
            description=safe_text(error.get("message") or "", MAX_DESCRIPTION) or None,
            context=inputs,
        )

    def _undo_decided(self, task: OpenTask, event: TaskDecided) -> None:
        """Somebody decided about an undo that failed for good.

        ``retry`` it, under the same key, with ``inputs`` replacing its inputs key by key; ``resolve``: it was done by
        hand; ``abandon``: the effect stays, and so does that of everything the node depends on.
        """
        node = self.program.index[task.node]
        effect = self.effects[node][-1]
        data = {"operator": event.operator, "reason": event.notes, **_named(effect)}
        if event.action == "resolve":
            self._undone(node, {**data, "resolved": True})
        elif event.action == "retry":
            effect["state"] = "again"
            if event.inputs:
                effect["undoInputs"] = {**effect.get("undoInputs", {}), **event.inputs}
            self._await_quiet(node)
        else:
            effect["state"] = "abandoned"
            self._open_turns -= 1
            data = without_none({"status": str(self.statuses[node]), **data, "abandoned": True})
            self._emit(EventType.NODE_COMPENSATION_FAILED, node, data)

    def _undo_summary(self) -> dict[str, Any]:
        """Return what the event of the run's end says about the undo; nothing when there was none."""
        if self.status is not RunStatus.COMPENSATING:
            return {}
        left = [self.program.ids[node] for node in sorted(self.effects)]
        named = {"notUndone": left[:MAX_NAMED], "notUndoneCount": len(left)} if left else {}
        return {"compensated": self.counts.get(COMPENSATED, 0), **named}

    # -- another plan ----------------------------------------------------------------------------------------------

    def _renumber(self, program: Program, to: Sequence[int | None]) -> None:
        before, effects = self.program, self.effects
        super()._renumber(program, to)
        self.effects = {}
        for old, found in effects.items():
            new = to[old]
            assert new is not None, "what has started is not removed"
            by = compensation_of(before, old) if old in before.compensations else None
            after = compensation_of(program, new) if new in program.compensations else None
            self.effects[new] = [e if by in (None, after) or "by" in e else {**e, "by": by} for e in found]

    # -- snapshot, restore -----------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON; effects only where there are any."""
        effects = [[node, [dict(effect) for effect in effects]] for node, effects in self.effects.items()]
        return {**super().snapshot(), **({"effects": effects} if effects else {})}

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        super()._load(snapshot)
        self.effects = {node: [effect.copy() for effect in effects] for node, effects in snapshot.get("effects", ())}


def undoes(data: Mapping[str, Any], effect: Effect) -> bool:
    """Tell whether an event with this data is about the effect."""
    return (data.get("undoes"), data.get("childRunId")) == (effect["generation"], effect.get("run"))


def _named(effect: Effect) -> dict[str, Any]:
    """Return which effect of its node an event is about."""
    run = {"childRunId": effect["run"], "iteration": effect["iteration"]} if "run" in effect else {}
    return {"undoes": effect["generation"], **run}


def compensation_of(program: Program, node: int) -> dict[str, Any]:
    """Return a node's compensation with its retry policy, not the number of it."""
    compensation = program.compensations[node]
    return {**compensation, "retry": program.retries[compensation["retry"]]}


Undoing.alarm_handlers[ALARM] = Undoing._quiet
Undoing.task_deciders[COMPENSATION] = Undoing._undo_decided
