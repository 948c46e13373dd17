"""``dalang send``: tell nodes that wait for an event that it has come."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dalang.commands.plan_files import given_inputs
from dalang.commands.session import Session, online

app = typer.Typer()


@app.command()
@online
def send(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The event's name.", show_default=False)],
    key: Annotated[
        str, typer.Option("--key", "-k", help="Its correlation key: which of the events of this name.")
    ] = "",
    payload: Annotated[
        list[str] | None,
        typer.Option(
            "--payload", "-p", metavar="KEY=VALUE", help="An entry of what it brings: JSON, else text; @FILE is a file."
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Only for this run. Default: for every run that waits for it.")
    ] = None,
    event_id: Annotated[
        str | None, typer.Option("--id", help="The same id again is the same event again. Default: a new one.")
    ] = None,
    ttl: Annotated[
        str | None, typer.Option("--ttl", help="How long it is kept for runs that wait later; not with --run.")
    ] = None,
) -> None:
    """Send an event to the nodes that wait for it."""
    body: dict[str, Any] = {"name": name, "correlationKey": key}
    if payload:
        body["payload"] = given_inputs(payload, None, option="--payload")
    if event_id is not None:
        body["eventId"] = event_id
    if run is None:
        found = session.client.post("/events", {**body, **({"ttl": ttl} if ttl else {})})
    elif ttl is not None:
        raise typer.BadParameter("a run keeps what comes early as long as it goes on", param_hint="--ttl")
    else:
        found = session.client.post(f"/runs/{session.client.run_id(run)}/events", body)
    session.emit(found, lambda: session.out.print(f"{found['message']}: {found['eventId']}", soft_wrap=True))
