"""``dalang budget``: what runs, and the tenant on one day, may use, and have used."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dalang.commands.failures import Usage
from dalang.commands.runs import Reason, RunArgument
from dalang.commands.session import Session, online

app = typer.Typer(no_args_is_help=True)

MaybeRun = Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run; else the tenant's day.")]
Tokens = Annotated[int | None, typer.Option(min=0, help="Tokens that nodes report.", show_default=False)]
Cost = Annotated[float | None, typer.Option(min=0, help="Cost that nodes report.", show_default=False)]
Nodes = Annotated[int | None, typer.Option(min=0, help="Starts of nodes.", show_default=False)]
Wall = Annotated[str | None, typer.Option(help="Time, such as 90m.", show_default=False)]


@app.command()
@online
def show(session: Session, run: MaybeRun = None) -> None:
    """Show the budget of a run, or of the tenant today, and what of it is used."""
    from dalang.commands.output import table

    address = "/budgets" if run is None else f"/runs/{session.client.run_id(run)}/budget"
    found = session.client.get(address)

    def show() -> None:
        rows = []
        for measure in ("tokens", "cost", "nodes", "wallTimeMs"):
            limit, used = found["budget"].get(measure), found["used"].get(measure)
            rows.append([measure, f"{used or 0:,}", "no limit" if limit is None else f"{limit:,}"])
        table(session.out, ["MEASURE", ">USED", ">BUDGET"], rows)

    session.emit(found, show)


@app.command("raise")
@online
def raise_(
    session: Session,
    run: RunArgument,
    tokens: Tokens = None,
    cost: Cost = None,
    nodes: Nodes = None,
    wall_time: Wall = None,
    reason: Reason = None,
) -> None:
    """Give a run another budget; one that was paused because its budget was spent goes on."""
    limits = _limits(tokens, cost, nodes, wall_time)
    run_id = session.client.run_id(run)
    body = {**limits, **({"reason": reason} if reason else {})}
    found = session.client.request("PATCH", f"/runs/{run_id}/budget", json=body).json()
    session.emit(
        found, lambda: session.out.print(f"{found['message']}: run {run_id} is {found['status']}", soft_wrap=True)
    )


@app.command("set")
@online
def set_(
    session: Session, tokens: Tokens = None, cost: Cost = None, nodes: Nodes = None, wall_time: Wall = None
) -> None:
    """Set what the tenant may use on a day, all lines of it; needs the role admin."""
    limits = _limits(tokens, cost, nodes, wall_time)
    found = session.client.request("PUT", "/budgets", json=limits).json()
    session.emit(found, lambda: session.out.print("The tenant's budget of the day is set", soft_wrap=True))


@app.command()
@online
def clear(session: Session) -> None:
    """Let the tenant use as much as it likes; needs the role admin."""
    session.client.request("DELETE", "/budgets")
    session.emit({}, lambda: session.out.print("The tenant has no budget of the day any more", soft_wrap=True))


def _limits(tokens: int | None, cost: float | None, nodes: int | None, wall_time: str | None) -> dict[str, Any]:
    given = {"tokens": tokens, "cost": cost, "nodes": nodes, "wallTime": wall_time}
    limits = {name: limit for name, limit in given.items() if limit is not None}
    if not limits:
        raise Usage("Say which limit: --tokens, --cost, --nodes, --wall-time.")
    return limits
