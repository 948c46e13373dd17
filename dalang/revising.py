"""Another plan for a run that goes on: what a revision may change, and what the run is afterwards.

DESIGN section 4, issue 3: what has started or finished is immutable. A node that waits, be it for a lease, may be
changed, removed, or depend on others; a node that failed and waits for a decision may be replaced, and then runs
again. An edge belongs to its target: edges into nodes that wait may come and go, even where they lead from a node that
has ended, and are decided right away then, as if they had been there when it ended; edges into nodes that have started
may not.

The change is atomic: one event, after which everything of the run goes by the numbers of the new program.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dalang.containers import Containers
from dalang.events import PlanRevised, SkipRequested
from dalang.program import Program
from dalang.program_changes import Changes, changes
from dalang.run_state import BLOCKED, DEAD, LIVE, PENDING
from dalang.statuses import NODE_ENDS, ImpossibleMove, NodeStatus, RunStatus
from dalang.wire import EventType

MAX_CLASHES = 100
"""So many reasons of a refusal are told."""
_REVISABLE = (RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.AWAITING_HITL, RunStatus.REPLANNING)

Clash = dict[str, str]
"""``{nodeId or edgeId, message}``: what of a revision does not fit what has happened."""


class RevisionRefused(ImpossibleMove):
    """The revision changes what has happened already; ``clashes`` are all the places."""

    def __init__(self, event: str, clashes: list[Clash]) -> None:
        first = clashes[0]
        subject = f"node {first['nodeId']}" if "nodeId" in first else f"edge {first['edgeId']}"
        super().__init__(event, subject, first["message"].removeprefix("is "))
        self.clashes = clashes


class Revising(Containers):
    """A run's state with its revisions. ``revision`` counts from 1, the plan that the run was started with."""

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        super().__init__(program, inputs, about, max_in_flight)
        self.revision = 1
        self.plan_digest: str | None = None
        self._skipped_by_hand: list[int] = []

    # -- keeping outputs while a revision is made -----------------------------------------------------------------

    def retain(self) -> None:
        """Keep outputs and errors that nobody reads, until :meth:`release`: a revision in the making may read them."""
        self._retaining += 1

    def release(self) -> None:
        """End :meth:`retain`."""
        self._retaining -= 1
        self._forget_unread()

    def _forget_unread(self) -> None:
        for kept in (self.outputs, self.errors):
            for node in [node for node in kept if not self._is_read(node)]:
                del kept[node]

    # -- may it be -------------------------------------------------------------------------------------------------

    def revisable(self, name: str, base: int | None = None) -> ImpossibleMove | None:
        """Return why the plan cannot change now, whatever the change, or None; ``base`` is the revision meant."""
        if self.status not in _REVISABLE or self.ending or self.closing:
            ending = self.ending or self.closing
            return ImpossibleMove(name, "the run", "ending" if ending and not self._has_ended() else self.status)
        if self.program.repeat is not None or isinstance(self.program.document.get("outputs"), str):
            return ImpossibleMove(name, "the plan", "made of the one node of a map or loop; revise the parent's")
        if base is not None and base != self.revision:
            return ImpossibleMove(name, "the plan", f"at revision {self.revision}, not at {base}")
        return None

    def _has_ended(self) -> bool:
        return self.status in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)

    def _revise_refusal(self, name: str, event: PlanRevised) -> ImpossibleMove | None:
        refusal = self.revisable(name, event.base)
        if refusal is not None:
            return refusal
        found = []
        for clash in self._clashes(event, changes(self.program, event.program)):
            found.append(clash)
            if len(found) == MAX_CLASHES:
                break
        return RevisionRefused(name, found) if found else None

    def _clashes(self, event: PlanRevised, change: Changes) -> Iterator[Clash]:
        old, new = self.program, event.program
        waits = [self._waits(node) for node in range(len(old.ids))]
        for node, node_id in enumerate(old.ids):
            if node_id not in new.index and self._has_started(node):
                yield {"nodeId": node_id, "message": f"{self._said(node)}, so it cannot be removed"}
            elif node_id in change.nodes and not waits[node]:
                yield {"nodeId": node_id, "message": f"{self._said(node)}, so it cannot change"}
        kept = set(change.kept.values())
        seen: set[str] = set()
        for edge, edge_id in enumerate(old.edge_ids):
            target = old.targets[edge]
            if edge not in kept and not waits[target] and old.ids[target] in new.index:
                seen.add(edge_id)
                yield {"edgeId": edge_id, "message": f"is fixed: its target {old.ids[target]} {self._said(target)}"}
        for edge in change.fresh:
            target_id, edge_id = new.ids[new.targets[edge]], new.edge_ids[edge]
            number = old.index.get(target_id)
            if number is not None and not waits[number] and edge_id not in seen:
                yield {"edgeId": edge_id, "message": f"is too late: its target {target_id} {self._said(number)}"}
        for node_id in change.needed():
            node = old.index[node_id]
            if not self._is_known(node, event.known.get(node_id, {})):
                yield {
                    "nodeId": node_id,
                    "message": "is read by the revision, but what it put out is not kept any more",
                }

    def _waits(self, node: int) -> bool:
        """Whether the node has yet to begin, or to be decided about."""
        return self.statuses[node] is PENDING or node in self.awaiting or self._is_queued(node)

    def _has_started(self, node: int) -> bool:
        """Whether the node ever started: one that waits to be run again did."""
        if self._is_queued(node):
            return node in self.attempts or node in self.generations
        return self.statuses[node] is not PENDING or node in self.given or node in self.generations

    def _said(self, node: int) -> str:
        status = self.statuses[node]
        return "is one that was started before" if status is PENDING else f"is {status}"

    def _is_known(self, node: int, known: Mapping[str, Any]) -> bool:
        status = self.statuses[node]
        if status is NodeStatus.SUCCESS:
            return node in self.outputs or "outputs" in known
        if status is NodeStatus.ERROR:
            return node in self.outputs or node in self.errors or bool(known)
        return True

    # -- what it does ----------------------------------------------------------------------------------------------

    def _revise(self, event: PlanRevised) -> None:
        old, new = self.program, event.program
        change = changes(old, new)
        self._leave_queue(change)
        again = [node_id for node_id in old.ids if self._runs_anew(node_id, change)]
        edges = bytearray(len(new.edge_ids))
        for number, before in change.kept.items():
            edges[number] = self.edges[before]
        self._renumber(new, [new.index.get(node_id) for node_id in old.ids])
        self.edges = edges
        for node_id in again:
            node = new.index[node_id]
            self.given.pop(node, None)
            self.overrides.pop(node, None)
            self._starts_again(node, as_other_work=True)
            # Other work than before: a service that remembers the key must not answer with the old result.
            self.generations[node] = self.generations.get(node, 0) + 1
        self._learn(event.known)
        self._index()
        self._tell(event)
        for node_id in again:
            self._begin_anew(new.index[node_id], event)
        self._take_failures(change.fresh, event)
        self._resolved.extend((edge, self._late(edge)) for edge in change.fresh if self._is_over(new.sources[edge]))
        self._settle()
        for node in range(new.first_finally):
            self._decide_join(node)
        self._settle()
        self._forget_unread()

    def _runs_anew(self, node_id: str, change: Changes) -> bool:
        """Whether a node that started before, and waits for a slot or a decision now, is another one."""
        node = self.program.index[node_id]
        return self._waits(node) and self._has_started(node) and change.is_changed(node_id)

    def _leave_queue(self, change: Changes) -> None:
        """Let nodes that wait for a lease and are others now, or are gone, ask for nothing as what they were."""
        for node in [node for node in self.waits if self._is_queued(node)]:
            node_id = self.program.ids[node]
            if node_id in change.after.index and not change.is_changed(node_id):
                continue
            anew = not self._has_started(node)
            self._dequeue(node, "replaced")
            if anew:
                del self.given[node]

    def _learn(self, known: Mapping[str, Mapping[str, Any]]) -> None:
        """Take what ended nodes put out from the store, where it was dropped because nobody read it."""
        for node_id, values in known.items():
            node = self.program.index.get(node_id)
            if node is None or self.statuses[node] not in NODE_ENDS:
                continue
            if "outputs" in values and self.statuses[node] is not NodeStatus.FAILED:
                self.outputs.setdefault(node, values["outputs"])
            if "error" in values and self.statuses[node] in (NodeStatus.ERROR, NodeStatus.FAILED):
                self.errors.setdefault(node, values["error"])

    def _is_over(self, node: int) -> bool:
        return self.statuses[node] in NODE_ENDS and node not in self.awaiting

    def _tell(self, event: PlanRevised) -> None:
        self.revision += 1
        self.plan_digest = event.digest
        data = {
            "revision": self.revision,
            "plan": event.digest,
            "nodes": len(event.program.ids),
            "edges": len(event.program.edge_ids),
            "changes": dict(event.counts),
            "operator": event.operator,
            "reason": event.reason,
        }
        data = {key: value for key, value in data.items() if value is not None}
        self._announce(event, data, {"diff": event.diff})

    def _announce(self, event: PlanRevised, data: dict[str, Any], body: dict[str, Any]) -> None:
        self._emit(EventType.PLAN_REVISED, None, data, body)

    def _begin_anew(self, node: int, event: PlanRevised) -> None:
        """Let a node that was replaced wait for its turn again."""
        self.errors.pop(node, None)
        self._starts_again(node, as_other_work=True)
        if self.statuses[node] is PENDING:
            return
        data = {"generation": self.generations[node], "operator": event.operator, "reason": "replaced"}
        self._move_node(node, PENDING, EventType.NODE_RETRY_REQUESTED, data)
        self._decided(node, event.operator)

    def _take_failures(self, fresh: Sequence[int], event: PlanRevised) -> None:
        """Let a new ``error`` edge take the failure of a node that waits for a decision."""
        program = self.program
        taken: dict[int, dict[int, int]] = {}
        for edge in fresh:
            source = program.sources[edge]
            error = self.errors.get(source)
            if source in self.awaiting and error is not None and program.is_error_port(edge):
                taken.setdefault(source, {})[edge] = self._weigh(edge, {}, error)
        for node, weighed in taken.items():
            if LIVE not in weighed.values():
                continue
            body = {"error": self.errors[node]}
            self._move_node(node, NodeStatus.ERROR, EventType.NODE_ERROR, {"operator": event.operator}, body)
            self._let_go(node)
            self._decided(node, event.operator)
            self._resolved.extend((edge, weighed.get(edge, DEAD)) for edge in program.edges_out[node])

    def _late(self, edge: int) -> int:
        """Return what would have become of an edge when its source ended, had it been there."""
        source = self.program.sources[edge]
        status = self.statuses[source]
        if status is NodeStatus.SUCCESS or (
            status in (NodeStatus.SKIPPED, NodeStatus.ERROR) and source in self.outputs
        ):  # skipped with substituted outputs; failed with fallback outputs
            return self._lit(edge, self.outputs.get(source, {}))
        if status is NodeStatus.SKIPPED:
            upstream = self._blocked[source] > 0 and source not in self._skipped_by_hand
            return BLOCKED if upstream else DEAD
        if status is NodeStatus.ERROR:
            port = self.program.is_error_port(edge)
            return self._weigh(edge, {}, self.errors.get(source, {})) if port else DEAD
        return BLOCKED

    # -- keeping track ---------------------------------------------------------------------------------------------

    def _skip(self, event: SkipRequested) -> None:
        super()._skip(event)
        if event.outputs is None:
            self._skipped_by_hand.append(self.program.index[event.node])

    def _renumber(self, program: Program, to: Sequence[int | None]) -> None:
        super()._renumber(program, to)
        self._skipped_by_hand = [new for node in self._skipped_by_hand if (new := to[node]) is not None]

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON; of revisions only where there were any."""
        kept: dict[str, Any] = {}
        if self.revision > 1:
            kept["revision"] = [self.revision, self.plan_digest]
        if self._skipped_by_hand:
            kept["skippedByHand"] = list(self._skipped_by_hand)
        return {**super().snapshot(), **kept}

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        super()._load(snapshot)
        self.revision, self.plan_digest = snapshot.get("revision", (1, None))
        self._skipped_by_hand = list(snapshot.get("skippedByHand", ()))
