"""``dalang agents``: who does the work of nodes that ask for capabilities."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from dalang.commands.failures import Usage
from dalang.commands.session import Session, online

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(no_args_is_help=True)


class Kind(StrEnum):
    """Where an agent works; as ``store.agents.AgentKind``."""

    poll = "poll"
    task_queue = "taskQueue"
    local = "local"
    a2a = "a2a"


class Status(StrEnum):
    """What an agent is doing; as ``store.agents.AgentStatus``."""

    idle = "Idle"
    working = "Working"
    offline = "Offline"
    draining = "Draining"


AgentArgument = Annotated[str, typer.Argument(metavar="AGENT", help="Its id.", show_default=False)]


@app.command("list")
@online
def list_(
    session: Session,
    status: Annotated[Status | None, typer.Option("--status", case_sensitive=False, help="Only these.")] = None,
    capability: Annotated[str | None, typer.Option("--capability", help="Only agents that offer it.")] = None,
    kind: Annotated[Kind | None, typer.Option("--kind", case_sensitive=False, help="Only these.")] = None,
) -> None:
    """List agents with what each is doing, and the statistics of all."""
    from dalang.commands.output import styled, table

    page = session.client.get("/agents", status=_text(status), capability=capability, kind=_text(kind))
    totals = session.client.get("/agents/statistics")

    def show() -> None:
        rows = [
            [
                one["agentId"] + (" (shared)" if one["shared"] else ""),
                one["kind"],
                styled(one["status"]),
                f"{one['activeTasks']}/{one['maxConcurrentTasks']}",
                ", ".join(one["capabilities"]),
            ]
            for one in page["items"]
        ]
        if not rows:
            session.note("No such agent; `dalang agents register` makes one known.")
            return
        table(session.out, ["AGENT", "KIND", "STATUS", ">TASKS", "CAPABILITIES"], rows, flexible="CAPABILITIES")
        session.note(
            f"{totals['totalAgents']} agents: {totals['workingAgents']} working, {totals['idleAgents']} idle, "
            f"{totals['drainingAgents']} draining, {totals['offlineAgents']} offline; load {totals['averageLoad']:.0%}"
        )

    session.emit({**page, "statistics": totals}, show)


@app.command()
@online
def show(session: Session, agent: AgentArgument) -> None:
    """Show an agent: what it can do, what it is doing, when it was heard of last."""
    found = session.client.get(_address(agent))
    session.emit(found, lambda: _show(session.out, found))


@app.command()
@online
def register(
    session: Session,
    agent: AgentArgument,
    kind: Annotated[Kind, typer.Option("--kind", case_sensitive=False, help="Where it works.")] = Kind.poll,
    capability: Annotated[
        list[str] | None,
        typer.Option("--capability", metavar="NAME[=0..1]", help="What it can do, and how well; may be repeated."),
    ] = None,
    max_tasks: Annotated[int, typer.Option("--max-tasks", min=1, help="So many nodes at once.")] = 1,
    name: Annotated[str | None, typer.Option("--name", help="For people; of a local agent its function.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="May be repeated.")] = None,
    task_queue: Annotated[str | None, typer.Option("--task-queue", help="Where a Temporal worker takes work.")] = None,
    activity: Annotated[str | None, typer.Option("--activity", help="Its activity type. Default: the node's.")] = None,
    activity_heartbeat: Annotated[
        str | None, typer.Option("--activity-heartbeat", help="Its activities tell so often that they live: 10s.")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Of kind a2a: where it, or its agent card, is found.")
    ] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="Of kind a2a: a2a, or wayang.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="Its id with Wayang's router.")] = None,
    skill: Annotated[str | None, typer.Option("--skill", help="Which of its skills is meant.")] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="NAME=VALUE", help="Of requests to it: 'Bearer {{secret://NAME}}'."),
    ] = None,
    heartbeat: Annotated[
        int | None, typer.Option("--heartbeat", metavar="SECONDS", help="Offline after so long a silence.")
    ] = None,
    shared: Annotated[bool, typer.Option("--shared", help="For all tenants; needs the role admin.")] = False,
) -> None:
    """Register an agent, or say anew what it is."""
    endpoint = {
        "taskQueue": task_queue,
        "activity": activity,
        "heartbeat": activity_heartbeat,
        "url": url,
        "protocol": protocol,
        "target": target,
        "skill": skill,
        "headers": dict(_label(one) for one in header) if header else None,
    }
    given = {
        "kind": str(kind),
        "name": name,
        "capabilities": dict(_capability(one) for one in capability or ()),
        "maxConcurrentTasks": max_tasks,
        "labels": dict(_label(one) for one in label or ()),
        "endpoint": {key: value for key, value in endpoint.items() if value is not None} or None,
        "heartbeatSeconds": heartbeat,
        "shared": shared or None,
    }
    body = {key: value for key, value in given.items() if value is not None}
    found = session.client.request("PUT", _address(agent), json=body).json()
    session.emit(found, lambda: _show(session.out, found))


@app.command()
@online
def drain(
    session: Session,
    agent: AgentArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Let it take work again.")] = False,
) -> None:
    """Give an agent nothing new any more; what it works at goes on."""
    found = session.client.post(f"{_address(agent)}/drain", {"draining": not undo})
    session.emit(found, lambda: session.out.print(f"{agent} is {found['status']}", soft_wrap=True, markup=False))


@app.command()
@online
def remove(session: Session, agent: AgentArgument) -> None:
    """Forget an agent."""
    session.client.request("DELETE", _address(agent))
    done = {"agentId": agent, "removed": True}
    session.emit(done, lambda: session.out.print(f"removed {agent}", soft_wrap=True, markup=False))


def _address(agent: str) -> str:
    return f"/agents/{quote(agent, safe='')}"


def _text(value: StrEnum | None) -> str | None:
    return None if value is None else str(value)


def _capability(text: str) -> tuple[str, float]:
    name, separator, proficiency = text.partition("=")
    try:
        return name, float(proficiency) if separator else 1.0
    except ValueError:
        raise Usage(f"--capability {text!r} is no NAME or NAME=0.8.") from None


def _label(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise Usage(f"--label {text!r} is no KEY=VALUE.")
    return name, value


def _show(out: Console, one: dict[str, Any]) -> None:
    from rich.text import Text

    from dalang.commands.output import moment, safe

    silence = f"{one['heartbeatSeconds']} s of silence" if one["heartbeatSeconds"] else ""
    facts = [
        ("agent", one["agentId"]),
        ("name", one["name"] if one["name"] != one["agentId"] else ""),
        ("kind", one["kind"] + (", for all tenants" if one["shared"] else "")),
        ("status", one["status"]),
        ("tasks", f"{one['activeTasks']} of {one['maxConcurrentTasks']}"),
        ("can", ", ".join(f"{name} {value:g}" for name, value in one["capabilities"].items())),
        ("labels", ", ".join(f"{name}={value}" for name, value in one["labels"].items())),
        ("endpoint", ", ".join(f"{name} {value}" for name, value in one["endpoint"].items())),
        ("heard of", moment(one["heartbeatAt"]) if one["heartbeatAt"] else ""),
        ("offline", silence and f"after {silence}"),
        ("made", f"{moment(one['registeredAt'])} by {one['registeredBy']}"),
    ]
    for name, value in facts:
        if value:
            out.print(Text.assemble((f"{name:<9}", "dim"), safe(value)), soft_wrap=True)
