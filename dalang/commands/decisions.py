"""Commands about single nodes of a run: run a failed one again, skip one."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from dalang.commands.plan_files import given_inputs
from dalang.commands.runs import Reason, RunArgument
from dalang.commands.session import Session, online

app = typer.Typer()

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="A node id.", show_default=False)]
NewInputs = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="KEY=VALUE", help="Replaces an input: JSON, else text; @FILE is a file."),
]
Outputs = Annotated[
    list[str] | None,
    typer.Option("--output", metavar="KEY=VALUE", help="An output that stands in for the node's: JSON, else text."),
]


@app.command()
@online
def retry(
    session: Session, run: RunArgument, node: NodeArgument, input_: NewInputs = None, reason: Reason = None
) -> None:
    """Run a failed node again that waits for a decision (failurePolicy: pause), with other inputs if wanted."""
    values = {"inputs": given_inputs(input_, None)} if input_ else {}
    _decide(session, "retry", run, node, values, reason)


@app.command()
@online
def skip(session: Session, run: RunArgument, node: NodeArgument, output: Outputs = None, reason: Reason = None) -> None:
    """Skip a node that has not started, or that failed and waits; outputs let what follows go on."""
    values = {"outputs": given_inputs(output, None)} if output else {}
    _decide(session, "skip", run, node, values, reason)


def _decide(session: Session, decision: str, run: str, node: str, values: dict[str, Any], reason: str | None) -> None:
    run_id = session.client.run_id(run)
    body = {**values, **({"reason": reason} if reason else {})}
    found = session.client.post(f"/runs/{run_id}/nodes/{quote(node, safe='')}/{decision}", body)
    session.emit(
        found, lambda: session.out.print(f"{found['message']}: run {run_id} is {found['status']}", soft_wrap=True)
    )
