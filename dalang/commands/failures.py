"""Why a command ends without success: what is wrong, where, what to do next, and with which exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FAILED, USAGE, CANCELLED, UNREACHABLE, INTERRUPTED = 1, 2, 3, 4, 130
"""Exit codes."""


class CommandFailure(Exception):  # not a DalangError: those come with pydantic, which `--help` does not wait for
    """A command cannot do what it was asked; the text says why, ``hint`` what to do next.

    ``code`` is stable, for programs. ``problems`` are those of a document, in wire form, and ``source`` names it.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        exit_code: int = FAILED,
        problems: Sequence[dict[str, Any]] = (),
        source: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint
        self.exit_code = exit_code
        self.problems = list(problems)
        self.source = source

    def wire(self) -> dict[str, Any]:
        """Return it as ``--json`` writes it to stderr."""
        error: dict[str, Any] = {"code": self.code, "message": str(self), "exitCode": self.exit_code}
        if self.hint:
            error["hint"] = self.hint
        if self.source:
            error["source"] = self.source
        if self.problems:
            error["problems"] = self.problems
        return {"error": error}


class Usage(CommandFailure):
    """The command line, or a file it names, is wrong."""

    def __init__(self, message: str, *, hint: str | None = None, code: str = "USAGE") -> None:
        super().__init__(code, message, hint=hint, exit_code=USAGE)


class Unreachable(CommandFailure):
    """The API, or what it needs, does not answer."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__("UNREACHABLE", message, hint=hint, exit_code=UNREACHABLE)


def of_exception(error: Exception) -> CommandFailure | None:
    """Return the failure that an exception of the product, or of the system, means; None for a defect."""
    if isinstance(error, CommandFailure):
        return error
    name = type(error).__name__
    if name == "SettingsError":
        return Usage(str(error), code="SETTINGS", hint="docs/settings.md lists all settings.")
    if name == "StackError":
        return CommandFailure("STACK", str(error))
    if any(one.__name__ == "DalangError" for one in type(error).__mro__):
        return CommandFailure("FAILED", str(error))
    if isinstance(error, FileNotFoundError):
        return Usage(f"There is no file {error.filename}.", code="NO_FILE")
    if isinstance(error, OSError) and error.filename is not None:
        return Usage(f"{error.filename}: {error.strerror}.", code="FILE")
    return None
