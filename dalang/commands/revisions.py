"""Other plans for runs that go on, and the history of a run's plan."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dalang.commands.failures import USAGE, CommandFailure, Usage
from dalang.commands.runs import Reason, RunArgument
from dalang.commands.session import Session, online

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer()

SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@app.command()
@online
def replan(
    session: Session,
    run: RunArgument,
    patch: Annotated[
        str | None, typer.Option("--patch", metavar="FILE", help="What changes: YAML or JSON; - is standard input.")
    ] = None,
    plan: Annotated[str | None, typer.Option("--plan", metavar="FILE", help="The whole plan instead.")] = None,
    revision: Annotated[
        int | None, typer.Option("--revision", min=1, help="Refuse when the plan is at another revision by now.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say whether it could be done.")] = False,
    reason: Reason = None,
) -> None:
    """Let a run go on with another plan: nodes that have not started may be added, removed, changed."""
    if (patch is None) == (plan is None):
        raise Usage("Give either --patch FILE or --plan FILE.")
    run_id = session.client.run_id(run)
    what, file = ("patch", patch) if patch is not None else ("plan", plan)
    body: dict[str, Any] = {what: _document(str(file)), "dryRun": dry_run}
    body |= {key: value for key, value in (("expectedRevision", revision), ("reason", reason)) if value is not None}
    found = session.client.post(f"/runs/{run_id}/replan", body)

    def show() -> None:
        session.out.print(f"{found['message']}: run {run_id} is {found['status']}", soft_wrap=True)
        _changes(session.out, found["diff"])
        for warning in found["warnings"]:
            session.note(f"warning {warning['code']} at {warning['pointer']}: {warning['message']}")

    session.emit(found, show)


@app.command()
@online
def revisions(
    session: Session,
    run: RunArgument,
    number: Annotated[int | None, typer.Argument(metavar="[REVISION]", min=1, help="What this one changed.")] = None,
) -> None:
    """List the revisions of a run's plan, or show what one of them changed."""
    from dalang.commands.output import moment, safe, table

    run_id = session.client.run_id(run)
    if number is not None:
        one = session.client.get(f"/runs/{run_id}/revisions/{number}")
        session.emit(one, lambda: _changes(session.out, one["diff"] or {}))
        return
    found = session.client.get(f"/runs/{run_id}/revisions")
    rows = [
        (
            str(item["revision"]),
            moment(item["at"]),
            safe(item["operator"] or ""),
            _counted(item["changes"]) or "as started",
            safe(item["reason"] or ""),
        )
        for item in found["items"]
    ]
    session.emit(found, lambda: table(session.out, (">REVISION", "AT", "BY", "CHANGES", "REASON"), rows))


def _counted(changes: dict[str, int]) -> str:
    """Return ``{"nodesAdded": 1, "edgesRemoved": 2}`` as ``1 node added, 2 edges removed``."""
    said = []
    for name, count in changes.items():
        noun, _, verb = re.sub("([A-Z])", r" \1", name).lower().partition(" ")
        said.append(f"{count} {noun.removesuffix('s') if count == 1 else noun} {verb}".rstrip())
    return ", ".join(said)


def _changes(out: Console, diff: dict[str, Any]) -> None:
    """Print one line per node, edge and field that changed."""
    from dalang.commands.output import safe

    for kind, noun in (("nodes", "node"), ("edges", "edge")):
        for change, sign in SIGNS.items():
            for name in diff.get(kind, {}).get(change) or ():
                out.print(f"  {sign} {noun} {safe(name)}", soft_wrap=True)
    for name in diff.get("plan") or ():
        out.print(f"  ~ {safe(name)} of the plan", soft_wrap=True)


def _document(path: str) -> dict[str, Any]:
    from dalang.commands.plan_files import read
    from dalang.errors import InvalidDocument
    from dalang.formats import load_document

    data, source = read(path)
    try:
        return dict(load_document(data, name=None if path == "-" else Path(path).name))
    except InvalidDocument as error:
        problems = [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in error.problems]
        raise CommandFailure(
            "INVALID_PATCH", f"{source} cannot be read.", exit_code=USAGE, problems=problems, source=source
        ) from None
