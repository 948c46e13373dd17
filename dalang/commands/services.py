"""``dalang up``, ``worker``, ``api``, ``db upgrade``: running the product."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from dalang.commands.session import Home, Session, local

app = typer.Typer()
database = typer.Typer(no_args_is_help=True, help="The database's tables.")

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
    from dalang.store.migrate import newest_revision, upgrade

    url = session.settings.require_migration_database_url()
    with away(url):
        upgrade(url)
    revision = newest_revision()
    session.emit({"revision": revision}, lambda: session.out.print(f"the database is at revision {revision}"))
