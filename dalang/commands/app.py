"""The whole command line: every way a command can end is turned into an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from dalang.commands.failures import FAILED, INTERRUPTED, CommandFailure, Usage, of_exception
from dalang.commands.program import NAMES, outline, program

# Typer brings its own click in some versions; its errors are found through what it exports in all.
USAGE_ERROR: Any = typer.BadParameter.__base__
CLICK_ERROR: Any = USAGE_ERROR.__base__


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; whatever goes wrong is told on stderr, never as a traceback."""
    as_json = "--json" in arguments
    try:
        answer = _program(arguments).main(args=list(arguments), prog_name="dalang", standalone_mode=False)
    except CLICK_ERROR as error:
        return _wrong_usage(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output (`| head`) has enough; Python must not try to write the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        failure = of_exception(error)
        if failure is None:
            failure = _defect(error)
        _complain(failure, as_json)
        return failure.exit_code
    return answer if isinstance(answer, int) else 0


def _program(arguments: Sequence[str]) -> Any:
    """Return so much of the command line as these arguments need."""
    words = list(arguments) or _before_the_cursor()
    if words and words[0] in NAMES:
        return program(words[0])
    return outline() if not words or words[0] in ("-h", "--help", "--version") else program()


def _before_the_cursor() -> list[str]:
    """Return the words that precede the one for which a shell asks what it could be; none if no shell asks."""
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    return line.split(" ")[1:-1]


def _wrong_usage(error: Any, as_json: bool) -> int:
    if as_json or not isinstance(error, USAGE_ERROR):
        _complain(Usage(error.format_message(), hint="Add --help for what it takes."), as_json)
    elif type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "dalang"
        _complain(Usage(error.format_message(), hint=f"`{path} --help` tells what it takes."), as_json)
    return Usage("").exit_code


def _defect(error: Exception) -> CommandFailure:
    """Return the failure that stands for a defect of ours; its traceback goes to a file, not to the person."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", prefix="dalang-", suffix=".traceback", delete=False, encoding="utf-8"
    ) as file:
        file.write(traceback.format_exc())
    return CommandFailure(
        "DEFECT",
        f"This is a defect of Dalang ({type(error).__name__}: {error}).",
        hint=f"Please report it with {file.name}.",
    )


def _complain(failure: CommandFailure, as_json: bool) -> None:
    from dalang.commands.complaints import complain

    complain(failure, json=as_json)
