"""How failures and problems look on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from dalang.commands.failures import CommandFailure
from dalang.commands.output import console, safe, safe_lines, write_json

MAX_SHOWN = 50


def complain(failure: CommandFailure, *, json: bool) -> None:
    """Write a failure to stderr: for people, or as one JSON object."""
    if json:
        write_json(failure.wire(), stream=sys.stderr)
        return
    from rich.text import Text

    err = console(sys.stderr)
    err.print(Text.assemble(("error: ", "bold red"), safe_lines(str(failure))), soft_wrap=True)
    if failure.problems:
        show_problems(failure.problems, failure.source)
    if failure.hint:
        err.print(Text.assemble(("next:  ", "bold"), safe_lines(failure.hint)), soft_wrap=True)


def show_problems(problems: Sequence[dict[str, Any]], source: str | None = None) -> None:
    """Write problems of a document to stderr, errors first, each with where it is."""
    from rich.text import Text

    err = console(sys.stderr)
    for problem in problems[:MAX_SHOWN]:
        severity = problem.get("severity", "error")
        style = "red" if severity == "error" else "yellow"
        place = f"{source or ''}:{problem['line']}" if problem.get("line") else (source or "")
        pointer = problem.get("pointer") or ("" if problem.get("parameter") else "/")
        where = " ".join(part for part in (place, pointer, problem.get("parameter", "")) if part)
        line = Text("  ")
        line.append(f"{severity:<8}", style=style)
        line.append(safe(where), style="bold")
        line.append(f"  {safe(problem.get('code', ''))}", style="dim")
        err.print(line, soft_wrap=True)
        err.print(Text(f"          {safe(problem.get('message', ''))}"), soft_wrap=True)
    if len(problems) > MAX_SHOWN:
        err.print(Text(f"  ... and {len(problems) - MAX_SHOWN} more (--json lists all)", style="dim"), soft_wrap=True)
