"""``dalang logs``: what the handlers of a run logged, as a list or while they do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

import typer

from dalang.commands.failures import Unreachable
from dalang.commands.runs import RunArgument
from dalang.commands.session import Session, online
from dalang.statuses import RUN_ENDS

app = typer.Typer()

PAGE = 500
EVERY_SECONDS = 1.0
LINGER_SECONDS = 2.0
"""So long after a run's end more lines may come: workers write them behind."""


@app.command()
@online
def logs(
    session: Session,
    run: RunArgument,
    node: Annotated[str | None, typer.Option("--node", help="Only lines of this node.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    after: Annotated[
        int | None, typer.Option("--after", min=0, metavar="POSITION", help="Only lines after this one.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="At most so many; not with --follow.")
    ] = 1_000,
) -> None:
    """Print what the handlers of a run logged; with --follow --json one JSON object per line."""
    run_id = session.client.run_id(run)
    if follow:
        session.stream(_followed(session, run_id, node, after), log_line)
        return
    found = session.client.pages(f"/runs/{run_id}/logs", "after", limit=limit, after=after, nodeId=node)

    def show() -> None:
        for line in found["items"]:
            session.out.file.write(log_line(line) + "\n")
        if found["next"] is not None:
            session.note(f"... and more (--after {found['next']})")
        elif not found["items"]:
            if node is not None:
                session.client.get(f"/runs/{run_id}/nodes/{quote(node, safe='')}")  # which says so where there is none
            session.note("Nothing was logged.")

    session.emit({"runId": run_id, **found}, show)


def _followed(session: Session, run_id: str, node: str | None, after: int | None) -> Iterator[dict[str, Any]]:
    from dalang.commands.watching import Patience

    waiting = Patience(run_id, lambda text: session.note(text or "connected again"))
    place, end = after, None
    while True:
        try:
            is_over = session.client.get(f"/runs/{run_id}")["status"] in RUN_ENDS
            page = session.client.get(f"/runs/{run_id}/logs", nodeId=node, after=place, limit=PAGE)
        except Unreachable as error:
            waiting.wait(error)
            continue
        waiting.back()
        yield from page["items"]
        if page["items"]:
            place = page["items"][-1]["position"]
        if page["next"] is not None:
            continue
        if is_over:
            end = end or time.monotonic() + LINGER_SECONDS
            if time.monotonic() >= end:
                return
        time.sleep(EVERY_SECONDS)


def log_line(line: dict[str, Any]) -> str:
    """Return a line as text: time, level, node, attempt from the second on, and what was said; a stack below it."""
    from dalang.commands.output import clock, safe

    attempt = f" #{line['attempt']}" if line["attempt"] > 1 else ""
    said = "\n  ".join(safe(part) for part in line["message"].splitlines()) or ""
    text = f"{clock(line['at'])}  {safe(line['level']):<7}  {safe(line['nodeId'])}{attempt}: {said}"
    stack = [f"  {safe(part)}" for part in (line.get("error") or "").splitlines()]
    return "\n".join([text, *stack])
