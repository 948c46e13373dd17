"""``dalang policy``: looking at rules before a process is given them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dalang.commands.failures import FAILED
from dalang.commands.session import Session, local

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `check` a command of its own while it is the only one."""


@app.command()
@local
def check(session: Session, file: Annotated[Path, typer.Argument(help="A YAML or JSON file of rules.")]) -> None:
    """Read a file of policy rules and name all its problems; exit code 1 if there are any."""
    from rich.text import Text

    from dalang.errors import InvalidDocument
    from dalang.policies import read_policy, unreadable

    try:
        policy = read_policy(file.read_bytes())
    except InvalidDocument as error:
        problems = [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in error.problems]
        told = unreadable(error.problems)
        session.emit({"valid": False, "problems": problems}, lambda: session.out.print(Text(f"✗ not valid\n  {told}")))
        raise typer.Exit(FAILED) from None

    def show() -> None:
        count = "1 rule" if len(policy.rules) == 1 else f"{len(policy.rules)} rules"
        session.out.print(Text.assemble(("✓ valid", "bold green"), f"  {count}, default {policy.default}"))

    session.emit({"valid": True, "rules": [rule.name for rule in policy.rules], "default": policy.default}, show)
