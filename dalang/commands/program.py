"""What commands there are, by name; a command line imports the module of its own command and no other."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Annotated, Any

import typer

from dalang import __version__

RUN, LOOK, DO = "Run plans", "Look at runs", "Control runs"
LIMIT, SERVE = "Limit what runs use", "Run Dalang"
OWNER = "DALANG_MIGRATION_DATABASE_URL"

COMMANDS = (
    (RUN, "demo", "demo"),
    (RUN, "runs", "run start watch"),
    (LOOK, "runs", "list status nodes"),
    (LOOK, "events", "events"),
    (LOOK, "node_logs", "logs"),
    (LOOK, "episodes", "episodes"),
    (LOOK, "revisions", "revisions"),
    (LOOK, "limits", "queue"),
    (LOOK, "provenance", "provenance"),
    (LOOK, "opening", "open"),
    (DO, "runs", "pause resume cancel"),
    (DO, "decisions", "retry skip"),
    (DO, "redrives", "redrive terminate"),
    (DO, "sending", "send"),
    (DO, "revisions", "replan"),
    (SERVE, "services", "up worker api"),
    (SERVE, "doctor", "doctor"),
    (SERVE, "mcp", "mcp"),
)
"""Commands: the panel of the help, the module whose ``app`` has them, their names."""
GROUPS = (
    # The command of `rehearse` stands among those of `plans`.
    (RUN, "rehearse", "app", "plan", "Validate, look at, draw, import and store plans."),
    (DO, "run_checkpoints", "app", "checkpoints", "Named points of runs, from which `redrive --checkpoint` starts."),
    (LOOK, "subscriptions", "app", "subscriptions", "Who is told of events: webhooks, Kafka, NATS."),
    (RUN, "schedules", "app", "schedules", "Start runs of stored plans by cron, interval and calendar."),
    (DO, "artifacts", "app", "artifacts", "Files that inputs and outputs of runs refer to: artifact://sha256/..."),
    (DO, "budgets", "app", "budget", "What a run, or the tenant on one day, may use and has used."),
    (DO, "tasks", "app", "tasks", "The inbox of human tasks: look, decide, claim, give away."),
    (SERVE, "agents", "app", "agents", "Agents: who does the work of nodes that ask for capabilities."),
    (LIMIT, "limits", "pools", "pools", "Pools: what nodes take so much of at once, or so much a second."),
    (LIMIT, "limits", "quotas", "quotas", "What your tenant may use at once."),
    (LOOK, "audit", "app", "audit", "Prove that nobody rewrote what a run did."),
    (DO, "breakers", "app", "breakers", "Circuit breakers: who is not called for a while, since it fails."),
    (SERVE, "policies", "app", "policy", "Rules about which runs may start and which nodes may begin."),
    (SERVE, "services", "database", "db", "The database's tables."),
    (SERVE, "keys", "app", "keys", "Keys that payloads in Temporal are encrypted with (DALANG_ENCRYPTION_KEYS_FILE)."),
    (SERVE, "tokens", "app", "token", f"API tokens. These go to the database as its owner ({OWNER}), not to the API."),
    (SERVE, "tenants", "app", "tenant", "Erase everything of a tenant, and check the certificate of it."),
    (SERVE, "tenants", "retention", "retention", "Delete runs that ended long ago; their proof stays."),
)
"""Groups of commands: the panel, the module, what the group is there, its name, what it is about."""
NAMES = frozenset({name for *_, names in COMMANDS for name in names.split()} | {name for *_, name, _ in GROUPS})


@functools.cache
def program(only: str | None = None) -> Any:
    """Return the command line as click's command: all of it, or as if there were this command or group alone."""
    app = _app()
    for panel, module, names in COMMANDS:
        for name in names.split():
            if only in (None, name):
                app.command(name, rich_help_panel=panel)(_callback(module, name))
    for panel, module, attribute, name, about in GROUPS:
        if only in (None, name):
            app.add_typer(getattr(_module(module), attribute), name=name, rich_help_panel=panel, help=about)
    return typer.main.get_command(app)


def outline() -> Any:
    """Return a command line that can tell what commands there are and nothing more, which takes half the time."""
    app = _app()
    for panel, module, names in COMMANDS:
        for name in names.split():
            app.command(name, rich_help_panel=panel, help=_callback(module, name).__doc__)(lambda: None)
    for panel, _, _, name, about in GROUPS:
        app.add_typer(typer.Typer(callback=lambda: None), name=name, rich_help_panel=panel, help=about)
    return typer.main.get_command(app)


def _app() -> typer.Typer:
    app = typer.Typer(
        name="dalang",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="A durable orchestrator for plans of AI agents, tools, services and people.",
        epilog="New here? `dalang demo` shows a plan at work; `dalang up` runs everything on this machine.",
    )
    app.callback()(_root)
    return app


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"dalang {__version__}\n")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


def _callback(module: str, name: str) -> Any:
    (found,) = [
        command.callback
        for command in _module(module).app.registered_commands
        if command.callback is not None and (command.name or command.callback.__name__.rstrip("_")) == name
    ]
    return found


def _module(name: str) -> Any:
    return importlib.import_module(f"dalang.commands.{name}")
