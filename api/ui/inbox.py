"""``/ui/inbox``: what people are asked; the page of a task shows what a decision about it is about."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response

from dalang.api.auth import Principal
from dalang.api.human_tasks import found_task, person
from dalang.api.task_decisions import check_person
from dalang.api.ui import prose
from dalang.api.ui.forms import fields_of
from dalang.api.ui.marks import KIND_MARKS, words
from dalang.api.ui.pages import Looks, PageRoute
from dalang.api.ui.telling import as_mapping, pretty
from dalang.errors import DalangError
from dalang.statuses import TASK_ENDS, TaskKind
from dalang.store.human_tasks import Task, TaskFilter, count_tasks, history_of_task, list_tasks

router = APIRouter(include_in_schema=False, route_class=PageRoute)

PAGE = 50
VIEWS = ("mine", "groups", "overdue", "open", "decided")
ACTS = {
    "approve": ("Approve", "check", "good"),
    "answer": ("Answer", "check", "good"),
    "edit": ("Approve with changes", "edit", ""),
    "retry": ("Run it again", "retry", "main"),
    "skip": ("Skip it", "skip", ""),
    "resolve": ("It is undone by hand", "check", "good"),
    "reject": ("Reject", "cross", "danger"),
    "abort": ("End the run", "stop", "danger"),
    "abandon": ("Leave it as it is", "cross", "danger"),
}
"""Words, icon and look of each action of a task."""
_TOLD = {
    "HITL_TASK_CREATED": "Asked",
    "HITL_TASK_CLAIMED": "Claimed",
    "HITL_TASK_RELEASED": "Released",
    "HITL_TASK_DELEGATED": "Delegated",
    "HITL_TASK_REMINDED": "Reminded",
    "HITL_TASK_ESCALATED": "Escalated",
    "HITL_TASK_VOTED": "Approved by one",
    "HITL_TASK_COMPLETED": "Decided",
    "HITL_TASK_CANCELLED": "Withdrawn",
    "HITL_TASK_EXPIRED": "Expired",
}


@router.get("/ui/inbox")
async def inbox_page(
    page: Looks,
    view: Annotated[str, Query(max_length=20)] = "mine",
    kind: Annotated[str, Query(max_length=20)] = "",
    cursor: Annotated[str | None, Query(max_length=2_000)] = None,
) -> Response:
    """List tasks: one's own, those of one's groups, late ones, all open ones, decided ones."""
    tenant, view = page.who.tenant_id, view if view in VIEWS else "mine"
    async with page.it.transaction(tenant, snapshot=True) as conn:
        counts = await count_tasks(conn, tenant, person(page.who))
        found = await list_tasks(
            conn,
            tenant,
            _wanted(page.who, view, [one for one in TaskKind if one == kind]),
            newest_first=view == "decided",
            by_due=True,
            limit=PAGE,
            cursor=cursor or None,
        )
    of_groups = sum(counts.by_group.get(group, 0) for group in page.who.groups)
    tabs = [
        ("mine", "For you", counts.mine),
        ("groups", "Your groups", of_groups),
        ("overdue", "Overdue", counts.overdue),
        ("open", "All open", sum(counts.by_group.values())),
        ("decided", "Decided", None),
    ]
    return await page.page(
        "inbox.html",
        title="Inbox",
        section="inbox",
        tasks=found.items,
        next=found.cursor,
        view=view,
        kind=kind,
        kinds=words(KIND_MARKS),
        tabs=[one for one in tabs if one[0] != "groups" or page.who.groups],
    )


def _wanted(who: Principal, view: str, kinds: list[TaskKind]) -> TaskFilter:
    match view:
        case "mine":
            return TaskFilter(mine=person(who), kinds=kinds)
        case "groups":
            return TaskFilter(open=True, groups=who.groups or ("",), kinds=kinds)
        case "overdue":
            return TaskFilter(overdue=True, kinds=kinds)
        case "decided":
            return TaskFilter(open=False, kinds=kinds)
    return TaskFilter(open=True, kinds=kinds)


@router.get("/ui/inbox/{taskId}")
async def task_page(page: Looks, taskId: UUID) -> Response:
    """Show a task: what is proposed, its form, who may decide and by what, what happened to it."""
    who = page.who
    async with page.it.transaction(who.tenant_id) as conn:
        task = await found_task(conn, who, taskId, resolved=True)
        history = await history_of_task(conn, who.tenant_id, task)
    context = as_mapping(task.context)
    decision, error = as_mapping(task.decision), as_mapping(task.error)
    return await page.page(
        "task.html",
        title=task.title,
        section="inbox",
        task=task,
        ended=task.status in TASK_ENDS,
        context=[(name, value, _shown(value)) for name, value in context.items()],
        description=prose.markdown(task.description) if task.description not in (None, error.get("message")) else "",
        error=error,
        fields=fields_of(task.form),
        form=task.form,
        acts=[(one, *ACTS.get(one, (one, "check", ""))) for one in _ordered(task.actions)],
        objection=_objection(page.who, page.may_decide, task),
        decision=decision,
        decided=ACTS.get(str(decision.get("action")), (decision.get("action"),))[0],
        changes=_changes(context, as_mapping(decision.get("outputs") or decision.get("inputs"))),
        history=[(_TOLD.get(one.type, one.type), one, as_mapping(one.body)) for one in history],
        shown={name: getattr(task, name) for name in ("title", "description", "context", "form", "error", "actions")},
    )


def _ordered(actions: list[str]) -> list[str]:
    known = list(ACTS)
    return sorted(actions, key=lambda one: known.index(one) if one in known else len(known))


def _shown(value: Any) -> Any:
    """Return a text as HTML, None for what is shown as JSON."""
    return prose.text(value) if isinstance(value, str) else None


def _objection(who: Principal, may_decide: bool, task: Task) -> str | None:
    """Return why this person may not decide, as REST would say it, or None."""
    if not may_decide:
        return "Your token may read tasks, not decide them."
    try:
        check_person(who, task)
    except DalangError as error:
        return str(error)
    return None


def _changes(before: Any, after: Any) -> list[tuple[str, Any]]:
    """Return what a decision changed, each with the difference."""
    return [
        (name, prose.difference(_text(before.get(name, "")), _text(value)))
        for name, value in after.items()
        if before.get(name) != value
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else pretty(value)
