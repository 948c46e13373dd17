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
MAX_RESULT = 400


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
    import tempfile
    import threading

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
    raise Usage(f"There is no {here} here.", hint="Give a plan: dalang demo PLAN", code="NO_FILE")


def _running_stack(session: Session) -> bool:
    """Tell whether a stack that runs in this folder answers."""
    import httpx

    if not (session.settings.home / "stack.json").exists():
        return False
    try:
        return httpx.get(f"{session.settings.api_url}/health/ready", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _show(session: Session, path: str, document: dict[str, Any], *, joined: bool) -> int:
    """Run the plan, show it live, then what came of it and what to do next; return the run's exit code."""
    from dalang.commands.runs import watch_to_end

    settings = session.settings
    begun = session.client.post("/execute", {"plan": document, "inputs": {}})
    found: dict[str, Any] = {}
    code = watch_to_end(session, begun["runId"], document, into=found)
    if session.json or not found:
        return code
    session.out.print()
    _nodes(session, begun["runId"])
    session.out.print()
    _links(
        session,
        ("API reference", f"{settings.api_url}/docs"),
        ("Temporal Web UI", (found.get("links") or {}).get("temporal") or settings.temporal_ui_url),
    )
    _next(session, path, joined)
    return code


def _nodes(session: Session, run_id: str) -> None:
    """Print the run's nodes with what came out of each."""
    from dalang.commands.output import span, styled, table

    items = session.client.pages(f"/runs/{run_id}/nodes", limit=MAX_DETAILS)["items"]
    rows = []
    for node in items:
        detail = session.client.get(f"/runs/{run_id}/nodes/{quote(node['nodeId'], safe='')}")
        result = _result(detail.get("outputs") or {}) or (detail.get("error") or {}).get("message", "")
        rows.append([node["name"], styled(node["status"]), span(node["startedAt"], node["completedAt"]), result])
    table(session.out, ["NODE", "STATUS", ">TIME", "RESULT"], rows)


def _result(outputs: dict[str, Any]) -> str:
    """Return what a person wants to see of outputs: a summary if there is one, else the first values."""
    for key in ("summary", "result", "message", "text"):
        if isinstance(outputs.get(key), str):
            return str(outputs[key])[:MAX_RESULT]
    plain = [f"{key}: {value}" for key, value in outputs.items() if isinstance(value, (str, int, float, bool))]
    return ", ".join(plain)[:MAX_RESULT]


def _next(session: Session, path: str, joined: bool) -> None:
    from rich.text import Text

    lines = [("dalang plan show " + path, "levels, critical path, slack")]
    if not joined:
        lines = [
            ("dalang demo --keep", "the same, and the stack runs on until Ctrl-C"),
            (f"dalang up --node-modules {NODE_MODULE}", "a stack of your own, its data in .dalang; then"),
            (f"dalang run {path}", "run a plan on it"),
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


def _links(session: Session, *links: tuple[str, str]) -> None:
    from rich.text import Text

    for name, address in links:
        session.out.print(
            Text.assemble((f"{name:<16} ", "dim"), (address, f"underline link {address}")), soft_wrap=True
        )


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
    embedded = Embedded(on_free_ports(given.model_copy(update={"node_modules": modules})))
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
