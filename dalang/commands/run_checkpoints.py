"""``dalang checkpoints``: named points of runs that a redrive can start from."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from dalang.commands.failures import Usage
from dalang.commands.runs import RunArgument, point_in_time
from dalang.commands.session import Session, online

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The checkpoint's name.", show_default=False)]


@app.command()
@online
def create(
    session: Session,
    run: RunArgument,
    name: Name,
    note: Annotated[str, typer.Option("--note", help="What it is good for.")] = "",
) -> None:
    """Name what a run has come to by now."""
    run_id = session.client.run_id(run)
    made = session.client.post(f"/runs/{run_id}/checkpoints", {"name": name, "note": note})
    session.emit(made, lambda: session.out.print(f"{name}: after event {made['eventId']} of run {run_id}"))


@app.command("list")
@online
def list_(session: Session, run: RunArgument) -> None:
    """List a run's checkpoints, the oldest first."""
    from dalang.commands.output import age, table

    found = session.client.get(f"/runs/{session.client.run_id(run)}/checkpoints")

    def show() -> None:
        rows = [
            [
                one["name"],
                one["eventId"],
                str(sum(one["nodeStatusCounts"].get(status, 0) for status in ("SUCCESS", "ERROR", "SKIPPED"))),
                age(one["createdAt"]),
                one["createdBy"],
                one["note"],
            ]
            for one in found["items"]
        ]
        if rows:
            table(session.out, ["CHECKPOINT", "EVENT", ">NODES DONE", ">AGE", "BY", "NOTE"], rows, flexible="NOTE")
        else:
            session.note("No checkpoint yet; `dalang checkpoints create RUN NAME` makes one.")

    session.emit(found, show)


@app.command()
@online
def delete(
    session: Session,
    run: RunArgument,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The checkpoint's name.")] = None,
    before: Annotated[
        str | None, typer.Option("--before", help="All that are older: 2h, 7d, or a date or time (RFC 3339).")
    ] = None,
) -> None:
    """Delete a checkpoint, or all of a run that are older than a time."""
    run_id = session.client.run_id(run)
    if (name is None) == (before is None):
        raise Usage("Give either a NAME or --before.")
    if name is not None:
        session.client.request("DELETE", f"/runs/{run_id}/checkpoints/{quote(name, safe='')}")
        found = {"deleted": 1}
    else:
        older = {"before": point_in_time(before, "--before")}
        found = session.client.request("DELETE", f"/runs/{run_id}/checkpoints", params=older).json()
    session.emit(found, lambda: session.out.print(f"{found['deleted']} deleted"))
