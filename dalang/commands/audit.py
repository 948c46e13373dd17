"""``dalang audit``: proving that nobody rewrote what a run did."""

from __future__ import annotations

import typer

from dalang.commands.failures import FAILED
from dalang.commands.runs import RunArgument
from dalang.commands.session import Session, online

app = typer.Typer(no_args_is_help=True, help="Prove that nobody rewrote what a run did.")


@app.command()
@online
def verify(session: Session, run: RunArgument) -> None:
    """Compute a run's hash chain again; exit code 1 if an event was changed, removed, added or moved."""
    from rich.text import Text

    run_id = session.client.run_id(run)
    found = session.client.get(f"/runs/{run_id}/verify")

    def show() -> None:
        from dalang.commands.output import safe

        head = found["head"]
        if found["valid"]:
            erased = f", {found['erasedBodies']:,} erased bodies" if found.get("erasedBodies") else ""
            session.out.print(Text.assemble(("✓ intact", "bold green"), f"  {found['events']:,} events{erased}"))
            session.out.print(f"  head {head['epoch']}.{head['seq']}  {head['hash']}", soft_wrap=True)
            session.out.print(f"  signature {_worded(found['signature'])}, Temporal {_worded(found['temporal'])}")
            return
        finding = found["finding"]
        where = f"event {finding['epoch']}.{finding['seq']}"
        line = Text.assemble((f"✗ {finding['what']}", "bold red"), f"  {where}: {safe(finding['message'])}")
        session.out.print(line, soft_wrap=True)

    session.emit(found, show)
    if not found["valid"]:
        raise typer.Exit(FAILED)


@app.command()
@online
def keys(session: Session) -> None:
    """Show the public keys that check signatures: what somebody who checks elsewhere has to be given."""
    from dalang.commands.output import table

    found = session.client.get("/audit/keys")

    def show() -> None:
        if not found["items"]:
            session.note("There are no keys: what runs do is not signed (`DALANG_AUDIT_KEY_FILE`).")
            return
        rows = [[one["keyId"], one["publicKey"], "signs" if one["signs"] else ""] for one in found["items"]]
        table(session.out, ["KEY", "PUBLIC KEY", ""], rows, flexible="PUBLIC KEY")

    session.emit(found, show)


def _worded(state: str) -> str:
    return state.lower().replace("_", " ")
