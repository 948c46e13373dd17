"""``dalang up``, ``worker``, ``api``, ``db upgrade``: running the product."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dalang.commands.session import Home, Session, local

if TYPE_CHECKING:
    from dalang.reconciliation import Reconciled
    from dalang.settings import Settings

app = typer.Typer()
database = typer.Typer(no_args_is_help=True)

Port = typer.Option(min=1, max=65535, show_default=False)


@app.command()
def up(
    home: Home = None,
    api_port: Annotated[int | None, Port] = None,
    postgres_port: Annotated[int | None, Port] = None,
    temporal_port: Annotated[int | None, Port] = None,
    temporal_ui_port: Annotated[int | None, Port] = None,
    node_modules: Annotated[
        str | None,
        typer.Option(help="Python modules, by commas, that register node types and agents.", show_default=False),
    ] = None,
) -> None:
    """Run everything on this machine until Ctrl-C: PostgreSQL, Temporal, a worker and the API.

    Data stays in the home folder (.dalang); the next start goes on with runs that were in flight.
    """
    import asyncio

    from dalang.settings import Settings
    from dalang.stack.up import up as run

    given: dict[str, Any] = {
        "api_port": api_port,
        "postgres_port": postgres_port,
        "temporal_port": temporal_port,
        "temporal_ui_port": temporal_ui_port,
        "node_modules": node_modules,
    }
    asyncio.run(run(Settings.load(home=home, running_stack=False, **given)))


@app.command()
def worker(home: Home = None) -> None:
    """Run one worker until SIGTERM, which lets what runs end. Any number may run."""
    _become("worker", home)


@app.command()
def api(home: Home = None) -> None:
    """Run one API server. Any number may run."""
    _become("api", home)


def _become(root: str, home: Path | None) -> None:
    """Run a composition root; by name, because nobody imports those."""
    from dalang.start import become

    if home is not None:
        os.environ["DALANG_HOME"] = str(home)
    raise typer.Exit(become(root))


@database.command()
@local
def upgrade(session: Session) -> None:
    """Bring the database to this version's tables, as its owner (DALANG_MIGRATION_DATABASE_URL). Safe to repeat."""
    from dalang.commands.owner import away
    from dalang.store.migrate import upgrade
    from dalang.store.migrations import newest_revision

    url = session.settings.require_migration_database_url()
    with away(url):
        upgrade(url)
    revision = newest_revision()
    session.emit({"revision": revision}, lambda: session.out.print(f"the database is at revision {revision}"))


@database.command()
@local
def reconcile(
    session: Session,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Runs that ended since: 24h, or a time; default: all that Temporal has."),
    ] = None,
) -> None:
    """After PostgreSQL was restored from a backup: put into it what Temporal still tells of runs that ended since."""
    import asyncio
    from dataclasses import asdict

    from dalang.commands.runs import point_in_time

    found = asyncio.run(_reconcile(session.settings, point_in_time(since, "--since")))

    def show() -> None:
        session.out.print(f"{found.seen} ended runs compared: {len(found.restored)} were put in again")
        for name, runs in (("incomplete", found.incomplete), ("unknown to Temporal", found.unknown)):
            for run in runs:
                session.out.print(f"{name}: {run}")

    session.emit(asdict(found), show)


async def _reconcile(settings: Settings, since: str | None) -> Reconciled:
    from datetime import datetime

    from dalang.reconciliation import Reconciliation
    from dalang.signing import Keyring
    from dalang.store.blobs import PostgresBlobDriver
    from dalang.store.engine import create_engine
    from dalang.temporal import connect

    engine = create_engine(settings, pooled=False)
    try:
        client = await connect(settings, storage_driver=PostgresBlobDriver(engine))
        keys = Keyring.load(settings.audit_keys_path)
        return await Reconciliation(engine, client, keys).reconcile(
            None if since is None else datetime.fromisoformat(since)
        )
    finally:
        await engine.dispose()
