"""``dalang tasks`` on a real API: what people read, what programs read, exit codes. Facts are made by hand."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from dalang.commands import tasks
from dalang.commands.tasks import Kind, Status
from dalang.stack.supervisor import Stack
from dalang.statuses import TaskKind, TaskStatus
from dalang.store.engine import create_engine, transaction
from dalang.store.tokens import create_token
from tests.cli.conftest import Dalang
from tests.store.task_facts import completed, created, happened, task_id
from tests.store.world import World, begun

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
async def store(here: Stack) -> AsyncIterator[World]:
    """The stack's store, seen from a workflow."""
    engine = create_engine(here.settings.database_url, pooled=False)
    yield World(engine)
    await engine.dispose()


@pytest.fixture
async def run(store: World, monkeypatch: pytest.MonkeyPatch, here: Stack) -> UUID:
    """A run with tasks, of a tenant of its own; commands are those of bob, a manager."""
    tenant = f"cli-{uuid4()}"
    async with transaction(store.engine, tenant) as conn:
        plain, _ = await create_token(conn, tenant, "bob", ["approver"], groups=["managers"])
    monkeypatch.setenv("DALANG_TOKEN", plain)
    made = await store.run(tenant_id=tenant)
    at, text = made.run_id, "# Look\n\n- **really**\n\n\x1b[31mred\u202e"
    facts = [
        created(5, at, "deploy", {"description": text, "form": {"type": "object"}}, priority=3, group="managers"),
        created(6, at, "hers", {"excluded": ["bob"]}, assignee="carol"),
        created(7, at, "late", dueAt=1_000, quorum=2),
        happened(8, "VOTED", at, "late", "PENDING", operator="dora", action="approve"),
        created(9, at, "done"),
        completed(10, at, "done"),
    ]
    await store.flush(made, [*begun(), *facts])
    return at


def rows(text: str) -> list[list[str]]:
    """The cells of a table, by words."""
    return [line.split() for line in text.splitlines()]


def test_statuses_and_kinds_are_those_of_the_server() -> None:
    """The command line, which starts without the models, has lists of its own."""
    assert [str(one) for one in Status] == [str(one) for one in TaskStatus]
    assert [str(one) for one in Kind] == [str(one) for one in TaskKind]


def test_the_inbox_as_a_table_and_as_json(dalang: Dalang, run: UUID) -> None:
    """Open ones by urgency; one's own; those that have ended on demand."""
    said = dalang("tasks", "list")
    assert said.code == 0, said.err
    table = rows(said.out)
    assert table[0] == ["TASK", "STATUS", "PRIO", "TITLE", "FOR", "DUE", "RUN", "AGE"]
    assert [row[4] for row in table[1:]] == ["deploy", "hers", "late"]
    assert "group managers" in said.out
    assert "(overdue)" in said.out

    def nodes(*options: str) -> list[str]:
        return [one["nodeId"] for one in dalang("tasks", "list", *options, "--json").json["items"]]

    assert nodes("--mine") == ["deploy", "late"]
    assert nodes("--overdue") == ["late"]
    assert nodes("--status", "completed") == ["done"]
    assert nodes("--all", "--run", str(run)) == ["done", "late", "hers", "deploy"]
    assert nodes("--assignee", "carol", "--kind", "approval") == ["hers"]
    assert nodes("--kind", "failure", "--group", "x") == []
    assert dalang("tasks", "list", "--status", "lost").code == 2


def test_a_task_is_shown_with_all_that_a_person_decides_by(dalang: Dalang, run: UUID) -> None:
    """Nothing that a stranger wrote steers the terminal."""
    task = str(task_id(run, "deploy"))
    said = dalang("tasks", "show", task[:13])
    assert said.code == 0, said.err
    for part in ("Approve deploy", "- **really**", '"amount": 17', "group managers", "approve, reject, edit", "d" * 64):
        assert part in said.out
    assert not set(said.out) & set("\x1b\u202e")
    assert "2 must approve; so far dora" in dalang("tasks", "show", task_id(run, "late")).out
    done = dalang("tasks", "show", task_id(run, "done"))
    assert "by bob" in done.out
    assert "history" in done.out
    assert dalang("tasks", "show", task, "--json").json["context"] == {"amount": 17}


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("show", "0000dead-beef"), 1, "No human task begins"),
        (("show", "what?"), 2, "no task id"),
        (("approve", "DONE"), 1, "bob decided approve"),
        (("approve", "DEPLOY", "--digest", "e" * 64), 1, "has changed"),
        (("approve", "DEPLOY", "--digest", "nonsense"), 2, "/digest"),
        (("approve", "DEPLOY", "--value", "x"), 2, "--value 'x' is not key=value"),
        (("edit", "DEPLOY"), 2, "--output"),
        (("reject", "HERS"), 1, "Four eyes"),
        (("complete", "DEPLOY", "jump"), 2, "approve, reject, edit"),
        (("delegate", "DEPLOY"), 2, "--to"),
        (("claim", "DEPLOY"), 1, "the run has ended"),
        (("approve", "DEPLOY", "--notes", "go"), 1, "the run has ended"),
    ],
    ids=str,
)
def test_refusals_and_their_exit_codes(
    dalang: Dalang, run: UUID, arguments: tuple[str, ...], code: int, part: str
) -> None:
    """2 is for what was typed wrong, 1 for what cannot be decided; programs read the same as JSON."""
    names = {name.upper(): str(task_id(run, name)) for name in ("deploy", "hers", "done")}
    typed = ["tasks", *(names.get(one, one) for one in arguments)]
    said = dalang(*typed)
    assert said.code == code, said.err
    assert part in said.err
    as_json = dalang(*typed, "--json")
    assert as_json.code == json.loads(as_json.err)["error"]["exitCode"] == code


@pytest.mark.parametrize(
    ("typed", "options", "code"),
    [("n\n", (), 130), ("", (), 130), ("y\n", (), 1), ("", ("--yes",), 1), ("", ("--json",), 1)],
    ids=str,
)
def test_a_person_is_shown_the_task_and_asked(
    dalang: Dalang, run: UUID, monkeypatch: pytest.MonkeyPatch, typed: str, options: tuple[str, ...], code: int
) -> None:
    """Only on a terminal; no, or the end of the input, decides nothing. (1: the run of this test has no workflow.)"""
    monkeypatch.setattr(tasks, "on_terminal", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    said = dalang("tasks", "approve", task_id(run, "deploy"), *options)
    assert said.code == code, said.err
    assert ("approve this?" in said.out) == (not options)
    assert ("Approve deploy" in said.out) == (not options)
    assert ("the run has ended" in said.err) == (code == 1)


def test_a_token_has_groups(dalang: Dalang, store: World) -> None:
    """Made with --group, shown in the list."""
    made: dict[str, Any] = dalang(
        "token", "create", "kim", "--role", "approver", "--group", "b", "--group", "a", "--tenant", "g", "--json"
    ).json
    assert (made["groups"], made["roles"]) == (["a", "b"], ["approver"])
    assert "a, b" in dalang("token", "list", "--tenant", "g").out
