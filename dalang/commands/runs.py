"""Starting runs, following them to their end, looking at them, controlling them."""

from __future__ import annotations

import contextlib
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from dalang.commands.failures import FAILED, INTERRUPTED, Usage
from dalang.commands.plans import FileOrPlan, From, Select, TimeScale, loaded
from dalang.commands.session import Session, online
from dalang.statuses import NodeStatus, RunStatus

if TYPE_CHECKING:
    from dalang.commands.client import ApiClient

app = typer.Typer()

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run id, the unique beginning of one, or `latest`.", show_default=False)
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="KEY=VALUE", help="An input: JSON, else text; @FILE is a file's content."),
]
InputsFile = Annotated[str | None, typer.Option("--inputs", metavar="FILE", help="All inputs: a YAML or JSON object.")]
PlanVersion = Annotated[
    str | None, typer.Option("--version", help="Of a stored plan. Default: the highest.", show_default=False)
]
PriorityOption = Annotated[
    str | None, typer.Option("--priority", help="low, medium, high, critical or an integer. Default: the plan's.")
]
IdempotencyKey = Annotated[
    str | None, typer.Option("--idempotency-key", help="The same key with the same plan and inputs is the same run.")
]
NODES_AT_ONCE = 500
Reason = Annotated[str | None, typer.Option("--reason", "-r", help="Why; it is recorded.")]


@app.command()
@online
def run(
    session: Session,
    plan: FileOrPlan,
    input_: Inputs = None,
    inputs: InputsFile = None,
    version: PlanVersion = None,
    priority: PriorityOption = None,
    idempotency_key: IdempotencyKey = None,
    from_: From = None,
    time_scale: TimeScale = None,
    select: Select = None,
) -> None:
    """Run a plan and watch it to its end.

    Exit code 0 COMPLETED, 1 FAILED, 2 invalid plan or usage, 3 CANCELLED, 4 nothing can be reached.
    Ctrl-C ends the watching, not the run.
    """
    begun, document = begin(
        session, plan, input_, inputs, version, priority, idempotency_key, from_, time_scale, select
    )
    raise typer.Exit(watch_to_end(session, begun["runId"], document))


@app.command()
@online
def start(
    session: Session,
    plan: FileOrPlan,
    input_: Inputs = None,
    inputs: InputsFile = None,
    version: PlanVersion = None,
    priority: PriorityOption = None,
    idempotency_key: IdempotencyKey = None,
    from_: From = None,
    time_scale: TimeScale = None,
    select: Select = None,
) -> None:
    """Start a run of a plan, print its id and do not wait."""
    begun, _ = begin(session, plan, input_, inputs, version, priority, idempotency_key, from_, time_scale, select)
    session.emit(begun, lambda: session.out.print(begun["runId"], soft_wrap=True))
    session.note(f"`dalang watch {begun['runId'][:8]}` follows it.")


@app.command()
@online
def status(session: Session, run: RunArgument) -> None:
    """Show a run: where it stands, outputs, errors."""
    from dalang.commands import results

    found = session.client.get(f"/runs/{session.client.run_id(run)}")
    session.emit(found, lambda: results.status(session.out, session.client, found))


@app.command()
@online
def watch(session: Session, run: RunArgument) -> None:
    """Watch a run to its end; the exit code is that of `dalang run`."""
    raise typer.Exit(watch_to_end(session, session.client.run_id(run), None))


@app.command("list")
@online
def list_(
    session: Session,
    status: Annotated[
        list[RunStatus] | None,
        typer.Option("--status", "-s", case_sensitive=False, help="Only runs with this status; may be repeated."),
    ] = None,
    plan: Annotated[
        str | None, typer.Option("--plan", help="A part of the plan's name, in any case; or a planId.")
    ] = None,
    created_by: Annotated[str | None, typer.Option("--created-by", help="Only runs that this subject started.")] = None,
    active: Annotated[
        bool | None, typer.Option("--active/--ended", help="Only runs that have not ended, or have.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Created since: 2h, 7d, or a date or time (RFC 3339).")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Created before, in the same forms.")] = None,
    parent: Annotated[str | None, typer.Option("--parent", help="Only runs below nodes of this run.")] = None,
    children: Annotated[bool, typer.Option("--children", help="With the runs below nodes of other runs.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="`next` of the list before (see --json).")] = None,
) -> None:
    """List runs, the newest first."""
    from dalang.commands import results

    page = session.client.pages(
        "/runs",
        limit=limit,
        cursor=cursor,
        status=[str(one) for one in status] if status else None,
        **{"planId" if _is_uuid(plan) else "plan": plan},
        createdBy=created_by,
        parentRunId=None if parent is None else session.client.run_id(parent),
        children="true" if children else None,
        active=None if active is None else str(active).lower(),
        **{"from": point_in_time(since, "--since"), "to": point_in_time(until, "--until")},
    )

    def show() -> None:
        if not page["items"]:
            session.note(
                "No run matches." if status or plan or since or until else "No run yet; `dalang run PLAN` starts one."
            )
            return
        results.runs(session.out, page["items"])
        if page["next"]:
            session.note(f"... and more (--limit {limit * 5})")

    session.emit(page, show)


@app.command()
@online
def nodes(
    session: Session,
    run: RunArgument,
    node: Annotated[str | None, typer.Argument(metavar="[NODE]", help="Only this node, with everything.")] = None,
    status: Annotated[
        list[NodeStatus] | None,
        typer.Option("--status", "-s", case_sensitive=False, help="Only nodes with this status; may be repeated."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most so many.")] = 1_000,
) -> None:
    """List a run's nodes, or show one with inputs, outputs, attempts and error."""
    from dalang.commands import results
    from dalang.commands.output import write_json

    run_id = session.client.run_id(run)
    if node is not None:
        found = session.client.get(f"/runs/{run_id}/nodes/{quote(node, safe='')}")
        session.emit(found, lambda: results.node(session.out, found))
        return
    wanted = [str(one) for one in status] if status else None
    pages = session.client.each_page(f"/runs/{run_id}/nodes", limit=limit, size=NODES_AT_ONCE, status=wanted)
    if session.json:
        found = list(pages)
        items = [node for page in found for node in page["items"]]
        write_json({"runId": run_id, "items": items, "next": found[-1]["next"]})
        return
    more = None
    for number, page in enumerate(pages):
        results.nodes(session.out, page["items"], headed=not number)
        more = page["next"]
    if more:
        session.note(f"... and more (--limit {limit * 10})")


@app.command()
@online
def pause(
    session: Session,
    run: RunArgument,
    reason: Reason = None,
    interrupt: Annotated[
        bool,
        typer.Option("--interrupt", help="Stop what is in flight where that is safe; it goes on from its checkpoint."),
    ] = False,
) -> None:
    """Pause a run: nothing new starts, and what is in flight ends, or is interrupted and starts again at `resume`."""
    _control(session, "pause", run, reason, {"mode": "interrupt"} if interrupt else {})


@app.command()
@online
def resume(session: Session, run: RunArgument, reason: Reason = None) -> None:
    """End a run's pause."""
    _control(session, "resume", run, reason)


@app.command()
@online
def cancel(session: Session, run: RunArgument, reason: Reason = None) -> None:
    """Cancel a run: what is in flight is stopped, and it ends CANCELLED."""
    _control(session, "cancel", run, reason)


def begin(
    session: Session,
    plan: str,
    pairs: list[str] | None,
    file: str | None,
    version: str | None,
    priority: str | None,
    key: str | None,
    from_: Any,
    time_scale: float | None,
    select: list[str] | None,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Check a plan and its inputs here, start its run; return the answer and the plan's document if it was a file."""
    from dalang.commands import plan_files
    from dalang.commands.complaints import show_problems
    from dalang.commands.failures import CommandFailure

    inputs = plan_files.given_inputs(pairs or (), file)
    body: dict[str, Any] = {"inputs": inputs}
    document: dict[str, Any] | None = None
    if plan_files.is_file(plan) or from_ is not None:
        if version is not None:
            raise Usage("--version goes with a stored plan; a file has its own.")
        found = loaded(session, plan, None, from_, time_scale, select, files_only=True)
        plan_files.check_inputs(found, inputs)
        document = body["plan"] = found.wire()
    else:
        body["planId"] = session.client.plan_id(plan)
        if version is not None:
            body["planVersion"] = version
    if priority is not None:
        body["priority"] = int(priority) if priority.lstrip("-").isdigit() else priority
    # A key of our own makes it safe to ask again when the answer was lost.
    headers = {"Idempotency-Key": key or f"cli-{uuid.uuid4()}"}
    try:
        begun = session.client.post("/execute", body, headers=headers)
    except CommandFailure as failure:
        for problem in failure.problems:
            problem["pointer"] = str(problem.get("pointer", "")).removeprefix("/plan")
        failure.source = plan if failure.problems else None
        raise
    if begun.get("warnings") and not session.json:
        show_problems(begun["warnings"], plan if document is not None else None)
    return begun, document


def _plan_of(client: ApiClient, run: dict[str, Any]) -> dict[str, Any]:
    """Return the plan of a run; of the run below a map with its one node once for each element."""
    plan: dict[str, Any] = client.get(f"/runs/{run['runId']}/plan")["plan"]
    elements = run.get("elements")
    if elements is not None:
        plan["nodes"] = [{**plan["nodes"][0], "nodeId": str(number), "name": str(number)} for number in range(elements)]
    return plan


def watch_to_end(
    session: Session, run_id: str, document: dict[str, Any] | None, *, into: dict[str, Any] | None = None
) -> int:
    """Show a run until it has ended; return the exit code that its end means.

    ``into`` receives the ended run; then what was shown live does not stay.
    """
    from dalang.commands import results
    from dalang.commands.watching import follow, looks
    from dalang.commands.watching_large import LARGE, watch_large

    client = session.client
    try:
        run: dict[str, Any] = {} if document is not None else client.get(f"/runs/{run_id}")
        is_large = (_size(document) if document is not None else run["totalNodes"]) >= LARGE
        if session.json:
            for _ in looks(client, run_id) if is_large else follow(client, run_id):
                pass
        elif is_large:
            watch_large(session, run_id, transient=into is not None)
        else:
            _watch_events(session, run_id, document or _plan_of(client, run), transient=into is not None)
        found = client.get(f"/runs/{run_id}")
        if into is not None:
            into.update(found)
    except KeyboardInterrupt:
        session.note(
            f"\nNo longer watching; run {run_id} goes on.\n"
            f"  dalang watch {run_id[:8]}    watches it again\n"
            f"  dalang cancel {run_id[:8]}   ends it"
        )
        return INTERRUPTED
    session.emit(found, lambda: results.outcome(session.out, client, found))
    return results.EXIT_CODES.get(found["status"], FAILED)


def _watch_events(session: Session, run_id: str, plan: dict[str, Any], *, transient: bool) -> None:
    """Show a run of this plan until it has ended, as its events tell it."""
    from dalang.commands.attempts import looked_at
    from dalang.commands.live import shown
    from dalang.commands.progress import RunProgress
    from dalang.commands.watching import follow

    client, progress = session.client, RunProgress(plan)

    def say(text: str | None) -> None:
        if not session.out.is_terminal and text != progress.away:
            session.note(text or "connected again")
        progress.away = text

    with contextlib.ExitStack() as around:
        if session.out.is_terminal:
            around.enter_context(looked_at(client, run_id, progress))
        show = around.enter_context(shown(session.out, progress, run_id, transient=transient))
        for event in follow(client, run_id, say=say):
            progress.apply(event)
            if event["type"] == "PLAN_REVISED":
                number = event["data"]["revision"]
                progress.revise(client.get(f"/runs/{run_id}/revisions/{number}")["plan"])
            show(event)


def _size(plan: dict[str, Any]) -> int:
    return len(plan.get("nodes") or ()) + len(plan.get("finally") or ())


def _control(session: Session, control: str, run: str, reason: str | None, more: dict[str, Any] | None = None) -> None:
    run_id = session.client.run_id(run)
    found = session.client.post(f"/runs/{run_id}/{control}", {**({"reason": reason} if reason else {}), **(more or {})})
    done = f"{found.get('message') or control}: run {run_id} is {found['status']}"
    session.emit(found, lambda: session.out.print(done, soft_wrap=True))


def _is_uuid(text: str | None) -> bool:
    try:
        return text is not None and bool(uuid.UUID(text))
    except ValueError:
        return False


def point_in_time(text: str | None, option: str) -> str | None:
    """Return an RFC 3339 time from a duration back from now, a date, or a time; local where no zone is given."""
    if text is None:
        return None
    from dalang.durations import parse_duration

    try:
        return (datetime.now(UTC) - timedelta(milliseconds=parse_duration(text))).isoformat()
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except ValueError:
        raise Usage(f"{option} {text!r} is neither a duration such as 2h or 7d nor a date or time.") from None
