"""``dalang schedules`` on a real stack: what people read, what programs read, exit codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dalang.commands.schedules import Policy
from dalang.timetable import Overlap
from tests.cli.conftest import Dalang
from tests.harness import PATIENCE, ROOT

pytestmark = pytest.mark.usefixtures("here")
EXAMPLE = str(ROOT / "examples/schedule.yaml")


@pytest.fixture
def plan(dalang: Dalang) -> str:
    """The example's plan, stored."""
    assert dalang("plan", "push", EXAMPLE).code == 0
    return "schedule"


async def until(dalang: Dalang, name: str, holds: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Wait until the schedule is as it should be."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found: dict[str, Any] = dalang("schedules", "show", name, "--json").json
            if holds(found):
                return found
            await asyncio.sleep(0.1)


def test_the_policies_are_those_of_the_server() -> None:
    """The command line, which starts without the models, has a list of its own."""
    assert [str(one) for one in Policy] == [str(one) for one in Overlap]


async def test_the_example_is_started_by_its_schedule(dalang: Dalang, plan: str) -> None:
    """As its comment says: pushed, scheduled, triggered; the run knows its time, and what was missed is made up for."""
    comment = [line[4:] for line in Path(EXAMPLE).read_text().splitlines() if line.startswith("#   dalang")]
    assert [line.split()[1] for line in comment] == ["plan", "schedules", "schedules"]
    made = dalang(
        "schedules", "create", "morning-report", "--plan", plan, "--cron", "0 9 * * MON-FRI", "--timezone",
        "Europe/Berlin", "--input", "city=Solo",
    )  # fmt: skip
    assert made.code == 0, made.err
    assert "0 9 * * MON-FRI (Europe/Berlin)" in made.out
    assert dalang("schedules", "trigger", "morning-report").code == 0
    back = ("schedules", "backfill", "morning-report", "--from", "2025-01-06T00:00:00Z", "--to", "2025-01-06T23:00:00Z")
    assert dalang(*back, "--overlap", "allowAll").code == 0
    found = await until(dalang, "morning-report", lambda now: [run["completedAt"] for run in now["lastRuns"]][1:])
    await until(dalang, "morning-report", lambda now: all(run["completedAt"] for run in now["lastRuns"]))
    times = {run["scheduledFor"]: run["runId"] for run in found["lastRuns"]}
    run = dalang("status", times["2025-01-06T08:00:00Z"], "--json").json
    assert (run["status"], run["createdBy"]) == ("COMPLETED", "schedule:morning-report")
    assert run["outputs"] == {"text": "Figures of Solo for 2025-01-06T08:00:00Z"}
    assert len(dalang("list", "--created-by", "schedule:morning-report", "--json").json["items"]) == 2
    shown = dalang("schedules", "show", "morning-report")
    assert "COMPLETED" in shown.out
    assert "2025-01-06T08:00:00Z" in shown.out
    assert dalang("schedules", "delete", "morning-report").code == 0
    gone = dalang("schedules", "show", "morning-report")
    assert (gone.code, "There is no schedule 'morning-report'." in gone.err) == (1, True)


def test_a_schedule_is_changed_paused_and_listed(dalang: Dalang, plan: str) -> None:
    """What is not given stays; the list says when each is due."""
    name = "changing"
    calendar = '{"hour": 9, "dayOfWeek": "MON-FRI"}'
    create = ("schedules", "create", name, "--plan", plan, "--calendar", calendar, "--timezone", "Asia/Jakarta")
    assert dalang(*create, "--overlap", "bufferOne", "--note", "mornings", "--json").json["note"] == "mornings"
    assert dalang(*create).code == 1
    times = [datetime.fromisoformat(one) for one in dalang("schedules", "next", name).out.split()]
    assert len(times) == 10
    assert {(at.hour, at.weekday() < 5) for at in times} == {(2, True)}
    assert "hour=9 dayOfWeek=MON-FRI (Asia/Jakarta)" in dalang("schedules", "list").out
    changed = dalang("schedules", "update", name, "--every", "2h", "--remaining", "3", "--json").json
    assert (changed["spec"]["every"], changed["spec"]["calendar"]) == ("2h", [])
    assert (changed["spec"]["timezone"], changed["overlap"]) == ("Asia/Jakarta", "bufferOne")
    assert changed["remainingActions"] == 3
    changed = dalang("schedules", "update", name, "--jitter", "5s", "--json").json
    assert (changed["spec"]["every"], changed["spec"]["jitter"]) == ("2h", "5s")
    assert dalang("schedules", "update", name).code == 2
    assert dalang("schedules", "pause", name, "--reason", "holidays").code == 0
    assert "paused" in dalang("schedules", "list").out
    paused = dalang("schedules", "next", name)
    assert (paused.out, "It is paused." in paused.err) == ("", True)
    assert "paused by local: holidays" in dalang("schedules", "show", name).out
    assert dalang("schedules", "resume", name, "--json").json["paused"] is False
    found = dalang("schedules", "list", "--plan", plan, "--json").json
    assert name in [one["scheduleId"] for one in found["items"]]
    assert dalang("schedules", "delete", name, "--json").json == {"scheduleId": name, "deleted": True}


def test_what_is_wrong_ends_with_2(dalang: Dalang, plan: str) -> None:
    """Every problem with its pointer; files, unknown plans and unknown policies are told apart."""
    wrong = ("--cron", "61 * * * *", "--timezone", "Mars/Base", "--input", "city=5")
    said = dalang("schedules", "create", "x", "--plan", plan, *wrong, "--json")
    assert said.code == 2
    problems = json.loads(said.err)["error"]["problems"]
    assert {one["pointer"] for one in problems} == {"/spec/cron/0", "/spec/timezone", "/inputs/city"}
    assert dalang("schedules", "create", "x", "--plan", plan).code == 2
    assert dalang("schedules", "create", "x", "--plan", "nobody", "--every", "1h").code == 2
    assert "plan push" in dalang("schedules", "create", "x", "--plan", EXAMPLE, "--every", "1h").err
    assert dalang("schedules", "create", "x", "--plan", plan, "--calendar", "nine").code == 2
    assert dalang("schedules", "create", "x", "--plan", plan, "--every", "1h", "--overlap", "terminateOther").code == 2
    for command in ("show", "next", "pause", "resume", "trigger", "delete"):
        assert dalang("schedules", command, "nobody").code == 1
    assert dalang("schedules", "backfill", "nobody", "--from", "1d").code == 1
    assert dalang("schedules", "backfill", "nobody", "--from", "yesterday").code == 2
