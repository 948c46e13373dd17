"""Plans and inputs from files and from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dalang.commands.failures import USAGE, CommandFailure, Usage

if TYPE_CHECKING:
    from dalang.errors import Problem
    from dalang.plan import Plan
    from dalang.validation import Report

FILE_ENDINGS = (".yaml", ".yml", ".json")
MAX_LINED_BYTES = 1_000_000
"""In larger files problems are told by pointer alone: finding their lines would take seconds."""
FORMATS = ("wfformat", "agent-plans")


@dataclass(frozen=True)
class PlanFile:
    """A plan document that was read, and what validation says of it."""

    source: str
    report: Report
    lines: dict[str, int]

    def problems(self, problems: Iterable[Problem] | None = None) -> list[dict[str, Any]]:
        """Return problems in wire form, each with its ``line`` where that is known."""
        found = []
        for problem in self.report.problems if problems is None else problems:
            wire = problem.model_dump(mode="json", by_alias=True, exclude_none=True)
            line = _line(self.lines, problem.pointer)
            found.append(wire | ({"line": line} if line else {}))
        return found

    def require(self) -> Plan:
        """Return the plan; raises CommandFailure, exit code 2, with every problem."""
        if self.report.plan is None:
            raise self.failure()
        return self.report.plan

    def failure(self) -> CommandFailure:
        """Return the failure of an invalid plan."""
        errors = len(self.report.errors)
        message = f"{self.source} has {errors} error{'' if errors == 1 else 's'}."
        hint = None
        for problem in self.report.problems:
            if problem.code == "IMPORT_NEEDED":  # which says as what, at its end
                hint = f"Give `--from {problem.message.rstrip('.').rsplit(' ', 1)[-1]}`."
        return CommandFailure(
            "INVALID_PLAN", message, hint=hint, exit_code=USAGE, problems=self.problems(), source=self.source
        )


def is_file(text: str) -> bool:
    """Tell whether ``text`` means a file rather than a stored plan: it is one, it looks like one, or it is ``-``."""
    return text == "-" or Path(text).exists() or text.lower().endswith(FILE_ENDINGS) or "/" in text


def read(path: str) -> tuple[bytes, str]:
    """Return the bytes and the name to show of a file, or of standard input (``-``)."""
    if path == "-":
        return sys.stdin.buffer.read(), "<stdin>"
    if Path(path).is_dir():
        raise Usage(f"{path} is a folder; give a plan's file.")
    return Path(path).read_bytes(), path


def load(path: str) -> PlanFile:
    """Read and validate a plan: YAML or JSON, in Dalang's, Wayang's or Axon's form."""
    from dalang.loading import load_plan

    data, source = read(path)
    report = load_plan(data, name=None if path == "-" else Path(path).name)
    return PlanFile(source, report, _lines(data) if report.problems else {})


def imported(
    path: str, form: str, *, time_scale: float | None = None, select: Sequence[str] = ()
) -> list[tuple[dict[str, Any], PlanFile]]:
    """Import a file of another system: its plans' documents, each with what validation says of it."""
    from dalang.errors import InvalidDocument
    from dalang.formats import load_document
    from dalang.importers import import_plans
    from dalang.validation import Report, validate

    data, source = read(path)
    try:
        document = load_document(data, name=None if path == "-" else Path(path).name)
        plans = import_plans(form, document, time_scale=time_scale, select=list(select) or None)
    except InvalidDocument as error:
        raise PlanFile(source, Report(None, error.problems), _lines(data)).failure() from None
    return [(plan, PlanFile(f"{source} ({plan['name']})", validate(plan), {})) for plan in plans]


def one_imported(path: str, form: str, *, time_scale: float | None, select: Sequence[str]) -> PlanFile:
    """Import a file that holds one plan, or from which one is selected."""
    found = imported(path, form, time_scale=time_scale, select=select)
    if len(found) != 1:
        names = ", ".join(plan["name"] for plan, _ in found[:8]) + (" ..." if len(found) > 8 else "")
        raise Usage(f"{path} holds {len(found)} plans.", hint=f"Choose one with --select: {names}")
    return found[0][1]


def given_inputs(pairs: Sequence[str], file: str | None, *, option: str = "--input") -> dict[str, Any]:
    """Return the run's inputs: those of ``--inputs FILE``, then each ``--input key=value`` over them.

    A value is JSON, else a text; ``@file`` is a file's content: JSON or YAML by its ending, else a text.
    """
    inputs = dict(_document(file)) if file is not None else {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            hint = f"{option} count=3 {option} text=hello {option} data=@file"
            raise Usage(f"{option} {pair!r} is not key=value.", hint=hint)
        inputs[name] = _content(text[1:]) if text.startswith("@") else _value(text)
    return inputs


def check_inputs(plan: Plan, inputs: dict[str, Any]) -> None:
    """Check inputs against the plan's schema; raises CommandFailure, exit code 2, with every problem."""
    from dalang.validation import inputs_problems

    problems = [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in inputs_problems(plan, inputs)]
    if any(problem["severity"] == "error" for problem in problems):
        raise CommandFailure(
            "INVALID_INPUTS",
            f"The inputs are not what the plan {plan.name!r} asks for.",
            hint="Give them with --input key=value or --inputs FILE.",
            exit_code=USAGE,
            problems=problems,
            source="inputs",
        )


def _document(path: str) -> dict[str, Any]:
    from dalang.errors import InvalidDocument
    from dalang.formats import load_document

    data, source = read(path)
    try:
        return load_document(data, name=Path(path).name)
    except InvalidDocument as error:
        problems = [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in error.problems]
        raise CommandFailure(
            "INVALID_INPUTS", f"{source} holds no inputs.", exit_code=USAGE, problems=problems, source=source
        ) from None


def _content(path: str) -> Any:
    if path.lower().endswith(FILE_ENDINGS):
        from dalang.errors import InvalidDocument
        from dalang.formats import load_document

        data, source = read(path)
        try:
            # An input may be any value; the document reader takes objects only.
            return (
                load_document(b'{"value":' + data + b"}", name="x.json")["value"]
                if path.endswith("json")
                else (load_document(data, name=path))
            )
        except InvalidDocument as error:
            raise Usage(f"{source}: {error.problems[0].message}", code="INVALID_INPUTS") from None
    data, source = read(path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Usage(f"{source} is no UTF-8 text.", code="INVALID_INPUTS") from None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _lines(data: bytes) -> dict[str, int]:
    """Return the line of every part of a document by its JSON Pointer; nothing where it cannot be read."""
    if len(data) > MAX_LINED_BYTES:
        return {}
    import yaml

    from dalang.canonical import pointer

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        root = yaml.compose(data, Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    lines: dict[str, int] = {}
    stack: list[tuple[Any, tuple[str | int, ...], int]] = [(root, (), 1)]
    while stack and len(lines) < 100_000:
        part, steps, line = stack.pop()
        if part is None:
            continue
        lines.setdefault(pointer(*steps), line)
        if isinstance(part, yaml.MappingNode):
            for key, value in part.value:
                stack.append((value, (*steps, str(key.value)), key.start_mark.line + 1))
        elif isinstance(part, yaml.SequenceNode):
            for index, value in enumerate(part.value):
                stack.append((value, (*steps, index), value.start_mark.line + 1))
    return lines


def _line(lines: dict[str, int], pointer: str) -> int | None:
    """Return the line of what ``pointer`` leads to, else of the nearest thing around it."""
    while pointer:
        if pointer in lines:
            return lines[pointer]
        pointer = pointer.rpartition("/")[0]
    return None
