"""``dalang plan rehearse``: what a plan would do, before it costs anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dalang.commands.failures import USAGE, CommandFailure, Usage
from dalang.commands.plans import FileOrPlan, From, Select, TimeScale, Version, loaded
from dalang.commands.plans import app as app
from dalang.commands.session import Session, online

if TYPE_CHECKING:
    from dalang.rehearsal import Options


def _pairs(texts: list[str] | None, option: str, form: str) -> dict[str, str]:
    found = {}
    for text in texts or ():
        name, separator, given = text.rpartition("=")
        if not separator or not name:
            raise Usage(f"{option} {text!r} is not {form}.")
        found[name] = given
    return found


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Usage(f"{option}: {text!r} is no number.") from None


@app.command()
@online
def rehearse(
    session: Session,
    plan: FileOrPlan,
    options_file: Annotated[
        str | None, typer.Option("--options", metavar="FILE", help="Rehearsal file, YAML or JSON.")
    ] = None,
    runs: Annotated[int | None, typer.Option("--runs", help="How many rehearsals. Default: 1000.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the first; the n-th has the n-th after it.")] = None,
    input_: Annotated[
        list[str] | None, typer.Option("--input", "-i", metavar="KEY=VALUE", help="Input of the run: JSON, else text.")
    ] = None,
    inputs: Annotated[str | None, typer.Option("--inputs", metavar="FILE", help="Inputs of the run.")] = None,
    agents: Annotated[
        list[str] | None,
        typer.Option("--agents", metavar="NAME=N", help="An agent, or capability, takes N nodes at once."),
    ] = None,
    pool: Annotated[
        list[str] | None, typer.Option("--pool", metavar="NAME=N", help="Size of a pool: cpu, memory (MiB), gpu, ...")
    ] = None,
    duration: Annotated[
        list[str] | None,
        typer.Option("--duration", metavar="NODE=TIME", help="Of a node or type: 90s, uniform(1m,3m), normal(2m,20s)."),
    ] = None,
    fail: Annotated[
        list[str] | None,
        typer.Option("--fail", metavar="NODE=RATE[:TYPE]", help="Share of attempts of a node or type that fail."),
    ] = None,
    crash: Annotated[
        float | None, typer.Option("--crash", min=0, max=1, help="Share of attempts that are lost with their worker.")
    ] = None,
    default_duration: Annotated[
        str | None,
        typer.Option("--default-duration", metavar="TIME", help="Of nodes nothing is known of. Default: 1s."),
    ] = None,
    version: Version = None,
    from_: From = None,
    time_scale: TimeScale = None,
    select: Select = None,
) -> None:
    """Rehearse a plan many times without running it: how long it takes, how it ends, what is critical and scarce."""
    from dalang.commands import rehearsal_show
    from dalang.commands.complaints import show_problems
    from dalang.errors import InvalidDocument
    from dalang.rehearsal import rehearse as simulate

    found = loaded(session, plan, version, from_, time_scale, select)
    given: dict[str, Any] = {
        "runs": runs,
        "seed": seed,
        "defaultDuration": default_duration,
        "crashes": crash,
        "agents": {name: _number(text, "--agents") for name, text in _pairs(agents, "--agents", "NAME=N").items()},
        "pools": {name: _number(text, "--pool") for name, text in _pairs(pool, "--pool", "NAME=N").items()},
    }
    kinds = {node.type for node in found.all_nodes()}
    ids = {node.node_id for node in found.all_nodes()}
    said: dict[str, dict[str, Any]] = {}
    for name, text in _pairs(duration, "--duration", "NODE=TIME").items():
        said.setdefault(name, {})["duration"] = text
    for name, text in _pairs(fail, "--fail", "NODE=RATE").items():
        rate, _, kind = text.partition(":")
        fault = {"rate": _number(rate, "--fail"), **({"type": kind} if kind else {})}
        said.setdefault(name, {})["failures"] = fault
    for name, assumed in said.items():
        if name not in ids and name not in kinds:
            raise Usage(f"The plan has neither a node nor a node type {name!r}.")
        given.setdefault("nodes" if name in ids else "types", {})[name] = assumed
    try:
        options = _options(options_file, given, input_ or [], inputs)
        summary = _with_progress(session, lambda progress: simulate(found, options, progress=progress), options.runs)
    except InvalidDocument as error:
        problems = [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in error.problems]
        raise CommandFailure(
            "INVALID_REHEARSAL",
            f"The plan cannot be rehearsed like this: the {error.what} is wrong.",
            hint="docs/rehearsal.md tells what a rehearsal file holds.",
            exit_code=USAGE,
            problems=problems,
            source=options_file or "options",
        ) from None
    if not session.json:
        show_problems([one.model_dump(mode="json", exclude_none=True) for one in summary.scenario.warnings], plan)
    session.emit(summary.wire(), lambda: rehearsal_show.show(session.out, summary))


def _options(file: str | None, given: dict[str, Any], pairs: list[str], inputs: str | None) -> Options:
    """Return what the rehearsal file says, and over it what the command line says."""
    from dalang.commands import plan_files
    from dalang.formats import load_document
    from dalang.rehearsal import load_options

    document: dict[str, Any] = {}
    if file is not None:
        data, source = plan_files.read(file)
        document = load_document(data, name=source)
    for name in ("agents", "pools", "nodes", "types"):
        below = document.get(name)
        for key, value in (given.pop(name, None) or {}).items():
            below = dict(below) if isinstance(below, dict) else {}
            if name in ("agents", "pools"):
                whole = int(value) if float(value).is_integer() else value
                old = below.get(key)
                below[key] = {**old, "capacity": whole} if isinstance(old, dict) else whole
            else:
                old = below.get(key)
                below[key] = {**(old if isinstance(old, dict) else {}), **value}
        if below is not None:
            document[name] = below
    document.update({name: value for name, value in given.items() if value is not None})
    if pairs or inputs is not None:
        old = document.get("inputs")
        document["inputs"] = {**(old if isinstance(old, dict) else {}), **plan_files.given_inputs(pairs, inputs)}
    return load_options(document)


def _with_progress(session: Session, simulate: Any, runs: int) -> Any:
    """Simulate; on a terminal, say how far it is."""
    if session.json or not session.err.is_terminal:
        return simulate(None)
    with session.err.status(f"rehearsing {runs:,} times") as status:
        return simulate(lambda done: status.update(f"rehearsed {done:,} of {runs:,} times") if done % 50 == 0 else None)
