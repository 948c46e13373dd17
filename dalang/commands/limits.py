"""``dalang pools``, ``dalang quotas``, ``dalang queue``: what is limited, how much of it is in use, and who waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from dalang.commands.failures import Usage
from dalang.commands.session import Session, online

if TYPE_CHECKING:
    from rich.console import Console

pools = typer.Typer(no_args_is_help=True)
quotas = typer.Typer(no_args_is_help=True)
app = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name: cpu, memory, gpu, or one of yours.")]
Shared = Annotated[bool, typer.Option("--shared", help="The pool that all tenants share; an admin's to change.")]


def _address(name: str, shared: bool) -> str:
    return f"/pools/{quote(name, safe='')}" + ("?shared=true" if shared else "")


@pools.command("list")
@online
def list_(session: Session) -> None:
    """List the pools that bind your tenant, with what of them is in use and how many nodes wait."""
    found = session.client.get("/pools")

    def show() -> None:
        from dalang.commands.output import table

        rows = [row for pool in found["items"] for row in _pool_rows(pool)]
        if rows:
            heads = ["POOL", ">SIZE", ">USED", ">FREE", ">%", ">WAITING", ">RATE", "OF", "ABOUT"]
            table(session.out, heads, rows, flexible="ABOUT")
        else:
            session.note("Nothing is limited; `dalang pools set NAME --size N` limits something.")

    session.emit(found, show)


def _pool_rows(pool: Mapping[str, Any]) -> list[list[str]]:
    of = "everybody" if pool["shared"] else "tenant"
    of += "" if pool["binding"] else " (not binding)"
    rate = "-" if pool["rate"] is None else f"{number(pool['rate'])}/s, {number(pool['burst'])} at once"

    def row(name: str, use: Mapping[str, Any], rest: tuple[str, str, str]) -> list[str]:
        percent = "-" if use["percent"] is None else f"{use['percent']:.0f}"
        counts = [number(use[key]) for key in ("total", "used", "available")]
        return [name, *counts, percent, str(use["waiting"]), *rest]

    rows = [row(pool["name"], pool, (rate, of, pool["description"]))]
    return rows + [row(f"{pool['name']}/{one['key']}", one, ("", "", "")) for one in pool["keys"]]


@pools.command("set")
@online
def set_(
    session: Session,
    name: Name,
    size: Annotated[float | None, typer.Option("--size", min=0, help="So much at once.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=0, help="So much a second.")] = None,
    burst: Annotated[
        float | None, typer.Option("--burst", min=0, help="Of --rate: at most so much at once. Default: a second's.")
    ] = None,
    description: Annotated[str, typer.Option("--description", help="For people.")] = "",
    shared: Shared = False,
) -> None:
    """Make a pool, or change it: what is not given is not kept."""
    if size is None and rate is None:
        raise Usage("Give --size, --rate, or both.")
    body = {"size": size, "rate": rate, "burst": burst, "description": description}
    found = session.client.request("PUT", _address(name, shared), json=body).json()
    limits = [f"{number(found['size'])} at once"] if found["size"] is not None else []
    limits += [f"{number(found['rate'])} a second"] if found["rate"] is not None else []
    session.emit(found, lambda: session.out.print(f"pool {name}: {', '.join(limits)}", soft_wrap=True))


@pools.command()
@online
def delete(session: Session, name: Name, shared: Shared = False) -> None:
    """Limit it no more; who waits for nothing else goes on."""
    session.client.request("DELETE", _address(name, shared))
    session.emit({"deleted": name}, lambda: session.out.print(f"pool {name} is gone", soft_wrap=True))


@quotas.command()
@online
def show(session: Session) -> None:
    """Show what your tenant may use at once, and what it uses."""
    found = session.client.get("/quotas")
    session.emit(found, lambda: _show_quota(session.out, found))


@quotas.command("set")
@online
def set_quota(
    session: Session,
    nodes: Annotated[int | None, typer.Option("--nodes", min=0, help="Nodes at once.")] = None,
    cpu: Annotated[float | None, typer.Option("--cpu", min=0, help="Cores of them together.")] = None,
    memory: Annotated[float | None, typer.Option("--memory", min=0, help="Their memory in MiB.")] = None,
    weight: Annotated[float, typer.Option("--weight", min=0, help="Share where tenants compete.")] = 1,
) -> None:
    """Set what your tenant may use at once, all of it: what is not given is not limited. Takes an admin."""
    body = {"maxNodes": nodes, "cpuCores": cpu, "memoryMb": memory, "weight": weight}
    found = session.client.request("PUT", "/quotas", json=body).json()
    session.emit(found, lambda: _show_quota(session.out, found))


@quotas.command()
@online
def clear(session: Session) -> None:
    """Let your tenant use as much as there is. Takes an admin."""
    session.client.request("DELETE", "/quotas")
    session.emit({"cleared": True}, lambda: session.out.print("no quota"))


def _show_quota(out: Console, found: Mapping[str, Any]) -> None:
    from dalang.commands.output import table

    lines = (
        ("nodes", found["maxNodes"], found["usedNodes"]),
        ("cpu cores", found["cpuCores"], found["usedCpuCores"]),
        ("memory MiB", found["memoryMb"], found["usedMemoryMb"]),
    )
    rows = [[name, "no limit" if most is None else number(most), number(used)] for name, most, used in lines]
    table(out, ["QUOTA", ">AT MOST", ">USED"], [*rows, ["weight", number(found["weight"]), ""]])


@app.command()
@online
def queue(
    session: Session,
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Only nodes of this run, those put off included.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000, help="At most so many.")] = 50,
) -> None:
    """Show which nodes wait for a lease, at which place, since when, and for what."""
    client = session.client
    found = client.get("/queue", limit=limit) if run is None else client.get(f"/runs/{client.run_id(run)}/queue")

    def show() -> None:
        from dalang.commands.output import rough, table

        if "size" in found:
            line = f"{found['size']:,} wait, {found['active']:,} hold a lease"
            line += f", the oldest has waited {rough(found['oldestSeconds'])}" if found["size"] else ""
            session.note(line)
        rows = [_queued_row(one) for one in found["items"]]
        if rows:
            table(session.out, [">PLACE", "RUN", "NODE", ">WAITED", "FOR"], rows, flexible="FOR")
        else:
            session.note("Nobody waits.")

    session.emit(found, show)


def _queued_row(one: Mapping[str, Any]) -> list[str]:
    from dalang.commands.output import age

    waited = age(one["since"]) if one["since"] else "-"
    return [str(one["position"] or "-"), one["runId"][:8], one["nodeId"], waited, waits_for(one)]


def waits_for(queue: Mapping[str, Any]) -> str:
    """Return in words what a QUEUED node waits for, and at which place."""
    from dalang.commands.output import moment

    text = ", ".join(queue.get("short") or ()) or str(queue.get("reason", ""))
    return f"{text} until {moment(queue['until'])}" if queue.get("until") else text


def queued_note(node: Mapping[str, Any]) -> str:
    """Return what is worth saying beside a QUEUED node; empty for others."""
    queue = node.get("queue")
    if not queue:
        return ""
    place = f"place {queue['position']}, " if queue.get("position") else ""
    return f"{place}waits for {waits_for(queue)}"


def number(value: float | None) -> str:
    """Return an amount."""
    return "-" if value is None else f"{value:,.12g}"
