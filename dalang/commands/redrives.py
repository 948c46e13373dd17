"""Starting finished runs again, and ending runs by force."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import typer

from dalang.commands.failures import Usage
from dalang.commands.plan_files import given_inputs
from dalang.commands.runs import IdempotencyKey, Reason, RunArgument, watch_to_end
from dalang.commands.session import Session, online

app = typer.Typer()


@app.command()
@online
def redrive(
    session: Session,
    run: RunArgument,
    from_: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="NODE", help="Runs again, with all that follows it. Default: the failed nodes."),
    ] = None,
    input_: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="NODE:KEY=VALUE", help="Replaces an input: JSON, else text."),
    ] = None,
    inputs: Annotated[
        str | None, typer.Option("--inputs", metavar="FILE", help="The same as an object by node id: YAML or JSON.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Of the run: what ended after it runs again, too.")
    ] = None,
    reason: Reason = None,
    watch: Annotated[bool, typer.Option("--watch", "--wait", help="Watch the new run to its end.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> None:
    """Start a finished run again as a new one: what failed and what follows it runs, everything else is kept."""
    run_id = session.client.run_id(run)
    changes = _changes(given_inputs(input_ or (), None), given_inputs((), inputs))
    wanted = {"from": from_, "inputs": changes, "checkpoint": checkpoint, "reason": reason}
    body = {key: value for key, value in wanted.items() if value}
    headers = {"Idempotency-Key": idempotency_key or f"cli-{uuid.uuid4()}"}
    begun = session.client.post(f"/runs/{run_id}/redrive", body, headers=headers)
    if watch:
        raise typer.Exit(watch_to_end(session, begun["runId"], None))
    session.emit(begun, lambda: session.out.print(begun["runId"], soft_wrap=True))
    session.note(f"`dalang watch {begun['runId'][:8]}` follows it.")


@app.command()
@online
def terminate(session: Session, run: RunArgument, reason: Reason = None) -> None:
    """End a run by force when a cancel is not taken; what it did is undone by another run."""
    run_id = session.client.run_id(run)
    found = session.client.post(f"/runs/{run_id}/terminate", {"reason": reason} if reason else {})
    done = f"{found['message']}: run {run_id} is {found['status']}"
    session.emit(found, lambda: session.out.print(done, soft_wrap=True))


def _changes(pairs: dict[str, Any], file: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the changed inputs by node id; ``NODE:KEY`` wins over the file."""
    changes: dict[str, dict[str, Any]] = {}
    for node, own in file.items():
        if not isinstance(own, dict):
            raise Usage(f"The file of --inputs has an object of inputs for each node; {node!r} has none.")
        changes[node] = dict(own)
    for name, value in pairs.items():
        node, colon, key = name.rpartition(":")
        if not (node and colon and key):
            raise Usage(f"--input {name!r} lacks the node: --input NODE:KEY=VALUE.")
        changes.setdefault(node, {})[key] = value
    return changes
