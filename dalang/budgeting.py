"""Budgets of a run: what it may use of tokens, cost, nodes and time, and the pause when that is spent.

A budget never stops what is at work: a run whose budget is spent is PAUSED when the next node would begin, or at the
moment its time is up. Raising the budget lets it go on. What ends a run - ``finally`` nodes, compensations - is done
whatever it costs. What a run below a node used is known, and counted, when that has ended.

The tenant's budget of the day is counted where events are stored; the driver tells of it by
:class:`~dalang.events.TenantBudgetSpent`, and the pause ends with the day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dalang.events import BudgetRaised, TenantBudgetSpent
from dalang.instants import format_instant
from dalang.program import Program
from dalang.statuses import RUN_ENDS, ImpossibleMove, NodeStatus, RunStatus, UnacceptableContent
from dalang.undoing import Undoing
from dalang.usage import COST, NODES, TOKENS, WALL_TIME, added, usage_of
from dalang.wire import EventType

MEASURES = (TOKENS, COST, NODES, WALL_TIME)
ALARM = "budget"
TENANT = "tenant"
"""Subject of the alarm at which the tenant's day is over, and what a run is short of then."""


class Budgeting(Undoing):
    """A run's state with what it has used.

    ``spent`` holds tokens, cost and nodes; ``raised`` the limits that somebody set in place of the plan's; ``short`` is
    what the run is paused for: a measure, or :data:`TENANT`.
    """

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        super().__init__(program, inputs, about, max_in_flight)
        self.spent: dict[str, Any] = {}
        self.raised: dict[str, Any] = {}
        self.short: str | None = None
        self._budget_since: int | None = None

    @property
    def budget(self) -> dict[str, Any]:
        """The limits that hold now, by measure; wallTime in milliseconds."""
        return {**self.program.document.get("budget", {}), **self.raised}

    # -- counting --------------------------------------------------------------------------------------------------

    def _spend(self, notes: Mapping[str, Any]) -> None:
        """Count what the end of an attempt, or of a run below a node, tells of."""
        used = usage_of(notes.get("usage"), nodes="childRunId" in notes)
        if used:
            self.spent = added(self.spent, used)

    def _move_node(
        self, node: int, to: NodeStatus, kind: EventType, data: Mapping[str, Any], body: dict[str, Any] | None = None
    ) -> None:
        super()._move_node(node, to, kind, data, body)
        if kind is EventType.NODE_STARTED:
            self.spent[NODES] = self.spent.get(NODES, 0) + 1

    def _keep_time(self) -> None:
        """Set the alarm for the end of the run's time, which counts from the run's beginning."""
        limit = self.budget.get(WALL_TIME)
        self._drop_alarms(WALL_TIME)
        if limit is None:
            return
        if self._budget_since is None:  # of a run that had no such budget before a revision of its plan
            self._budget_since = self._at
        if self._budget_since + limit > self._at:
            self._set_alarm(self._budget_since + limit, ALARM, WALL_TIME)

    def _amount(self, measure: str) -> Any:
        if measure == WALL_TIME:
            return 0 if self._budget_since is None else self._at - self._budget_since
        return self.spent.get(measure, 0)

    def _spent_up(self) -> str | None:
        """Return the first measure of which nothing is left."""
        limits = self.budget
        return next((one for one in MEASURES if one in limits and self._amount(one) >= limits[one]), None)

    # -- pausing ---------------------------------------------------------------------------------------------------

    def _may_be_held(self) -> bool:
        going = self.status in (RunStatus.RUNNING, RunStatus.AWAITING_HITL)
        return going and self.ending is None and not self.closing

    def _is_held_back(self) -> bool:
        """Whether the next node may not begin because of the budget; the run is paused if nothing can change that."""
        if not self._may_be_held() or not self.budget:
            return False
        measure = self._spent_up()
        queued = self.counts.get(NodeStatus.QUEUED, 0)
        if measure is None:
            # Nodes that wait for a lease will begin: no more are let wait than may.
            return queued > 0 and self.spent.get(NODES, 0) + queued >= self.budget.get(NODES, float("inf"))
        if self._next_startable() is not None or queued:
            self._hold_for(measure, self.budget[measure], self._amount(measure), "run")
        return True

    def _hold_for(self, measure: str, limit: Any, spent: Any, scope: str, until: int | None = None) -> None:
        of_whom = "the run's budget" if scope == "run" else "the tenant's budget of the day"
        told = {"scope": scope, "measure": measure, "limit": limit, "spent": spent}
        data: dict[str, Any] = {"reason": f"{of_whom} is spent: {measure}", "budget": told}
        if until is not None:
            data["until"] = format_instant(until)
        self._move_run(RunStatus.PAUSED, EventType.PLAN_PAUSED, data)
        self.short = measure if scope == "run" else TENANT

    def _move_run(
        self, to: RunStatus, kind: EventType, data: dict[str, Any], body: dict[str, Any] | None = None
    ) -> None:
        super()._move_run(to, kind, data, body)
        if self.short is not None:
            self.short = None
            self._drop_alarms(TENANT)

    def _ring_budget(self, subject: str) -> None:
        if subject == TENANT:
            if self.short == TENANT and self.status is RunStatus.PAUSED:
                self._move_run(RunStatus.RUNNING, EventType.PLAN_RESUMED, {"reason": "another day has begun"})
        elif self._may_be_held() and self._spent_up() == WALL_TIME:
            self._hold_for(WALL_TIME, self.budget[WALL_TIME], self._amount(WALL_TIME), "run")

    def _short_refusal(self, name: str) -> ImpossibleMove | None:
        """Return why a run that is paused for its own budget cannot just go on."""
        measure = None if self.short in (None, TENANT) else self._spent_up()
        if measure is None:
            return None
        return ImpossibleMove(name, "the run", f"{self.status} until its budget is raised ({measure})")

    def _tenant_spent(self, event: TenantBudgetSpent) -> None:
        if self._may_be_held() and event.until > self._at:
            self._hold_for(event.measure, event.limit, event.spent, "tenant", event.until)
            self._set_alarm(event.until, ALARM, TENANT)

    # -- raising ---------------------------------------------------------------------------------------------------

    def _raise_refusal(self, name: str, event: BudgetRaised) -> ImpossibleMove | None:
        if self.status in RUN_ENDS or self.status is RunStatus.PENDING:
            return ImpossibleMove(name, "the run", self.status)
        if not event.limits():
            return UnacceptableContent(name, f"one of {', '.join(MEASURES)} is needed")
        return None

    def _raise_budget(self, event: BudgetRaised) -> None:
        self.raised = {**self.raised, **event.limits()}
        data = {"status": str(self.status), "budget": self.budget, "operator": event.operator, "reason": event.reason}
        self._emit(EventType.BUDGET_RAISED, None, {key: value for key, value in data.items() if value is not None})
        self._keep_time()
        if self.short not in (None, TENANT) and self._spent_up() is None and not self.holding:
            self._move_run(RunStatus.RUNNING, EventType.PLAN_RESUMED, {"operator": event.operator})

    # -- keeping ---------------------------------------------------------------------------------------------------

    def _renumber(self, program: Program, to: Sequence[int | None]) -> None:
        super()._renumber(program, to)
        self._keep_time()

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON; what was spent only where somebody may ask for it."""
        own: dict[str, Any] = {}
        if self.budget or self.spent.keys() - {NODES}:
            own = {"spent": dict(self.spent), "budgetSince": self._budget_since}
        if self.raised:
            own["raised"] = dict(self.raised)
        if self.short is not None:
            own["short"] = self.short
        return {**super().snapshot(), **own}

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        super()._load(snapshot)
        self.spent, self.raised = dict(snapshot.get("spent", {})), dict(snapshot.get("raised", {}))
        self.short, self._budget_since = snapshot.get("short"), snapshot.get("budgetSince")


Budgeting.alarm_handlers[ALARM] = Budgeting._ring_budget
