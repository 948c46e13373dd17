"""``dalang doctor``: whether everything that Dalang needs is well, and what to do where it is not."""

from __future__ import annotations

import typer

from dalang.commands.session import Home, Json

app = typer.Typer()
STYLES = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


@app.command()
def doctor(home: Home = None, json: Json = False) -> None:
    """Look at settings, PostgreSQL, Temporal, workers, clocks, disk and keys; say what is not well and what to do.

    Exit code 0 when nothing has failed, 1 otherwise; warnings do not fail.
    """
    import asyncio
    import sys

    from dalang.commands.output import console, safe, write_json
    from dalang.doctor import FAIL, Finding, examine
    from dalang.settings import Settings, SettingsError

    try:
        found = asyncio.run(examine(Settings.load(home=home)))
    except SettingsError as error:
        found = [Finding("settings", FAIL, str(error), "docs/settings.md lists them all.")]
    well = all(one.level != FAIL for one in found)
    if json:
        write_json({"healthy": well, "findings": [vars(one) for one in found]})
    else:
        from rich.text import Text

        out = console(sys.stdout)
        for one in found:
            out.print(
                Text.assemble((f"{one.level:<5}", STYLES[one.level]), f"{one.name:<13}", safe(one.what)), soft_wrap=True
            )
            if one.do:
                out.print(Text(f"{'':<18}{safe(one.do)}", style="dim"), soft_wrap=True)
    raise typer.Exit(0 if well else 1)
