"""The whole command line: groups put together, and every way a command can end turned into an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from dalang import __version__
from dalang.commands import (
    agents,
    artifacts,
    audit,
    breakers,
    budgets,
    decisions,
    demo,
    doctor,
    episodes,
    events,
    keys,
    limits,
    mcp,
    opening,
    plans,
    policies,
    provenance,
    redrives,
    rehearse,
    revisions,
    run_checkpoints,
    runs,
    schedules,
    sending,
    services,
    subscriptions,
    tasks,
    tokens,
)
from dalang.commands.failures import FAILED, INTERRUPTED, CommandFailure, Usage, of_exception

# Typer brings its own click in some versions; its errors are found through what it exports in all.
USAGE_ERROR: Any = typer.BadParameter.__base__
CLICK_ERROR: Any = USAGE_ERROR.__base__

RUN, LOOK, DO = "Run plans", "Look at runs", "Control runs"
LIMIT, SERVE = "Limit what runs use", "Run Dalang"

app = typer.Typer(
    name="dalang",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A durable orchestrator for plans of AI agents, tools, services and people.",
    epilog="New here? `dalang demo` shows a plan at work; `dalang up` runs everything on this machine.",
)


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"dalang {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


_PANELS = {
    RUN: (demo.app, ("demo",), runs.app, ("run", "start", "watch")),
    LOOK: (
        runs.app,
        ("list", "status", "nodes"),
        events.app,
        ("events",),
        episodes.app,
        ("episodes",),
        revisions.app,
        ("revisions",),
        limits.app,
        ("queue",),
        provenance.app,
        ("provenance",),
        opening.app,
        ("open",),
    ),
    DO: (
        runs.app,
        ("pause", "resume", "cancel"),
        decisions.app,
        ("retry", "skip"),
        redrives.app,
        ("redrive", "terminate"),
        sending.app,
        ("send",),
        revisions.app,
        ("replan",),
    ),
    SERVE: (services.app, ("up", "worker", "api"), doctor.app, ("doctor",), mcp.app, ("mcp",)),
}


def _add(panel: str, source: typer.Typer, names: Sequence[str]) -> None:
    for name in names:
        for command in source.registered_commands:
            assert command.callback is not None
            if (command.name or command.callback.__name__.rstrip("_")) == name:
                app.command(name, rich_help_panel=panel)(command.callback)


for _panel, _sources in _PANELS.items():
    for _at in range(0, len(_sources), 2):
        _source, _names = _sources[_at], _sources[_at + 1]
        assert isinstance(_source, typer.Typer)
        assert isinstance(_names, tuple)
        _add(_panel, _source, _names)
assert rehearse.app is plans.app  # its command stands among those of plans
app.add_typer(plans.app, name="plan", rich_help_panel=RUN)
app.add_typer(run_checkpoints.app, name="checkpoints", rich_help_panel=DO)
app.add_typer(subscriptions.app, name="subscriptions", rich_help_panel=LOOK)
app.add_typer(schedules.app, name="schedules", rich_help_panel=RUN)
app.add_typer(artifacts.app, name="artifacts", rich_help_panel=DO)
app.add_typer(budgets.app, name="budget", rich_help_panel=DO)
app.add_typer(tasks.app, name="tasks", rich_help_panel=DO)
app.add_typer(agents.app, name="agents", rich_help_panel=SERVE)
app.add_typer(limits.pools, name="pools", rich_help_panel=LIMIT)
app.add_typer(limits.quotas, name="quotas", rich_help_panel=LIMIT)
app.add_typer(audit.app, name="audit", rich_help_panel=LOOK)
app.add_typer(breakers.app, name="breakers", rich_help_panel=DO)
app.add_typer(policies.app, name="policy", rich_help_panel=SERVE)
app.add_typer(services.database, name="db", rich_help_panel=SERVE)
app.add_typer(keys.app, name="keys", rich_help_panel=SERVE)
app.add_typer(tokens.app, name="token", rich_help_panel=SERVE)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; whatever goes wrong is told on stderr, never as a traceback."""
    as_json = "--json" in arguments
    try:
        answer = typer.main.get_command(app).main(args=list(arguments), prog_name="dalang", standalone_mode=False)
    except CLICK_ERROR as error:
        return _wrong_usage(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output (`| head`) has enough; Python must not try to write the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        failure = of_exception(error)
        if failure is None:
            failure = _defect(error)
        _complain(failure, as_json)
        return failure.exit_code
    return answer if isinstance(answer, int) else 0


def _wrong_usage(error: Any, as_json: bool) -> int:
    if as_json or not isinstance(error, USAGE_ERROR):
        _complain(Usage(error.format_message(), hint="Add --help for what it takes."), as_json)
    elif type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "dalang"
        _complain(Usage(error.format_message(), hint=f"`{path} --help` tells what it takes."), as_json)
    return Usage("").exit_code


def _defect(error: Exception) -> CommandFailure:
    """Return the failure that stands for a defect of ours; its traceback goes to a file, not to the person."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", prefix="dalang-", suffix=".traceback", delete=False, encoding="utf-8"
    ) as file:
        file.write(traceback.format_exc())
    return CommandFailure(
        "DEFECT",
        f"This is a defect of Dalang ({type(error).__name__}: {error}).",
        hint=f"Please report it with {file.name}.",
    )


def _complain(failure: CommandFailure, as_json: bool) -> None:
    from dalang.commands.complaints import complain

    complain(failure, json=as_json)
