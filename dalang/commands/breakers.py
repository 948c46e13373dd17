"""``dalang breakers``: whether those whom nodes call are let alone for a while."""

from __future__ import annotations

import uuid
from enum import StrEnum
from typing import Annotated, Any

import typer

from dalang.commands.failures import CommandFailure
from dalang.commands.runs import Reason
from dalang.commands.session import Session, online

app = typer.Typer(no_args_is_help=True)


class State(StrEnum):
    """States of breakers; as ``breaker.BreakerState``."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


BreakerArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="Its key, such as `agent coder`, or its id.", show_default=False)
]


@app.command("list")
@online
def list_(
    session: Session,
    state: Annotated[
        list[State] | None, typer.Option("--state", "-s", case_sensitive=False, help="Only these. May be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many.")] = 100,
) -> None:
    """List the breakers that anything ever failed behind; all others are CLOSED."""
    from dalang.commands.output import age, moment, styled, table

    wanted = [str(one) for one in state] if state else None
    page = session.client.pages("/circuit-breakers", limit=limit, state=wanted)

    def show() -> None:
        rows = [
            [
                one["key"],
                styled(one["state"]),
                str(one["failures"]),
                moment(one["until"]),
                str(one["openings"]),
                "-" if one["lastFailure"] is None else f"{one['lastFailure']} {age(one['lastFailureAt'])} ago",
                one["operator"] or "",
            ]
            for one in page["items"]
        ]
        if not rows:
            session.note("No such breaker: nothing has failed, or all is well again.")
            return
        heads = ["BREAKER", "STATE", ">FAILURES", "UNTIL", ">OPENED", "LAST FAILURE", "BY"]
        table(session.out, heads, rows, flexible="BREAKER")
        if page["next"] is not None:
            session.note("... and more (--limit)")

    session.emit(page, show)


@app.command()
@online
def reset(session: Session, breaker: BreakerArgument, reason: Reason = None) -> None:
    """Close a breaker: everybody passes again."""
    found = _found(session, breaker)
    body = {"reason": reason} if reason else {}
    _tell(session, session.client.post(f"/circuit-breakers/{found['breakerId']}/reset", body))


@app.command("open")
@online
def open_(
    session: Session,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Such as `agent coder`.", show_default=False)],
    duration: Annotated[str | None, typer.Option("--for", metavar="DURATION", help="30s, 2h, at most 7d.")] = None,
    reason: Reason = None,
) -> None:
    """Open a breaker: nobody passes for a while, and nodes that would wait."""
    given = {"key": key, "duration": duration, "reason": reason}
    body = {name: value for name, value in given.items() if value is not None}
    _tell(session, session.client.post("/circuit-breakers/open", body))


def _found(session: Session, breaker: str) -> Any:
    try:
        return session.client.get(f"/circuit-breakers/{uuid.UUID(breaker)}")
    except ValueError:
        items = session.client.get("/circuit-breakers", key=breaker)["items"]
    if not items:
        raise CommandFailure(
            "NOT_FOUND", f"There is no circuit breaker {breaker!r}.", hint="`dalang breakers list` shows them."
        )
    return items[0]


def _tell(session: Session, found: Any) -> None:
    from dalang.commands.output import moment, safe

    until = f" until {moment(found['until'])}" if found["until"] else ""
    session.emit(found, lambda: session.out.print(f"{safe(found['key'])} is {found['state']}{until}"))
