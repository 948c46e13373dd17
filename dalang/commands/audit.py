"""``dalang audit``: proving that nobody rewrote what a run did."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dalang.commands.failures import FAILED, Usage
from dalang.commands.runs import RunArgument
from dalang.commands.session import Session, online

VERIFIED_AT_ONCE = 50
ANCHORS_AT_ONCE = 20

app = typer.Typer(no_args_is_help=True)


@app.command()
@online
def verify(
    session: Session,
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="A run id, the unique beginning of one, or `latest`.", show_default=False),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Check all runs, anchors, system events.")] = False,
    kept: Annotated[
        Path | None,
        typer.Option(
            "--anchors",
            metavar="FILE",
            help="With --all: anchors that were kept elsewhere, as `audit anchors --json` wrote them.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compute hash chains again and check signatures; exit code 1 if an event was changed, removed, added or moved."""
    if (run is None) != all_ or (kept is not None and not all_):
        raise Usage("Name a run, or give --all.")
    if run is None:
        _verify_all(session, kept)
    else:
        _verify_one(session, run)


def _verify_one(session: Session, run: str) -> None:
    run_id = session.client.run_id(run)
    found = session.client.get(f"/runs/{run_id}/verify")

    def show() -> None:
        from rich.text import Text

        head = found["head"]
        if not found["valid"]:
            _tell(session, found)
            return
        erased = f", {found['erasedBodies']:,} erased bodies" if found.get("erasedBodies") else ""
        session.out.print(Text.assemble(("✓ intact", "bold green"), f"  {found['events']:,} events{erased}"))
        session.out.print(f"  head {head['epoch']}.{head['seq']}  {head['hash']}", soft_wrap=True)
        said = f"signature {_worded(found['signature'])}, Temporal {_worded(found['temporal'])}"
        session.out.print(f"  {said}, anchored {found['anchored']} times")

    session.emit(found, show)
    if not found["valid"]:
        raise typer.Exit(FAILED)


def _verify_all(session: Session, kept: Path | None) -> None:
    runs = _checked(session, "/audit/verify", limit=VERIFIED_AT_ONCE)
    anchors = _checked(session, "/audit/anchors/verify", limit=ANCHORS_AT_ONCE)
    system = session.client.get("/audit/system/verify")
    tampered = [item for page in runs for item in page["items"]]
    finding = anchors[-1]["finding"] or (None if kept is None else _differs(session, kept))
    found = {
        "valid": not tampered and finding is None and system["valid"],
        "checked": sum(page["checked"] for page in runs),
        "items": tampered,
        "anchors": sum(page["checked"] for page in anchors),
        "anchorFinding": finding,
        "system": system,
    }

    def show() -> None:
        from rich.text import Text

        from dalang.commands.output import safe

        for one in tampered:
            _tell(session, one, f"run {one['runId']}, ")
        if finding is not None:
            mark = (f"✗ {finding['what']}", "bold red")
            line = Text.assemble(mark, f"  anchor {finding['number']}: {safe(finding['message'])}")
            session.out.print(line, soft_wrap=True)
        if not system["valid"]:
            _tell(session, system, "system ")
        if found["valid"]:
            said = f"  {found['checked']:,} runs, {found['anchors']:,} anchors, {system['events']:,} system events"
            session.out.print(Text.assemble(("✓ intact", "bold green"), said))

    session.emit(found, show)
    if not found["valid"]:
        raise typer.Exit(FAILED)


def _differs(session: Session, kept: Path) -> dict[str, Any] | None:
    """Compare the anchors that somebody kept with those that are there; return the first that is another one."""
    try:
        known = [(one["number"], one["digest"]) for one in json.loads(kept.read_text(encoding="utf-8"))["items"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Usage(f"{kept} holds no anchors: {error}") from None
    found = session.client.pages("/audit/anchors", limit=max((number for number, _ in known), default=1))
    digests = {one["number"]: one["digest"] for one in found["items"]}
    for number, digest in sorted(known):
        if digests.get(number) != digest:
            gone = number not in digests
            message = (
                "It was kept elsewhere, and is gone here." if gone else "It is not the one that was kept elsewhere."
            )
            return {"what": "REMOVED" if gone else "CHANGED", "number": number, "message": message}
    return None


def _checked(session: Session, path: str, limit: int) -> list[Any]:
    pages = [session.client.get(path, limit=limit)]
    while pages[-1]["next"] is not None:
        pages.append(session.client.get(path, limit=limit, cursor=pages[-1]["next"]))
    return pages


def _tell(session: Session, found: Any, of: str = "") -> None:
    from rich.text import Text

    from dalang.commands.output import safe

    finding = found["finding"]
    where = f"{of}event {finding['epoch']}.{finding['seq']}"
    line = Text.assemble((f"✗ {finding['what']}", "bold red"), f"  {where}: {safe(finding['message'])}")
    session.out.print(line, soft_wrap=True)


@app.command()
@online
def export(
    session: Session,
    run: RunArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. Default: standard output.", show_default=False)
    ] = None,
) -> None:
    """Write a run as JSON Lines with all that proves it; `examples/verify_audit.py` checks it anywhere."""
    path = f"/runs/{session.client.run_id(run)}/export"
    if output is None:
        for piece in session.client.download(path):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    try:
        with output.open("wb") as file:
            for piece in session.client.download(path):
                file.write(piece)
    except OSError as error:
        raise Usage(f"{output} cannot be written: {error.strerror}") from None


@app.command()
@online
def anchors(
    session: Session,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most so many.")] = 100,
) -> None:
    """List anchors, the first one first; with --json they can be kept elsewhere, and checked there."""
    page = session.client.pages("/audit/anchors", limit=limit)
    session.emit(page, lambda: _show_anchors(session, page["items"]))


@app.command()
@online
def anchor(session: Session) -> None:
    """Anchor now what no anchor holds yet; needs the role admin."""
    made = session.client.post("/audit/anchors")
    session.emit(made, lambda: _show_anchors(session, made["items"]))


def _show_anchors(session: Session, items: Sequence[Any]) -> None:
    from dalang.commands.output import moment, table

    if not items:
        session.note("There is none: no run has come any further.")
        return
    rows = [[str(one["number"]), moment(one["at"]), str(one["heads"]), one["digest"]] for one in items]
    table(session.out, [">ANCHOR", "AT", ">RUNS", "DIGEST"], rows, flexible="DIGEST")


@app.command()
@online
def system(
    session: Session,
    type_: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Such as FORBIDDEN. May be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most so many.")] = 50,
) -> None:
    """List what was refused and administered, the newest first; needs the role admin."""
    page = session.client.pages("/audit/system", limit=limit, type=type_ or None)

    def show() -> None:
        from dalang.commands.output import moment, safe, table

        if not page["items"]:
            session.note("Nothing was refused or administered.")
            return
        rows = [
            [str(one["seq"]), moment(one["at"]), one["type"], safe(one["actor"]["id"]), safe(_said(one["data"]))]
            for one in page["items"]
        ]
        table(session.out, [">EVENT", "AT", "TYPE", "WHO", "WHAT"], rows, flexible="WHAT")

    session.emit(page, show)


def _said(data: dict[str, Any]) -> str:
    """Return in a line what an event is about."""
    what = data.get("reason") or " ".join(str(data[name]) for name in ("what", "method", "route") if name in data)
    return f"{what} (and {data['count']} times more)" if "count" in data else what


@app.command()
@online
def keys(session: Session) -> None:
    """Show the public keys that check signatures: what somebody who checks elsewhere has to be given."""
    from dalang.commands.output import table

    found = session.client.get("/audit/keys")

    def show() -> None:
        if not found["items"]:
            session.note("There are no keys: what runs do is not signed (`DALANG_AUDIT_KEY_FILE`).")
            return
        rows = [[one["keyId"], one["publicKey"], "signs" if one["signs"] else ""] for one in found["items"]]
        table(session.out, ["KEY", "PUBLIC KEY", ""], rows, flexible="PUBLIC KEY")

    session.emit(found, show)


def _worded(state: str) -> str:
    return state.lower().replace("_", " ")
