"""``dalang demo``: a plan at work on a real stack, made for the purpose and gone afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from dalang.commands.failures import INTERRUPTED, Usage
from dalang.commands.session import Session, local

if TYPE_CHECKING:
    from rich.text import Text

    from dalang.settings import Settings

app = typer.Typer()

PLAN = "feature-development.yaml"
NODE_MODULE = "dalang.demo"
MAX_DETAILS = 30
BAR = 20


@app.command()
@local
def demo(
    session: Session,
    plan: Annotated[
        Path | None, typer.Argument(metavar="[PLAN]", help="A plan's file. Default: examples/feature-development.yaml.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Let the stack run until Ctrl-C, to look around.")] = False,
) -> None:
    """Show a plan at work: start a real stack in a temporary folder, run the plan, stop the stack.

    Where a stack runs in this folder already (`dalang up`), the plan runs there. The exit code is the run's.
    """
    from dalang.commands import plan_files

    path = str(plan or _example())
    document = plan_files.load(path).require().wire()
    joined = _running_stack(session)
    if joined:
        _say(session, ("Running on the stack of ", ""), (str(session.settings.home), "bold"))
        code = _show(session, path, document, joined=True)
        raise typer.Exit(code)
    import shutil
    import signal
    import tempfile
    import threading

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)  # a closed terminal must not leave a stack and its folder behind either
    folder = Path(tempfile.mkdtemp(prefix="dalang-demo-"))
    try:
        with _stack(session, folder) as settings:
            session.settings = settings
            code = _show(session, path, document, joined=False)
            if keep and code != INTERRUPTED:
                _say(session, ("The stack runs until Ctrl-C; its logs are in ", ""), (f"{folder}/logs", "bold"))
                with contextlib.suppress(KeyboardInterrupt):
                    threading.Event().wait()
    finally:
        session.close()
        shutil.rmtree(folder, ignore_errors=True)
    raise typer.Exit(code)


def _example() -> Path:
    """Return the default plan: of the current folder, else of the checkout that this is."""
    here = Path("examples") / PLAN
    beside = Path(__file__).resolve().parents[2] / "examples" / PLAN
    inside = Path(__file__).resolve().parents[1] / "examples" / PLAN
    for path in (here, beside, inside):
        if path.is_file():
            return path
    hint = "Examples come with the source, not with an installed Dalang. Give a plan: dalang demo PLAN"
    raise Usage(f"There is no {here} here.", hint=hint, code="NO_FILE")


def _running_stack(session: Session) -> bool:
    """Tell whether a stack that runs in this folder answers."""
    import httpx

    from dalang.trust import trusted

    if not (session.settings.home / "stack.json").exists():
        return False
    try:
        address = f"{session.settings.api_url}/health/ready"
        return httpx.get(address, timeout=2, trust_env=False, verify=trusted()).is_success
    except httpx.HTTPError:
        return False


def _show(session: Session, path: str, document: dict[str, Any], *, joined: bool) -> int:
    """Run the plan, show it live, then what came of it and what to do next; return the run's exit code."""
    from dalang.commands.output import safe
    from dalang.commands.runs import watch_to_end

    settings = session.settings
    size = f"  {path}, {len(document['nodes'])} nodes"
    _say(session, (safe(document["name"]), "bold"), (size, "dim"))
    begun = session.client.post("/execute", {"plan": document, "inputs": {}})
    found: dict[str, Any] = {}
    code = watch_to_end(session, begun["runId"], document, into=found)
    if session.json or not found:
        return code
    session.out.print()
    _nodes(session, begun["runId"])
    session.out.print()
    here = (found.get("links") or {}).get("temporal") or settings.temporal_ui_url
    for name, address, leads in (
        ("API reference", f"{settings.api_url}/docs", f"{settings.api_url}/docs"),
        ("Temporal Web UI", settings.temporal_ui_url, here),
    ):
        _say(session, (f"{name:<16} ", "dim"), (address, f"underline link {leads}"))
    session.out.print()
    _next(session, path, joined)
    return code


def _nodes(session: Session, run_id: str) -> None:
    """Print the run's nodes with what came out of each."""
    from rich.text import Text

    from dalang.commands.output import instant, span, styled, table

    items = session.client.pages(f"/runs/{run_id}/nodes", limit=MAX_DETAILS)["items"]
    begins = [at.timestamp() for node in items if (at := instant(node["startedAt"]))]
    ends = [at.timestamp() for node in items if (at := instant(node["completedAt"]))]
    first, last = min(begins, default=0.0), max(ends, default=0.0)
    rows = []
    for node in items:
        detail = session.client.get(f"/runs/{run_id}/nodes/{quote(node['nodeId'], safe='')}")
        result = _result(detail) or (detail.get("error") or {}).get("message", "")
        bar = Text(_bar(node, first, last, "#" if session.out.options.ascii_only else "━"), style="cyan")
        lasted = span(node["startedAt"], node["completedAt"]) if node["startedAt"] else "-"
        rows.append([node["name"], styled(node["status"]), lasted, bar, result])
    table(session.out, ["NODE", "STATUS", ">TIME", "WHEN".ljust(BAR), "RESULT"], rows)


def _bar(node: dict[str, Any], first: float, last: float, mark: str) -> str:
    """Return when a node ran, between the first start and the last end."""
    from dalang.commands.output import instant

    began, ended = instant(node["startedAt"]), instant(node["completedAt"])
    if began is None or ended is None or last <= first:
        return ""
    start = min(int((began.timestamp() - first) / (last - first) * BAR), BAR - 1)
    end = max(round((ended.timestamp() - first) / (last - first) * BAR), start + 1)
    return " " * start + mark * (end - start)


def _result(node: dict[str, Any]) -> str:
    """Return what is new in a node's outputs, each value in a word or two."""
    outputs, inputs = node.get("outputs") or {}, node.get("inputs") or {}
    new = {key: value for key, value in outputs.items() if inputs.get(key) != value}
    told = [(key, value) for key, value in new.items() if value not in (None, "", [], {})]
    told.sort(
        key=lambda item: not isinstance(item[1], (bool, int, float))
    )  # numbers and verdicts are not to be cut off
    return ", ".join(f"{key} {_brief(value)}" for key, value in told)


def _brief(value: Any) -> str:
    if isinstance(value, str):
        lines = value.count("\n") + (not value.endswith("\n"))
        return f"({lines} lines)" if lines > 1 else repr(value[:40])
    if isinstance(value, dict):
        return f"({', '.join(list(value)[:4])})"
    if isinstance(value, list):
        return f"({len(value)})"
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _next(session: Session, path: str, joined: bool) -> None:
    from rich.text import Text

    dalang = _program()
    lines = [(f"{dalang} plan show {path}", "look at a plan")]
    if not joined:
        lines = [
            (f"{dalang} demo --keep", "keep the stack"),
            (f"{dalang} up --node-modules {NODE_MODULE}", "start your own"),
            (f"{dalang} run {path}", "and run on it"),
            *lines,
        ]
        session.out.print(
            Text("The demo's stack stops now, and the addresses with it. Next:", style="bold"), soft_wrap=True
        )
    else:
        session.out.print(Text("Next:", style="bold"))
    width = max(len(command) for command, _ in lines)
    for command, meaning in lines:
        session.out.print(Text.assemble((f"  {command:<{width}}", "cyan"), (f"  {meaning}", "dim")), soft_wrap=True)


def _program() -> str:
    """Return what to type for ``dalang``: `make demo` runs it from a virtual environment that is not on the path."""
    import shutil
    import sys

    return "dalang" if shutil.which("dalang") else sys.argv[0]


def _say(session: Session, *parts: tuple[str, str]) -> None:
    if not session.json:
        session.out.print(_text(*parts), soft_wrap=True)


def _text(*parts: tuple[str, str]) -> Text:
    from rich.text import Text

    return Text.assemble(*parts)


@contextlib.contextmanager
def _stack(session: Session, folder: Path) -> Iterator[Settings]:
    """Run a whole stack on free ports for the time of the block, and tell about it."""
    import time

    from dalang.commands.embedded import Embedded
    from dalang.settings import Settings
    from dalang.stack.private_files import make_home
    from dalang.stack.supervisor import on_free_ports

    given = Settings.load(home=make_home(folder), running_stack=False)
    modules = tuple(dict.fromkeys((*given.node_modules, NODE_MODULE)))
    # The services that its examples call run on this machine.
    allowed = tuple(dict.fromkeys((*given.egress_allow, "127.0.0.1")))
    embedded = Embedded(on_free_ports(given.model_copy(update={"node_modules": modules, "egress_allow": allowed})))
    began = time.monotonic()
    waiting = _text(("Starting PostgreSQL, Temporal, a worker and the API ...", "dim"))
    try:
        if session.json or not session.out.is_terminal:
            _say(session, (waiting.plain, ""))
            settings = embedded.start()
        else:
            with session.out.status(waiting):
                settings = embedded.start()
        lasted = f"{time.monotonic() - began:.1f}s"
        _say(
            session, ("✓ ", "bold green"), ("PostgreSQL, Temporal, worker, API", "bold"), (f"  up in {lasted}\n", "dim")
        )
        yield settings
    finally:
        embedded.stop()
