"""``dalang episodes``: what was done before under such a name, and how it ended."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from dalang.commands.session import Session, online

app = typer.Typer()


class Outcome(StrEnum):
    """How an execution ended; as ``memory_tables.EPISODE_OUTCOMES``."""

    SUCCESS = "SUCCESS"
    ERROR = "ERROR"
    FAILED = "FAILED"


@app.command()
@online
def episodes(
    session: Session,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORDS", help='All of them; "a phrase", or, -not.', show_default=False)
    ] = None,
    outcome: Annotated[
        list[Outcome] | None, typer.Option("--outcome", case_sensitive=False, help="Only these. May be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="At most so many.")] = 20,
) -> None:
    """Search past executions of nodes by name, outcome and inputs; without words the newest."""
    from dalang.commands.output import age, safe, span, styled, table

    wanted = [str(one) for one in outcome] if outcome else None
    page = session.client.get("/episodes", q=" ".join(words) if words else None, outcome=wanted, limit=limit)

    def show() -> None:
        rows = [
            [
                safe(one["name"]),
                styled(one["outcome"]),
                safe(one["plan"]),
                one["runId"][:8],
                safe(one["nodeId"]),
                span(one["startedAt"], one["endedAt"]),
                f"{age(one['endedAt'])} ago",
            ]
            for one in page["items"]
        ]
        if not rows:
            session.note("Nothing like it was done before.")
            return
        heads = ["EPISODE", "OUTCOME", "PLAN", "RUN", "NODE", ">TOOK", "ENDED"]
        table(session.out, heads, rows, flexible="EPISODE")

    session.emit(page, show)
