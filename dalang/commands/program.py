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

COMMANDS = (
    (RUN, "demo", "demo"),
    (RUN, "runs", "run start watch"),
    (LOOK, "runs", "list status nodes"),
    (LOOK, "events", "events"),
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
    (RUN, "rehearse", "app", "plan"),  # its command stands among those of `plans`
    (DO, "run_checkpoints", "app", "checkpoints"),
    (LOOK, "subscriptions", "app", "subscriptions"),
    (RUN, "schedules", "app", "schedules"),
    (DO, "artifacts", "app", "artifacts"),
    (DO, "budgets", "app", "budget"),
    (DO, "tasks", "app", "tasks"),
    (SERVE, "agents", "app", "agents"),
    (LIMIT, "limits", "pools", "pools"),
    (LIMIT, "limits", "quotas", "quotas"),
    (LOOK, "audit", "app", "audit"),
    (DO, "breakers", "app", "breakers"),
    (SERVE, "policies", "app", "policy"),
    (SERVE, "services", "database", "db"),
    (SERVE, "keys", "app", "keys"),
    (SERVE, "tokens", "app", "token"),
    (SERVE, "tenants", "app", "tenant"),
    (SERVE, "tenants", "retention", "retention"),
)
"""Groups of commands: the panel, the module, what the group is there, its name."""
NAMES = frozenset({name for *_, names in COMMANDS for name in names.split()} | {name for *_, name in GROUPS})


@functools.cache
def program(only: str | None = None) -> Any:
    """Return the command line as click's command: all of it, or as if there were this command or group alone."""
    app = typer.Typer(
        name="dalang",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="A durable orchestrator for plans of AI agents, tools, services and people.",
        epilog="New here? `dalang demo` shows a plan at work; `dalang up` runs everything on this machine.",
    )
    app.callback()(_root)
    for panel, module, names in COMMANDS:
        for name in names.split():
            if only in (None, name):
                app.command(name, rich_help_panel=panel)(_callback(module, name))
    for panel, module, attribute, name in GROUPS:
        if only in (None, name):
            app.add_typer(getattr(_module(module), attribute), name=name, rich_help_panel=panel)
    return typer.main.get_command(app)


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
