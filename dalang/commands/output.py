"""What commands write: consoles, tables that fit, JSON for programs, texts of strangers made harmless.

Names and outputs come from whoever wrote a plan; none of their characters may steer a terminal.
"""

from __future__ import annotations

import codecs
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

STATUS_STYLES = {
    "COMPLETED": "green",
    "SUCCESS": "green",
    "RUNNING": "cyan",
    "VALIDATED": "cyan",
    "FAILED": "red",
    "COMPENSATION_FAILED": "red",
    "ERROR": "yellow",
    "RETRYING": "yellow",
    "PAUSED": "yellow",
    "AWAITING_HITL": "yellow",
    "IN_PROGRESS": "cyan",
    "EXPIRED": "red",
    "CANCELLED": "magenta",
    "SKIPPED": "bright_black",
    "PENDING": "bright_black",
    "QUEUED": "yellow",
    "OPEN": "red",
    "HALF_OPEN": "yellow",
}
_WIDE = 100_000
_STEERING = re.compile("[\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def console(stream: IO[str]) -> Console:
    """Return a console that writes to ``stream``: in colour on a terminal unless NO_COLOR is set, else never cut."""
    from rich.console import Console

    width = None if stream.isatty() else _WIDE
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def safe(value: Any) -> str:
    """Return a text of a stranger on one line, without characters that could steer a terminal."""
    from dalang.picture import printable

    return printable(str(value))


def safe_lines(text: str) -> str:
    """Return a text of a stranger with its line breaks, otherwise like :func:`safe`."""
    lines = text.expandtabs(4).splitlines()
    return "\n".join(line[: len(line) - len(line.lstrip())] + safe(line) for line in lines)


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Return JSON whose texts cannot steer a terminal either."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    return _harmless(text)


def write_json(value: Any, *, stream: IO[str] | None = None, indent: int | None = 2) -> None:
    """Write one JSON document and a line's end."""
    stream = stream or sys.stdout
    stream.write(to_json(value, indent=indent) + "\n")
    stream.flush()


def write_json_list(
    items: Iterable[Any], *, within: Mapping[str, Any] | None = None, key: str = "", stream: IO[str] | None = None
) -> None:
    """Write a JSON list as its items come, or an object with the list under ``key``, which is the last one then."""
    stream = stream or sys.stdout
    depth = 0 if within is None else 1
    if within is not None:
        head = to_json({**{name: value for name, value in within.items() if name != key}, key: []})
        stream.write(head.removesuffix("]\n}"))
    else:
        stream.write("[")
    indent, empty = "  " * (depth + 1), True
    for item in items:
        stream.write(("\n" if empty else ",\n") + textwrap.indent(to_json(item), indent))
        empty = False
    stream.write(("" if empty else "\n" + "  " * depth) + ("]\n" if within is None else "]\n}\n"))
    stream.flush()


def write_text(chunks: Iterable[bytes], *, stream: IO[str] | None = None) -> None:
    """Write the JSON document that comes in pieces, as it is but for characters that could steer a terminal."""
    stream = stream or sys.stdout
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for chunk in chunks:
        stream.write(_harmless(decoder.decode(chunk)))
    stream.write(_harmless(decoder.decode(b"", final=True)) + "\n")
    stream.flush()


def _harmless(text: str) -> str:
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def styled(status: Any) -> Text:
    """Return a status in its colour."""
    from rich.text import Text

    text = safe(status)
    return Text(text, style=STATUS_STYLES.get(text, ""))


def table(
    out: Console,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    flexible: str | None = None,
    headed: bool = True,
) -> None:
    """Print rows, ``headed`` by the names of the columns.

    On a terminal the ``flexible`` column, else the last, is cut so that lines fit.
    A heading that begins with ``>`` is aligned to the right. Cells are texts of strangers, or rich's Text.
    """
    from rich.text import Text

    heads = [name.removeprefix(">") for name in columns]
    cells = [[cell.copy() if isinstance(cell, Text) else Text(safe(cell)) for cell in row] for row in rows]
    widths = [max([len(head), *(row[at].cell_len for row in cells)]) for at, head in enumerate(heads)]
    if out.is_terminal:
        _narrow(widths, out.width, heads.index(flexible or heads[-1]))
    for row in [*([[Text(head, style="bold") for head in heads]] if headed else []), *cells]:
        line = Text()
        for at, (cell, width) in enumerate(zip(row, widths, strict=True)):
            cell.truncate(width, overflow="ellipsis" if out.is_terminal else "ignore")
            space = " " * (width - cell.cell_len)
            line.append("  " if at else "")
            line.append_text(Text.assemble(space, cell) if columns[at].startswith(">") else Text.assemble(cell, space))
        line.rstrip()
        out.print(line, no_wrap=True, overflow="ignore", crop=False)


def _narrow(widths: list[int], room: int, flexible: int) -> None:
    """Take from the flexible column what does not fit, and what that cannot give from the widest of the others."""
    over = sum(widths) + 2 * (len(widths) - 1) - room
    taken = min(max(over, 0), max(widths[flexible] - 12, 0))
    widths[flexible] -= taken
    for _ in range(over - taken):
        widest = max(range(len(widths)), key=lambda at: widths[at])
        if widths[widest] <= 4:
            break
        widths[widest] -= 1


def instant(value: Any) -> datetime | None:
    """Return a point in time as the API gives it: an RFC 3339 text, or milliseconds since the epoch."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return datetime.fromtimestamp(value / 1000, UTC)
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            return None
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None


def clock(value: Any) -> str:
    """Return the local time of day with milliseconds."""
    at = instant(value)
    return at.astimezone().strftime("%H:%M:%S.%f")[:-3] if at else "-"


def moment(value: Any) -> str:
    """Return date and local time to the second."""
    at = instant(value)
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else "-"


def age(value: Any) -> str:
    """Return how long ago it was, as ``kubectl`` does."""
    at = instant(value)
    return "-" if at is None else rough(max((datetime.now(UTC) - at).total_seconds(), 0))


def span(start: Any, end: Any) -> str:
    """Return how long it took, or has taken so far."""
    began = instant(start)
    if began is None:
        return "-"
    return seconds(max(((instant(end) or datetime.now(UTC)) - began).total_seconds(), 0))


def seconds(value: float) -> str:
    """Return a measured time: ``0.42s``, ``12.3s``, ``4m05s``, ``2h07m``."""
    if value < 10:
        return f"{value:.2f}s"
    if value < 60:
        return f"{value:.1f}s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def rough(value: float) -> str:
    """Return a time in its largest unit: ``42s``, ``7m``, ``3h``, ``12d``."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if value >= 2 * size:
            return f"{int(value // size)}{unit}"
    return f"{int(value)}s"


def estimate(ms: float) -> str:
    """Return a planned time to three digits at most: ``1h50m``, ``2.35s``; 0 is ``0``."""
    if ms <= 0:
        return "0"
    if ms < 1000:
        return f"{ms:.0f}ms"
    if ms < 60_000:
        return f"{ms / 1000:.3g}s"
    minutes = round(ms / 1000) // 60
    if minutes < 60:
        rest = round(ms / 1000) % 60
        return f"{minutes}m" + (f"{rest:02d}s" if rest else "")
    hours, minutes = divmod(round(ms / 60_000), 60)
    if hours < 48:
        return f"{hours}h" + (f"{minutes:02d}m" if minutes else "")
    return f"{hours / 24:.3g}d"
