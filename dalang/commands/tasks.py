"""``dalang tasks``: the inbox of human tasks, and deciding them.

A decision carries the digest of what was shown. On a terminal the task is shown and confirmed first; a program, or
``--yes``, decides what stands there at this moment, unless it gives the ``--digest`` of what it has read before.
"""

from __future__ import annotations

import sys
import uuid
from enum import StrEnum
from typing import Annotated, Any

import typer

from dalang.commands.failures import CommandFailure, Usage
from dalang.commands.session import Session, online

app = typer.Typer(no_args_is_help=True)

MAX_SEARCHED = 5_000
"""So many tasks are looked through for the beginning of an id."""


class Status(StrEnum):
    """Statuses of tasks; as ``statuses.TaskStatus``."""

    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class Kind(StrEnum):
    """Kinds of tasks; as ``statuses.TaskKind``."""

    input = "input"
    approval = "approval"
    failure = "failure"
    compensation = "compensation"


TaskArgument = Annotated[
    str,
    typer.Argument(metavar="TASK", help="A task id, the unique beginning of one, or `latest`.", show_default=False),
]
Notes = Annotated[str | None, typer.Option("--notes", "-m", help="Why, for people; it is recorded.")]
Values = Annotated[
    list[str] | None,
    typer.Option("--value", metavar="KEY=VALUE", help="A value that the form asks for: JSON, else text; @FILE."),
]
ValuesFile = Annotated[str | None, typer.Option("--values", metavar="FILE", help="All values: a YAML or JSON object.")]
Outputs = Annotated[
    list[str] | None, typer.Option("--output", metavar="KEY=VALUE", help="An output: JSON, else text; @FILE.")
]
OutputsFile = Annotated[
    str | None, typer.Option("--outputs", metavar="FILE", help="All outputs: a YAML or JSON object.")
]
NewInputs = Annotated[
    list[str] | None, typer.Option("--input", "-i", metavar="KEY=VALUE", help="Of a retry: replaces an input.")
]
Digest = Annotated[
    str | None, typer.Option("--digest", help="Of what you have read; refused when it has changed. Default: now's.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, also not on a terminal.")]


@app.command("list")
@online
def list_(
    session: Session,
    mine: Annotated[
        bool, typer.Option("--mine", help="Yours, and those of nobody or of your groups: what you could decide.")
    ] = False,
    status: Annotated[
        list[Status] | None,
        typer.Option("--status", "-s", case_sensitive=False, help="Default: open ones. May be repeated."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Also those that have ended, the newest first.")] = False,
    kind: Annotated[list[Kind] | None, typer.Option("--kind", case_sensitive=False, help="May be repeated.")] = None,
    assignee: Annotated[str | None, typer.Option("--assignee", help="Only tasks of this person.")] = None,
    group: Annotated[str | None, typer.Option("--group", help="Only tasks that are open to this group.")] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only tasks of this run.")] = None,
    overdue: Annotated[bool, typer.Option("--overdue", help="Only open ones that are past their time.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many.")] = 50,
) -> None:
    """List human tasks that are open, the most urgent first."""
    from dalang.commands.task_show import inbox

    query = {
        "mine": "true" if mine else None,
        "status": [str(one) for one in status] if status else None,
        "kind": [str(one) for one in kind] if kind else None,
        "open": None if all_ or status or mine else "true",
        "order": "newest" if all_ else None,
        "assignee": assignee,
        "group": group,
        "runId": None if run is None else session.client.run_id(run),
        "overdue": "true" if overdue else None,
    }
    page = session.client.pages("/human-tasks", limit=limit, **query)

    def show() -> None:
        inbox(session.out, page["items"])
        if not page["items"]:
            session.note("Nothing waits for anybody." if not mine else "Nothing waits for you.")
        elif page["next"] is not None:
            session.note("... and more (--limit)")

    session.emit(page, show)


@app.command()
@online
def show(session: Session, task: TaskArgument) -> None:
    """Show a task: what is asked and proposed, the form, who may decide, what happened to it."""
    from dalang.commands.task_show import whole

    found = _read(session, task)
    session.emit(found, lambda: whole(session.out, found))


@app.command()
@online
def approve(
    session: Session,
    task: TaskArgument,
    value: Values = None,
    values: ValuesFile = None,
    notes: Notes = None,
    digest: Digest = None,
    yes: Yes = False,
) -> None:
    """Approve what is proposed."""
    _decide(session, task, "approve", {"values": _given(value, values, "value")}, notes, digest, yes)


@app.command()
@online
def reject(
    session: Session,
    task: TaskArgument,
    value: Values = None,
    values: ValuesFile = None,
    notes: Notes = None,
    digest: Digest = None,
    yes: Yes = False,
) -> None:
    """Reject what is proposed."""
    _decide(session, task, "reject", {"values": _given(value, values, "value")}, notes, digest, yes)


@app.command()
@online
def answer(
    session: Session,
    task: TaskArgument,
    value: Values = None,
    values: ValuesFile = None,
    notes: Notes = None,
    digest: Digest = None,
    yes: Yes = False,
) -> None:
    """Answer what the handler of a node asks (tasks of kind input); `reject` declines to."""
    given = {"action": "answer", "values": _given(value, values, "value")}
    _decide(session, task, "complete", given, notes, digest, yes)


@app.command()
@online
def edit(
    session: Session,
    task: TaskArgument,
    output: Outputs = None,
    outputs: OutputsFile = None,
    value: Values = None,
    values: ValuesFile = None,
    notes: Notes = None,
    digest: Digest = None,
    yes: Yes = False,
) -> None:
    """Approve with changed outputs."""
    changed = _given(output, outputs, "output")
    if changed is None:
        raise Usage("An edit changes something.", hint="Give --output KEY=VALUE or --outputs FILE.")
    given = {"outputs": changed, "values": _given(value, values, "value")}
    _decide(session, task, "edit", given, notes, digest, yes)


@app.command()
@online
def complete(
    session: Session,
    task: TaskArgument,
    action: Annotated[str, typer.Argument(metavar="ACTION", help="One of the task's actions: retry, skip, abort, ...")],
    value: Values = None,
    values: ValuesFile = None,
    output: Outputs = None,
    outputs: OutputsFile = None,
    input_: NewInputs = None,
    notes: Notes = None,
    digest: Digest = None,
    yes: Yes = False,
) -> None:
    """Decide by any of the task's actions."""
    given = {
        "action": action,
        "values": _given(value, values, "value"),
        "outputs": _given(output, outputs, "output"),
        "inputs": _given(input_, None, "input"),
    }
    _decide(session, task, "complete", given, notes, digest, yes)


@app.command("approval-token")
@online
def approval_token(
    session: Session,
    task: TaskArgument,
    valid_for: Annotated[str, typer.Option("--valid-for", metavar="DURATION", help="At most 24h.")] = "15m",
    digest: Digest = None,
) -> None:
    """Get a token that lets you decide a task with the `temporal` command line, and the command lines for it."""
    found = _read(session, task)
    body = {"validFor": valid_for, "digest": digest or found["digest"]}
    made = session.client.post(f"/human-tasks/{found['taskId']}/approval-token", body)

    def show() -> None:
        session.note(f"{made['subject']} may decide task {made['taskId']} with it until {made['expiresAt']}.")
        for action, line in made["commands"].items():
            session.note(f"{action}:")
            session.out.print(line, soft_wrap=True, markup=False, highlight=False)

    session.emit(made, show)


@app.command()
@online
def claim(session: Session, task: TaskArgument) -> None:
    """Take a task: it is yours until you decide, release or delegate it."""
    _tell(session, session.client.post(f"/human-tasks/{_id(session, task)}/claim"))


@app.command()
@online
def release(session: Session, task: TaskArgument) -> None:
    """Give a task back."""
    _tell(session, session.client.post(f"/human-tasks/{_id(session, task)}/release"))


@app.command()
@online
def delegate(
    session: Session,
    task: TaskArgument,
    to: Annotated[str | None, typer.Option("--to", metavar="PERSON", help="Whose it is from now on.")] = None,
    group: Annotated[str | None, typer.Option("--group", metavar="GROUP", help="Whose members may decide it.")] = None,
) -> None:
    """Give a task to somebody else, or to a group."""
    if to is None and group is None:
        raise Usage("Nobody is named.", hint="Give --to PERSON, --group GROUP, or both.")
    body = {name: value for name, value in (("to", to), ("toGroup", group)) if value is not None}
    _tell(session, session.client.post(f"/human-tasks/{_id(session, task)}/delegate", body))


def _decide(
    session: Session,
    task: str,
    route: str,
    given: dict[str, Any],
    notes: str | None,
    digest: str | None,
    yes: bool,
) -> None:
    found = _read(session, task)
    if not yes and not session.json and on_terminal():
        from dalang.commands.task_show import whole

        whole(session.out, found)
        typer.confirm(f"{given.get('action', route)} this?", abort=True)
    body = {name: value for name, value in {**given, "notes": notes}.items() if value is not None}
    address = f"/human-tasks/{found['taskId']}/{route}"
    # With a key the client may send it again when the answer was lost: it decides once.
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    _tell(session, session.client.post(address, {**body, "digest": digest or found["digest"]}, headers=headers))


def on_terminal() -> bool:
    """Whether a person is there to be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _given(pairs: list[str] | None, file: str | None, option: str) -> dict[str, Any] | None:
    if not pairs and file is None:
        return None
    from dalang.commands.plan_files import given_inputs

    return given_inputs(pairs or (), file, option=f"--{option}")


def _tell(session: Session, answer: dict[str, Any]) -> None:
    session.emit(answer, lambda: session.out.print(answer["message"], soft_wrap=True))


def _read(session: Session, task: str) -> dict[str, Any]:
    found: dict[str, Any] = session.client.get(f"/human-tasks/{_id(session, task)}")
    return found


def _id(session: Session, text: str) -> str:
    """Return the task id that ``text`` means: an id, the unique beginning of one, or ``latest``."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        pass
    hint = "`dalang tasks list` shows the open ones."
    if text == "latest":
        items = session.client.get("/human-tasks", limit=1, order="newest")["items"]
        if not items:
            raise CommandFailure("NO_TASK", "There is no human task yet.", hint=hint)
        return str(items[0]["taskId"])
    start = text.lower()
    if not start or set(start) - set("0123456789abcdef-"):
        raise Usage(f"{text!r} is no task id: a UUID, the beginning of one, or `latest`.", hint=hint)
    tasks = session.client.pages("/human-tasks", limit=MAX_SEARCHED, order="newest")["items"]
    found = [one["taskId"] for one in tasks if one["taskId"].startswith(start)]
    if not found:
        raise CommandFailure("NO_TASK", f"No human task begins with {text!r}.", hint=hint)
    if len(found) > 1:
        listed = ", ".join(found[:5]) + (" ..." if len(found) > 5 else "")
        raise Usage(f"{len(found)} tasks begin with {text!r}: {listed}", hint="Give more characters.", code="AMBIGUOUS")
    return str(found[0])
