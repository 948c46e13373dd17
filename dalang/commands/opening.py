"""``dalang open``: the pages in a browser that is signed in already."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from dalang.commands.session import Session, online

app = typer.Typer()


@app.command("open")
@online
def open_(
    session: Session,
    run: Annotated[
        str | None, typer.Argument(help="Open the page of this run: its id, the beginning of it, or `latest`.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser, not only print the address.")] = True,
) -> None:
    """Open the pages in the browser, signed in as the token's owner.

    The address that is printed works once, within two minutes.
    """
    import webbrowser

    page = None if run is None else f"/ui/runs/{session.client.run_id(run)}"
    made = session.client.post("/sign-in-tickets")
    address = made["url"] + ("" if page is None else f"&next={quote(page)}")
    session.emit({"url": address, "expiresAt": made["expiresAt"]}, lambda: session.out.print(address, soft_wrap=True))
    if browser and not session.json:
        webbrowser.open(address)
    session.note("It works once, within two minutes.")
