"""``dalang artifacts``: files that inputs and outputs refer to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dalang.commands.failures import CommandFailure, Usage
from dalang.commands.runs import point_in_time
from dalang.commands.session import Session, online

app = typer.Typer(no_args_is_help=True)


@app.command()
@online
def put(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to keep.", show_default=False)],
    media_type: Annotated[
        str | None, typer.Option("--media-type", help="What it is; guessed from its name by default.")
    ] = None,
) -> None:
    """Keep a file, and print the reference to it."""
    import mimetypes

    if not file.is_file():
        raise Usage(f"There is no file {file}.", code="NO_FILE")
    kind = media_type or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    made = session.client.upload("/artifacts", file, kind, name=file.name[:200])
    session.emit(made, lambda: session.out.print(made["reference"], soft_wrap=True))


@app.command()
@online
def get(
    session: Session,
    reference: Annotated[
        str, typer.Argument(metavar="REFERENCE", help="artifact://sha256/..., or the digest.", show_default=False)
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write it. Default: standard output.")
    ] = None,
) -> None:
    """Read a file, and check that it is what the reference says."""
    import hashlib
    import sys

    from dalang.artifact_references import digest_of

    try:
        digest = digest_of(reference)
    except ValueError as error:
        raise Usage(str(error)) from None
    hashed = hashlib.sha256()
    target = None if output is None else output.with_name(f".{output.name}.part")
    try:
        with sys.stdout.buffer if target is None else target.open("wb") as file:
            for chunk in session.client.download(f"/artifacts/{digest}"):
                hashed.update(chunk)
                file.write(chunk)
            file.flush()
            if hashed.hexdigest() != digest:
                raise CommandFailure("DAMAGED", "What came is not what the reference says; ask who runs the API.")
            if target is not None and output is not None:
                target.replace(output)
    finally:
        if target is not None:
            target.unlink(missing_ok=True)


@app.command("list")
@online
def list_(
    session: Session,
    run: Annotated[str | None, typer.Option("--run", help="Only those of this run.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
) -> None:
    """List files, the newest first."""
    from dalang.commands.output import age, table

    run_id = None if run is None else session.client.run_id(run)
    found = session.client.pages("/artifacts", limit=limit, runId=run_id)

    def show() -> None:
        rows = [
            [one["digest"][:16], f"{one['size']:,}", one["mediaType"], one["name"] or "-", one["nodeId"] or "-",
             age(one["createdAt"])]
            for one in found["items"]
        ]  # fmt: skip
        if rows:
            table(session.out, ["DIGEST", ">BYTES", "MEDIA TYPE", "NAME", "NODE", ">AGE"], rows, flexible="NAME")
        else:
            session.note("No artifact yet; `dalang artifacts put FILE` keeps one.")

    session.emit(found, show)


@app.command()
@online
def clean(
    session: Session,
    unused_for: Annotated[
        str, typer.Option("--unused-for", help="Not used for so long: 30d, or since a date or time (RFC 3339).")
    ],
) -> None:
    """Delete files that nobody has used for a while, of runs that have ended."""
    since = {"unusedSince": point_in_time(unused_for, "--unused-for")}
    deleted, more = 0, True
    while more:
        answer = session.client.request("DELETE", "/artifacts", params=since).json()
        deleted, more = deleted + answer["deleted"], answer["more"]
    session.emit({"deleted": deleted}, lambda: session.out.print(f"{deleted} deleted"))
