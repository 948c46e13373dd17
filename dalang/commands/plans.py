"""``dalang plan``: validate, look at, draw, import and store plans."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dalang.commands.failures import USAGE, Usage
from dalang.commands.session import Session, offline, online

if TYPE_CHECKING:
    from dalang.commands.plan_files import PlanFile
    from dalang.plan import Plan

app = typer.Typer(no_args_is_help=True)

FileOrPlan = Annotated[
    str,
    typer.Argument(metavar="PLAN", help="A file (YAML or JSON; - is standard input), or a stored plan's name or id."),
]
File = Annotated[str, typer.Argument(metavar="FILE", help="YAML or JSON; - is standard input.")]
StoredPlan = Annotated[str, typer.Argument(metavar="PLAN", help="A stored plan's name or id.")]
Version = Annotated[
    str | None, typer.Option("--version", help="Of a stored plan. Default: the highest.", show_default=False)
]


class Source(StrEnum):
    """Formats that are imported."""

    wfformat = "wfformat"
    agent_plans = "agent-plans"


class Picture(StrEnum):
    """Notations of pictures."""

    mermaid = "mermaid"
    dot = "dot"
    svg = "svg"


From = Annotated[Source | None, typer.Option("--from", help="The file is in this format of another system.")]
TimeScale = Annotated[
    float | None,
    typer.Option(
        "--time-scale", min=0, help="wfformat: factor of the recorded run times; 0.001 is a thousand times faster."
    ),
]
Select = Annotated[
    list[str] | None, typer.Option("--select", metavar="ID", help="agent-plans: only this plan; may be repeated.")
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of to standard output.")]


@app.command()
@offline
def validate(
    session: Session,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="YAML or JSON; - is standard input.")],
    from_: From = None,
    time_scale: TimeScale = None,
    select: Select = None,
) -> None:
    """Say everything that is wrong with plans, each with its place; exit code 2 if there is an error."""
    from dalang.commands import plan_files
    from dalang.commands.complaints import show_problems

    if from_ is None:
        found = [plan_files.load(file) for file in files]
    else:
        options: dict[str, Any] = {"time_scale": time_scale, "select": select or ()}
        found = [one for file in files for _, one in plan_files.imported(file, from_, **options)]
    valid = all(one.report.ok for one in found)
    if session.json:
        problems = [{"source": one.source, **problem} for one in found for problem in one.problems()]
        session.emit({"valid": valid, "plans": len(found), "problems": problems}, lambda: None)
    for one in [] if session.json else found:
        show_problems(one.problems(), one.source)
        errors, warnings = len(one.report.errors), len(one.report.warnings)
        verdict = "valid" if one.report.ok else f"{errors} error{'s' * (errors != 1)}"
        extra = f", {warnings} warning{'s' * (warnings != 1)}" if warnings else ""
        size = (
            f"{len(one.report.plan.nodes):,} nodes, {len(one.report.plan.edges):,} edges; " if one.report.plan else ""
        )
        session.out.print(f"{one.source}: {size}{verdict}{extra}", soft_wrap=True)
    if not valid:
        raise typer.Exit(USAGE)


@app.command()
@online
def show(
    session: Session,
    plan: FileOrPlan,
    version: Version = None,
    from_: From = None,
    time_scale: TimeScale = None,
    select: Select = None,
) -> None:
    """Show a plan at a glance: levels, critical path with slack, estimated duration, widest level."""
    from dalang.commands import plan_show
    from dalang.overview import overview

    found = loaded(session, plan, version, from_, time_scale, select)
    seen = overview(found)
    session.emit(plan_show.wire(found, seen), lambda: plan_show.show(session.out, found, seen))


@app.command()
@online
def graph(
    session: Session,
    plan: FileOrPlan,
    picture: Annotated[Picture, typer.Option("--format", "-f", help="Notation of the picture.")] = Picture.mermaid,
    output: Output = None,
    version: Version = None,
    from_: From = None,
    time_scale: TimeScale = None,
    select: Select = None,
) -> None:
    """Draw a plan as Mermaid, DOT or SVG."""
    from dalang import drawing

    draw = {"mermaid": drawing.mermaid, "dot": drawing.dot, "svg": drawing.svg}[picture]
    text = draw(loaded(session, plan, version, from_, time_scale, select))
    if output is not None:
        output.write_text(text, encoding="utf-8")
        session.note(f"wrote {output}")
    if session.json:
        session.emit({"format": str(picture), "graph": text, "file": str(output) if output else None}, lambda: None)
    elif output is None:
        session.out.file.write(text if text.endswith("\n") else text + "\n")


@app.command()
@offline
def schema(session: Session, output: Output = None) -> None:
    """Print the JSON Schema of plans, which editors complete from."""
    from dalang.commands.output import to_json
    from dalang.plan_schema import plan_schema

    text = to_json(plan_schema()) + "\n"
    if output is None:
        session.out.file.write(text)
    else:
        output.write_text(text, encoding="utf-8")
        session.note(f"wrote {output}")


@app.command("import")
@offline
def import_(
    session: Session,
    file: File,
    from_: Annotated[Source, typer.Option("--from", help="The file's format.")],
    time_scale: TimeScale = None,
    select: Select = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File for one plan, or folder: one file per plan, by its name."),
    ] = None,
) -> None:
    """Turn a file of another system into plans: one goes to standard output or a file, several into a folder (-o DIR).

    Each plan is validated; what is doubtful is told on stderr. YAML, or JSON where the file's name ends so.
    """
    from dalang.commands import plan_files

    found = plan_files.imported(file, from_, time_scale=time_scale, select=select or ())
    for _, one in found:
        one.require()
    if session.json:
        session.emit({"plans": [document for document, _ in found]}, lambda: None)
    if output is None:
        if not session.json:
            _print_one(session, file, found)
        return
    if len(found) == 1 and not output.is_dir() and output.suffix.lower() in plan_files.FILE_ENDINGS:
        targets = [output]
    else:
        output.mkdir(parents=True, exist_ok=True)
        targets = [output / f"{name}.yaml" for name in _file_names([document["name"] for document, _ in found])]
    for target, (document, _) in zip(targets, found, strict=True):
        target.write_text(_dump(document, target), encoding="utf-8")
    session.note(f"wrote {targets[0] if len(targets) == 1 else f'{len(targets)} plans to {output}/'}")


def _print_one(session: Session, file: str, found: list[tuple[dict[str, Any], PlanFile]]) -> None:
    from dalang.commands.complaints import show_problems

    if len(found) != 1:
        raise Usage(f"{file} holds {len(found)} plans.", hint="Give -o FOLDER, or choose with --select ID.")
    document, one = found[0]
    show_problems(one.problems(), one.source)
    session.out.file.write(_dump(document, Path("plan.yaml")))


def _dump(document: dict[str, Any], target: Path) -> str:
    from dalang.formats import dump_json, dump_yaml

    return dump_json(document) if target.suffix.lower() == ".json" else dump_yaml(document)


def _file_names(names: list[str]) -> list[str]:
    """Return file names made of plans' names, each different."""
    taken: dict[str, int] = {}
    made = []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:100] or "plan"
        taken[base] = taken.get(base, 0) + 1
        made.append(base if taken[base] == 1 else f"{base}-{taken[base]}")
    return made


@app.command()
@online
def push(session: Session, file: File, from_: From = None, time_scale: TimeScale = None, select: Select = None) -> None:
    """Store a plan's version on the server; again with the same content it changes nothing."""
    from dalang.commands.complaints import show_problems
    from dalang.feasibility import LARGER_THAN_POOL, UNKNOWN_POOL

    plan = loaded(session, file, None, from_, time_scale, select, files_only=True)
    status, stored = session.client.post_bytes("/plans", plan_bytes(plan), "application/json")
    created = status == 201
    if not session.json:
        show_problems([one for one in stored["warnings"] if one["code"] in (LARGER_THAN_POOL, UNKNOWN_POOL)], file)
    session.emit(
        {**stored, "created": created},
        lambda: session.out.print(
            f"{'stored' if created else 'is stored already'}: {stored['name']} {stored['version']}  {stored['planId']}",
            soft_wrap=True,
        ),
    )


@app.command("list")
@online
def list_(
    session: Session,
    name: Annotated[str | None, typer.Option("--name", help="A part of the name, in any case.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 50,
) -> None:
    """List the stored plans, each in its highest version."""
    from dalang.commands.output import age, table

    page = session.client.pages("/plans", limit=limit, name=name)

    def show() -> None:
        rows = [
            [one["planId"][:8], one["name"], one["version"], one["nodes"], one["edges"], age(one["createdAt"])]
            for one in page["items"]
        ]
        if rows:
            table(session.out, ["ID", "NAME", "VERSION", ">NODES", ">EDGES", ">AGE"], rows, flexible="NAME")
        else:
            session.note("No plan is stored; `dalang plan push FILE` stores one.")

    session.emit(page, show)


@app.command()
@online
def versions(session: Session, plan: StoredPlan) -> None:
    """List the versions of a stored plan, the highest first."""
    from dalang.commands.output import moment, table

    found = session.client.get(f"/plans/{session.client.plan_id(plan)}/versions")

    def show() -> None:
        rows = [
            [one["version"], one["nodes"], one["edges"], one["digest"][:12], moment(one["createdAt"]), one["createdBy"]]
            for one in found["items"]
        ]
        table(session.out, ["VERSION", ">NODES", ">EDGES", "DIGEST", "CREATED", "BY"], rows)

    session.emit(found, show)


def loaded(
    session: Session,
    plan: str,
    version: str | None,
    from_: Source | None,
    time_scale: float | None,
    select: list[str] | None,
    *,
    files_only: bool = False,
) -> Plan:
    """Return the valid plan that a command is about, from a file or from the server."""
    from dalang.commands import plan_files
    from dalang.commands.complaints import show_problems

    if files_only or plan_files.is_file(plan) or from_ is not None:
        if from_ is None:
            if time_scale is not None or select:
                raise Usage("--time-scale and --select go with --from.")
            found = plan_files.load(plan)
        else:
            found = plan_files.one_imported(plan, from_, time_scale=time_scale, select=select or ())
        made = found.require()
        if found.report.warnings and not session.json:
            show_problems(found.problems(found.report.warnings), found.source)
        return made
    return stored_plan(session, session.client.plan_id(plan), version)


def stored_plan(session: Session, plan_id: str, version: str | None) -> Plan:
    """Return a plan that the server stores."""
    from dalang.validation import validate as check

    return check(session.client.get(f"/plans/{plan_id}", version=version)["plan"]).require()


def plan_bytes(plan: Plan) -> bytes:
    """Return a plan as it is sent."""
    import json

    return json.dumps(plan.wire(), ensure_ascii=False, separators=(",", ":")).encode()
