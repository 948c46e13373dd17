"""``dalang tenant`` and ``dalang retention``: what is kept for how long, and erasing everything of a tenant."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from dalang.commands.failures import FAILED, CommandFailure, Usage
from dalang.commands.session import Session, local, online

app = typer.Typer(no_args_is_help=True)
retention = typer.Typer(no_args_is_help=True)

LOOK_SECONDS = 1.0
To = Annotated[Path | None, typer.Option("--to", help="Write the certificate to this file.", show_default=False)]


@app.command()
@online
def erase(
    session: Session,
    tenant: Annotated[str, typer.Argument(help="The tenant of your token, to say that it is meant.")],
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel runs that go on, and wait for their end.")] = False,
    to: To = None,
) -> None:
    """Erase everything of your tenant for ever, but hashes that prove it; takes an admin. Prints what went."""
    body = {"tenantId": tenant, "cancel": cancel}
    while (found := session.client.request("POST", "/erasure", json=body).json())["state"] == "CANCELLING":
        session.note(f"{found['running']} runs are being cancelled.")
        time.sleep(LOOK_SECONDS)
    _tell(session, found, to)


@app.command()
@online
def certificate(session: Session, to: To = None) -> None:
    """Show the certificate of your tenant's last erasure."""
    _tell(session, session.client.get("/erasure"), to)


@app.command()
@local
def check(
    session: Session,
    file: Annotated[Path, typer.Argument(help="A certificate, as `--to` wrote it.")],
    keys: Annotated[
        Path | None, typer.Option("--keys", help="PEM file of the audit keys. Default: those here.", show_default=False)
    ] = None,
) -> None:
    """Check a certificate without a server: with the public audit keys, not with those that stand in it."""
    from dalang.signing import KeyFileError, Keyring, SignatureState

    try:
        known = Keyring.load(keys or session.settings.audit_keys_path)
        found = json.loads(file.read_text(encoding="utf-8"))
        state = known.check(found["certificate"], found["signature"])
    except (KeyFileError, OSError, ValueError, KeyError, TypeError) as error:
        raise Usage(f"{file} cannot be checked: {error}") from None
    if not known:
        raise CommandFailure("NO_KEYS", "There is no audit key here.", hint="Name a file of public keys by --keys.")
    valid = state is SignatureState.VALID
    session.emit(
        {"valid": valid, "state": str(state), "certificate": found["certificate"]},
        lambda: session.out.print("✓ valid" if valid else f"✗ {state}", soft_wrap=True),
    )
    if not valid:
        raise typer.Exit(FAILED)


def _tell(session: Session, found: dict[str, Any], to: Path | None) -> None:
    from dalang.commands.output import table

    if to is not None:
        to.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    rows = [[name, f"{count:,}"] for name, count in found["certificate"]["erased"].items()]

    def show() -> None:
        if found["again"]:
            session.note("There was nothing any more; this is what was erased before.")
        table(session.out, ["TABLE", ">ERASED"], rows)

    session.emit(found, show)


@retention.command("run")
@local
def run_(
    session: Session,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be deleted.")] = False,
) -> None:
    """Delete now what the policy says (DALANG_RETENTION_DAYS), past the API; workers do it by themselves."""
    import asyncio

    from dalang.artifacts import Artifacts
    from dalang.commands.output import moment, table
    from dalang.commands.owner import away
    from dalang.retention import Policy, Retention
    from dalang.store.engine import create_engine
    from dalang.temporal import connect

    settings = session.settings
    url = settings.require_migration_database_url()
    policy = Policy.read(settings.retention_days, settings.retention_tenants)
    if not policy.is_on:
        raise CommandFailure("NO_POLICY", "Runs are kept for ever.", hint="Set DALANG_RETENTION_DAYS.")

    async def work() -> list[Any]:
        engine = create_engine(url, pooled=False)
        try:
            files = Artifacts.of(engine, settings)
            job = Retention(engine, policy, artifacts=files, client=await connect(settings))
            found = await job.due()
            if not dry_run:
                await job.step()
            return found
        finally:
            await engine.dispose()

    with away(url):
        found = asyncio.run(work())
    items = [
        {"tenantId": one.tenant_id, "runs": one.runs, "events": one.events, "before": one.before.isoformat()}
        for one in found
    ]

    def show() -> None:
        rows = [[one["tenantId"], f"{one['runs']:,}", f"{one['events']:,}", moment(one["before"])] for one in items]
        table(session.out, ["TENANT", ">RUNS", ">EVENTS", "ENDED BEFORE"], rows)

    session.emit({"dryRun": dry_run, "items": items}, show)
