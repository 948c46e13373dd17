"""What a process logs: lines for people at a terminal, or objects of JSON, with run, node, tenant, ... as fields.

Fields come from where a line is written: an activity, a request or a workflow say once what they are about
(``about.py``). Whoever writes a line needs to know nothing of it. Secrets of nodes are masked before
(``activities/secrets.py``); what looks like a token of ours, or like a header with one, is taken out here.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from dalang.about import told
from dalang.masking import HIDDEN
from dalang.redaction import Redaction
from dalang.tracing import trace_id

Form = Literal["text", "json"]

FIELDS = ("run", "node", "attempt", "tenant", "trace", "request")
"""What every line may tell, in this order; a line of a request also tells what ``extra={"fields": ...}`` gives it."""
_TALKATIVE = ("alembic", "httpx", "httpcore", "httpcore2", "httpx2", "aiokafka", "mcp", "a2a")
"""Libraries that tell each of their steps at INFO, addresses with what stands in them included."""
_REPEATING = ("opentelemetry",)
"""Libraries that warn each time they try again; when they give up it is an error."""
_TOKENS = re.compile(r"dalang_(?:cb_)?[A-Za-z0-9_-]{32,}|(?<=[Bb]earer )[^\s\"',]+")
_redaction = Redaction()
_COLOURS = {"WARNING": "33", "ERROR": "31", "CRITICAL": "1;31", "DEBUG": "2"}


def configure(level: str, form: Form, stream: TextIO | None = None, redaction: Redaction | None = None) -> None:
    """Have everything that this process logs written to ``stream`` (standard error), and nowhere else.

    ``redaction`` takes out what is not kept; without one the built-in rules hold.
    """
    global _redaction
    _redaction = redaction or Redaction()
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    handler.setFormatter(Json() if form == "json" else Text(colours=target.isatty()))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    for name in _REPEATING:
        logging.getLogger(name).setLevel(logging.ERROR)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a line is about: what was told around it, and what Temporal's SDK says of its own lines."""
    found = dict(told())
    for name in ("temporal_activity", "temporal_workflow"):
        of_sdk = getattr(record, name, None)
        if isinstance(of_sdk, Mapping):
            workflow_id = str(of_sdk.get("workflow_id", ""))
            if workflow_id.startswith("run-"):
                found.setdefault("run", workflow_id.removeprefix("run-"))
            if name == "temporal_activity" and "attempt" in of_sdk:
                found.setdefault("attempt", of_sdk["attempt"])
    trace = trace_id()
    if trace is not None:
        found["trace"] = trace
    given = getattr(record, "fields", None)
    if isinstance(given, Mapping):
        found.update(given)
    first = {name: found.pop(name) for name in FIELDS if name in found}
    return {**first, **found}


@dataclass(frozen=True)
class Said:
    """What a line says, without what nobody may read."""

    message: str
    error: str | None


def line_of(record: logging.LogRecord) -> Said:
    """Return what a line says, as it would be written."""
    error = _error(logging.Formatter(), record)
    return Said(_clean(_said(record)), _clean(error) if error else None)


class Json(logging.Formatter):
    """One object per line: ``time``, ``level``, ``logger``, ``message``, the fields, and ``error``, a stack."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": _time(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": _said(record),
            **fields_of(record),
        }
        error = _error(self, record)
        if error:
            line["error"] = error
        return _clean(json.dumps(line, ensure_ascii=False, default=str))


class Text(logging.Formatter):
    """A line for people: time, level, logger, message, fields as ``name=value``; the stack below it."""

    def __init__(self, colours: bool = False) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or lines."""
        level = f"{record.levelname:7}"
        if self._colours and record.levelname in _COLOURS:
            level = f"\x1b[{_COLOURS[record.levelname]}m{level}\x1b[0m"
        fields = " ".join(f"{name}={value}" for name, value in fields_of(record).items())
        if fields and self._colours:
            fields = f"\x1b[2m{fields}\x1b[0m"
        time = f"{_time(record).astimezone():%Y-%m-%d %H:%M:%S},{record.msecs:03.0f}"
        line = f"{time} {level} {record.name}: {_said(record)}" + (f"  {fields}" if fields else "")
        error = _error(self, record)
        return _clean(f"{line}\n{error}" if error else line)


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _said(record: logging.LogRecord) -> str:
    """Return the message without what the SDK puts behind it: the fields say it."""
    try:
        message = record.getMessage()
    except Exception:  # a wrong format must not cost the line
        message = f"{record.msg} {record.args!r}"
    for name in ("temporal_activity", "temporal_workflow"):
        of_sdk = getattr(record, name, None)
        if of_sdk is not None:
            message = message.removesuffix(f" ({of_sdk})")
    return message


def _error(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_text and record.exc_info and record.exc_info[0] is not None:
        record.exc_text = formatter.formatException(record.exc_info)
    stack = formatter.formatStack(record.stack_info) if record.stack_info else ""
    return "\n".join(part for part in (record.exc_text, stack) if part)


def _clean(line: str) -> str:
    return _redaction.line(_TOKENS.sub(HIDDEN, line))
