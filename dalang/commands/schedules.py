"""``dalang schedules``: start runs of stored plans by cron, interval and calendar."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from dalang.commands.failures import Usage
from dalang.commands.runs import Inputs, InputsFile, PriorityOption, Reason, point_in_time
from dalang.commands.session import Session, online

if TYPE_CHECKING:
    from rich.console import Console

_TIMES = ("cron", "every", "offset", "calendar")

app = typer.Typer(no_args_is_help=True)


class Policy(StrEnum):
    """What happens when a run is due while the one before has not ended; as ``timetable.Overlap``."""

    skip = "skip"
    buffer_one = "bufferOne"
    buffer_all = "bufferAll"
    cancel_other = "cancelOther"
    allow_all = "allowAll"


ScheduleArgument = Annotated[str, typer.Argument(metavar="SCHEDULE", help="Its id.", show_default=False)]
Cron = Annotated[
    list[str] | None, typer.Option("--cron", help='Five fields, such as "0 9 * * MON-FRI", or @daily; may be repeated.')
]
Every = Annotated[str | None, typer.Option("--every", help="An interval: 1h, 30m, 90s.")]
Offset = Annotated[str | None, typer.Option("--offset", help="Of --every: 10m is ten past.")]
CalendarOption = Annotated[
    list[str] | None,
    typer.Option(
        "--calendar", metavar="JSON", help='Such as \'{"hour": 9, "dayOfWeek": "MON-FRI"}\'; may be repeated.'
    ),
]
Zone = Annotated[str | None, typer.Option("--timezone", help="Of cron and calendar: Europe/Berlin. Default: UTC.")]
StartAt = Annotated[str | None, typer.Option("--start-at", help="No time before this one counts (RFC 3339).")]
EndAt = Annotated[str | None, typer.Option("--end-at", help="No time after this one counts (RFC 3339).")]
Jitter = Annotated[str | None, typer.Option("--jitter", help="Each start is put off by a random time up to this one.")]
OverlapOption = Annotated[
    Policy | None,
    typer.Option("--overlap", case_sensitive=False, help="When the run before has not ended. Default: skip."),
]
Catchup = Annotated[
    str | None,
    typer.Option("--catchup-window", help="How late a start may be that was missed. Default: a year."),
]
PauseOnFailure = Annotated[
    bool | None, typer.Option("--pause-on-failure/--no-pause-on-failure", help="Pause when a run has failed.")
]
Remaining = Annotated[int | None, typer.Option("--remaining", min=1, help="So many starts, then no more.")]
Note = Annotated[str | None, typer.Option("--note", help="For people.")]
PlanOption = Annotated[str, typer.Option("--plan", metavar="PLAN", help="A stored plan's name or id.")]
NewPlan = Annotated[str | None, typer.Option("--plan", metavar="PLAN", help="A stored plan's name or id.")]
Version = Annotated[
    str | None, typer.Option("--version", help="Of the plan. Default: the highest at each start.", show_default=False)
]


@app.command("list")
@online
def list_(
    session: Session,
    plan: Annotated[str | None, typer.Option("--plan", help="Only schedules of this stored plan.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many.")] = 50,
) -> None:
    """List schedules: when each is next due, and how its last run ended."""
    from dalang.commands.output import moment, styled, table

    wanted = None if plan is None else session.client.plan_id(plan)
    page = session.client.pages("/schedules", limit=limit, planId=wanted)

    def show() -> None:
        rows = []
        for one in page["items"]:
            last = one.get("lastRun") or {}
            due = "paused" if one["paused"] else moment(one["nextTimes"][0]) if one["nextTimes"] else "never"
            error = (one.get("lastError") or {}).get("message") or ""
            rows.append([one["scheduleId"], _when(one), due, styled(last.get("status", "-")), error])
        heads = ["SCHEDULE", "WHEN", "NEXT", "LAST RUN", "ERROR"]
        if not any(row[-1] for row in rows):
            heads, rows = heads[:-1], [row[:-1] for row in rows]
        if rows:
            table(session.out, heads, rows, flexible="WHEN" if len(heads) == 4 else "ERROR")
        else:
            session.note("No schedule yet; `dalang schedules create` makes one.")

    session.emit(page, show)


@app.command()
@online
def create(
    session: Session,
    schedule: Annotated[str, typer.Argument(metavar="SCHEDULE", help="An id for it: letters, digits, - _ .")],
    plan: PlanOption,
    version: Version = None,
    cron: Cron = None,
    every: Every = None,
    offset: Offset = None,
    calendar: CalendarOption = None,
    timezone: Zone = None,
    start_at: StartAt = None,
    end_at: EndAt = None,
    jitter: Jitter = None,
    overlap: OverlapOption = None,
    catchup_window: Catchup = None,
    pause_on_failure: PauseOnFailure = None,
    remaining: Remaining = None,
    paused: Annotated[bool, typer.Option("--paused", help="Start nothing before it is resumed.")] = False,
    note: Note = None,
    input_: Inputs = None,
    inputs: InputsFile = None,
    priority: PriorityOption = None,
) -> None:
    """Make a schedule, which starts runs of a stored plan."""
    spec = _spec(cron, every, offset, calendar, timezone, start_at, end_at, jitter)
    body = _body(overlap, catchup_window, pause_on_failure, remaining, note, input_, inputs, priority, version)
    body |= {"scheduleId": schedule, "planId": _plan_id(session, plan), "spec": spec}
    if paused:
        body["paused"] = True
    found = session.client.post("/schedules", body)
    session.emit(found, lambda: _show(session.out, found))


@app.command()
@online
def update(
    session: Session,
    schedule: ScheduleArgument,
    plan: NewPlan = None,
    version: Version = None,
    cron: Cron = None,
    every: Every = None,
    offset: Offset = None,
    calendar: CalendarOption = None,
    timezone: Zone = None,
    start_at: StartAt = None,
    end_at: EndAt = None,
    jitter: Jitter = None,
    overlap: OverlapOption = None,
    catchup_window: Catchup = None,
    pause_on_failure: PauseOnFailure = None,
    remaining: Remaining = None,
    note: Note = None,
    input_: Inputs = None,
    inputs: InputsFile = None,
    priority: PriorityOption = None,
) -> None:
    """Change a schedule: what is not given stays. --cron, --every and --calendar replace all times that there were."""
    address = _address(schedule)
    body = _body(overlap, catchup_window, pause_on_failure, remaining, note, input_, inputs, priority, version)
    spec = _spec(cron, every, offset, calendar, timezone, start_at, end_at, jitter)
    if spec:
        known = session.client.get(address)["spec"]
        if cron or every or calendar:
            known = {name: value for name, value in known.items() if name not in _TIMES}
        body["spec"] = {name: value for name, value in {**known, **spec}.items() if value is not None}
    if plan is not None:
        body["planId"] = _plan_id(session, plan)
    if not body:
        raise Usage("Nothing is to be changed.", hint="`dalang schedules update --help` tells what can be.")
    found = session.client.request("PATCH", address, json=body).json()
    session.emit(found, lambda: _show(session.out, found))


@app.command()
@online
def show(session: Session, schedule: ScheduleArgument) -> None:
    """Show a schedule: next times, last runs, why the last start failed."""
    found = session.client.get(_address(schedule))
    session.emit(found, lambda: _show(session.out, found))


@app.command("next")
@online
def next_(session: Session, schedule: ScheduleArgument) -> None:
    """Print the times at which it is due next, in UTC."""
    found = session.client.get(_address(schedule))
    times = {"scheduleId": found["scheduleId"], "paused": found["paused"], "nextTimes": found["nextTimes"]}

    def write() -> None:
        for at in found["nextTimes"]:
            session.out.print(at)
        if found["paused"]:
            session.note("It is paused.")

    session.emit(times, write)


@app.command()
@online
def pause(session: Session, schedule: ScheduleArgument, reason: Reason = None) -> None:
    """Start nothing any more; runs under way go on."""
    _control(session, schedule, "pause", "is paused", reason)


@app.command()
@online
def resume(session: Session, schedule: ScheduleArgument, reason: Reason = None) -> None:
    """End a pause, of an operator or after a failure."""
    _control(session, schedule, "resume", "goes on", reason)


@app.command()
@online
def trigger(session: Session, schedule: ScheduleArgument, overlap: OverlapOption = None) -> None:
    """Start a run now, also while it is paused."""
    body = {} if overlap is None else {"overlap": str(overlap)}
    _accepted(session, session.client.post(f"{_address(schedule)}/trigger", body))


@app.command()
@online
def backfill(
    session: Session,
    schedule: ScheduleArgument,
    from_: Annotated[str, typer.Option("--from", help="The first time: 7d (ago), or a date or time (RFC 3339).")],
    to: Annotated[str | None, typer.Option("--to", help="The last time, in the same forms. Default: now.")] = None,
    overlap: Annotated[
        Policy,
        typer.Option("--overlap", case_sensitive=False, help="bufferAll: one after the other; allowAll: at once."),
    ] = Policy.buffer_all,
) -> None:
    """Start runs for the scheduled times of the past that have none."""
    body = {"from": point_in_time(from_, "--from"), "overlap": str(overlap)}
    if to is not None:
        body["to"] = point_in_time(to, "--to")
    _accepted(session, session.client.post(f"{_address(schedule)}/backfill", body))


@app.command()
@online
def delete(session: Session, schedule: ScheduleArgument) -> None:
    """Delete a schedule; its runs stay."""
    session.client.request("DELETE", _address(schedule))
    session.emit({"scheduleId": schedule, "deleted": True}, lambda: session.out.print(f"deleted {schedule}"))


def _address(schedule: str) -> str:
    return f"/schedules/{quote(schedule, safe='')}"


def _plan_id(session: Session, plan: str) -> str:
    from dalang.commands import plan_files

    if plan_files.is_file(plan):
        raise Usage(f"A schedule starts a stored plan, not the file {plan}.", hint=f"`dalang plan push {plan}` first.")
    return session.client.plan_id(plan)


def _spec(
    cron: list[str] | None,
    every: str | None,
    offset: str | None,
    calendar: list[str] | None,
    timezone: str | None,
    start_at: str | None,
    end_at: str | None,
    jitter: str | None,
) -> dict[str, Any]:
    given = {
        "cron": cron,
        "every": every,
        "offset": offset,
        "calendar": [_calendar(one) for one in calendar] if calendar else None,
        "timezone": timezone,
        "startAt": start_at,
        "endAt": end_at,
        "jitter": jitter,
    }
    return {name: value for name, value in given.items() if value is not None and value != []}


def _calendar(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        hint = '--calendar \'{"hour": 9, "dayOfWeek": "MON-FRI"}\''
        raise Usage(f"--calendar {text!r} is no JSON.", hint=hint) from None


def _body(
    overlap: Policy | None,
    catchup_window: str | None,
    pause_on_failure: bool | None,
    remaining: int | None,
    note: str | None,
    pairs: list[str] | None,
    file: str | None,
    priority: str | None,
    version: str | None,
) -> dict[str, Any]:
    from dalang.commands import plan_files

    given = {
        "overlap": None if overlap is None else str(overlap),
        "catchupWindow": catchup_window,
        "pauseOnFailure": pause_on_failure,
        "remainingActions": remaining,
        "note": note,
        "planVersion": version,
        "inputs": plan_files.given_inputs(pairs or (), file) if pairs or file is not None else None,
    }
    if priority is not None:
        given["priority"] = int(priority) if priority.lstrip("-").isdigit() else priority
    return {name: value for name, value in given.items() if value is not None}


def _control(session: Session, schedule: str, control: str, done: str, reason: str | None) -> None:
    found = session.client.post(f"{_address(schedule)}/{control}", {"reason": reason} if reason else {})
    session.emit(found, lambda: session.out.print(f"{schedule} {done}", soft_wrap=True))


def _accepted(session: Session, found: dict[str, Any]) -> None:
    session.emit(found, lambda: session.out.print(found["message"], soft_wrap=True))
    session.note(f"`dalang schedules show {found['scheduleId']}` shows its runs.")


def _when(one: dict[str, Any]) -> str:
    spec = one["spec"]
    parts = [*spec["cron"]]
    if spec["every"]:
        parts.append(f"every {spec['every']}" + (f" + {spec['offset']}" if spec["offset"] != "0s" else ""))
    for calendar in spec["calendar"]:
        fields = (f"{name}={value}" for name, value in calendar.items() if value not in ("0", "*"))
        parts.append(" ".join(fields) or "daily")
    return "; ".join(parts) + (f" ({spec['timezone']})" if spec["timezone"] != "UTC" else "")


def _show(out: Console, found: dict[str, Any]) -> None:
    from rich.text import Text

    from dalang.commands.output import moment, safe, span, styled, table

    counts = found["counts"]
    made = ", ".join(f"{counts[name]} {name}" for name in ("started", "running", "skipped", "missed"))
    state = f"paused: {found['pausedReason'] or ''}" if found["paused"] else "active"
    facts = [
        ("schedule", found["scheduleId"]),
        ("plan", f"{found['planId']} {found['planVersion'] or '(highest version)'}"),
        ("when", _when(found)),
        ("overlap", found["overlap"]),
        ("state", state),
        ("next", ", ".join(moment(at) for at in found["nextTimes"][:3])),
        ("left", "" if found["remainingActions"] is None else str(found["remainingActions"])),
        ("starts", made),
        ("note", found["note"]),
    ]
    for name, value in facts:
        if value:
            out.print(Text.assemble((f"{name:<9}", "dim"), safe(value)), soft_wrap=True)
    error = found["lastError"]
    if error:
        told = f"the start for {error['scheduledFor']} made no run: {error['message']}"
        out.print(Text.assemble(("error    ", "dim"), (safe(told), "red")), soft_wrap=True)
    rows = [
        [run["runId"][:8], styled(run["status"]), run["scheduledFor"], span(run["createdAt"], run["completedAt"])]
        for run in found["lastRuns"]
    ]
    if rows:
        table(out, ["RUN", "STATUS", "SCHEDULED FOR", ">TIME"], rows)
