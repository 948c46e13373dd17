"""``dalang events``: what happened in a run, as a list or while it happens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from dalang.commands.runs import RunArgument
from dalang.commands.session import Session, online
from dalang.wire import EventType

app = typer.Typer()

PAGE = 500


@app.command()
@online
def events(
    session: Session,
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    node: Annotated[str | None, typer.Option("--node", help="Only events of this node.")] = None,
    type_: Annotated[
        list[EventType] | None,
        typer.Option("--type", case_sensitive=False, metavar="TYPE", help="Only events of this type; may be repeated."),
    ] = None,
    after: Annotated[
        str | None, typer.Option("--after", metavar="EPOCH.SEQ", help="Only events after this one.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="At most so many; not with --follow.")
    ] = 1_000,
    bodies: Annotated[
        bool, typer.Option("--bodies", help="With inputs, outputs and errors (in JSON); not with --follow.")
    ] = False,
) -> None:
    """Print what happened in a run; with --follow --json one JSON object per line."""
    from dalang.commands.live import event_line

    run_id = session.client.run_id(run)
    types = [str(one) for one in type_ or ()]
    if follow:
        session.stream(_followed(session, run_id, after, node, types), event_line)
        return
    query = {"nodeId": node, "type": types or None, "bodies": "true" if bodies else None}
    place = after

    def listed() -> Iterator[dict[str, Any]]:
        nonlocal place
        for page in session.client.each_page(
            f"/runs/{run_id}/events", "after", limit=limit, size=PAGE, after=after, **query
        ):
            yield from page["items"]
            place = page.get("next")

    if session.json:
        found = list(listed())
        session.emit({"runId": run_id, "items": found, "next": place}, lambda: None)
        return
    session.stream(listed(), event_line)
    if place is not None:
        session.note(f"... and more (--after {place})")


def _followed(
    session: Session, run_id: str, after: str | None, node: str | None, types: list[str]
) -> Iterator[dict[str, Any]]:
    from dalang.commands.watching import follow

    def say(text: str | None) -> None:
        session.note(text or "connected again")

    for event in follow(session.client, run_id, after=after, say=say):
        if node in (None, event.get("nodeId")) and (not types or event["type"] in types):
            yield event
