"""Make ``docs/performance.md`` and its pictures of ``benchmarks/results``: ``python benchmarks/report.py``.

The words of the page are written by hand. Between ``<!-- results: NAME -->`` and ``<!-- end of results -->`` stands
what is made of ``NAME.json``: pictures, notes, a table, when and where it was measured. What a note begins with "Tried"
stands with those of all others between ``<!-- tried -->`` and ``<!-- end of tried -->``. A result that the page has no
place for gets one before that. Where branches made the page of other results, take either and run this again.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.charts import Chart
from benchmarks.results import RESULTS, Row, Spread

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "performance"
DRAWN_BY_HAND = {"places.svg"}  # by fairness.py, of spans that are too many to keep
MOST_ROWS, MOST_PICTURES = 40, 3
LAST = "## What was tried and did not help\n"
_REGION = re.compile(r"<!-- results: (\w+) -->\n.*?<!-- end of results -->\n", re.DOTALL)
_TRIED = re.compile(r"<!-- tried -->\n.*?<!-- end of tried -->\n", re.DOTALL)


@dataclass(frozen=True)
class Wanted:
    """One picture of a result: of the rows of a unit whose case and subject match."""

    unit: str
    title: str
    aim: float | None = None
    case: str = ""
    subject: str = ""

    def of(self, result: Mapping[str, Any]) -> Chart | None:
        """Return the picture; None if nothing like it was measured."""
        rows = [row for row in result["rows"] if row["unit"] == self.unit and self._shows(row)]
        return Chart(self.title, self.unit, rows[:MOST_ROWS], self.aim) if rows else None

    def _shows(self, row: Row) -> bool:
        return bool(re.search(self.case, row["case"]) and re.search(self.subject, row["subject"]))


_WITH_DISK = "^(?!.*no disk)"

WANTED: dict[str, tuple[Wanted, ...]] = {
    "startup": (
        Wanted("s", "From typing dalang up", 5.0, "up", "first"),
        Wanted("s", "Phases of the start: after how long what was done", None, "up", "made|Temporal|tables|answer"),
        Wanted("s", "Commands", 0.3, "^dalang (help|version|validate)"),
    ),
    "interpreter": (
        Wanted("times by hand", "Against a workflow written by hand: time", 1.05),
        Wanted("times CPU by hand", "Against a workflow written by hand: processor time of worker and servers", 1.05),
        Wanted("CPU ms/node: worker", "Processor time of the worker a node"),
    ),
    "local_nodes": (
        Wanted("nodes/s", "Completed nodes a second, light ones run together", 2000.0),
        Wanted("CPU ms/node", "Processor time a node, of worker and servers", subject=": all$"),
    ),
    "small_runs": (
        Wanted("runs/s", "Completed runs of five nodes a second"),
        Wanted("p50 ms", "From starting a run to seeing it completed: half of them within"),
        Wanted("p99 ms", "From starting a run to seeing it completed: 99 of 100 within"),
    ),
    "costs": (
        Wanted("CPU ms of worker", "Processor time of workers, for a node and for the run itself"),
        Wanted("bytes stored", "Bytes stored in PostgreSQL, for a node and for the run itself"),
    ),
    "scale_out": (
        Wanted("nodes/s", "Nodes that wait, by the number of workers", subject="^waiting"),
        Wanted("CPU ms of workers a node", "Processor time of the workers a node, by their number"),
        Wanted("runs/s", "Starts of runs a second, by the number of API processes"),
    ),
    "peers": (
        Wanted("nodes/s", "Completed nodes a second", case=_WITH_DISK),
        Wanted("CPU ms/node", "Processor time a node, of all processes", case=_WITH_DISK),
        Wanted("nodes/s", "Completed nodes a second, no store waiting for the disk", case="no disk"),
    ),
    "large_plans": (
        Wanted("ms/node", "Time a node, by size of the plan", subject="^time$"),
        Wanted("ms/node", "Processor time of the worker a node, by size of the plan", subject="^CPU: worker$"),
        Wanted("MB at most", "Memory of the worker, by size of the plan"),
        Wanted("% of the limit", "History, in % of Temporal's limits", 60.0),
    ),
    "many_runs": (
        Wanted("ms", "Answers with 1,000,000 runs in the database: 99 of 100 within", 50.0, subject="p99$"),
        Wanted("% of a core", "What it costs at rest"),
    ),
    "leases": (Wanted("pairs/s", "Leases asked for and given back a second", 500.0),),
    "fairness": (Wanted("s", "Until the last node ended", subject="small"),),
    "row_security": (Wanted("CPU s", "Processor time with the policies and without"),),
    "watching": (Wanted("CPU ms/node", "Processor time of a worker a node"),),
    "state_machine": (Wanted("CPU µs", "An event in the state machine alone"),),
    "pictures": (Wanted("CPU s", "The picture of a run"),),
}
"""Of other results, the units that have more than one row."""


def load(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Read all results, by name."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}


def charts(result: Mapping[str, Any]) -> dict[str, Chart]:
    """Return the pictures of a result, by the names of their files."""
    wanted = WANTED.get(result["name"])
    if wanted is None:
        units = list(dict.fromkeys(row["unit"] for row in result["rows"]))
        several = [unit for unit in units if sum(row["unit"] == unit for row in result["rows"]) > 1]
        wanted = tuple(Wanted(unit, f"{result['title']}: {unit}") for unit in several[:MOST_PICTURES])
    drawn = [(one.of(result)) for one in wanted]
    return {f"{result['name']}-{number}.svg": chart for number, chart in enumerate(drawn, 1) if chart is not None}


def section(result: Mapping[str, Any]) -> str:
    """Write what the page says of a result."""
    machine, when = result["machine"], result["when"]
    parts = [f"![{chart.title}](performance/{file})" for file, chart in charts(result).items()]
    parts += ["\n".join(f"- {_line(note)}" for note in result["notes"] if not _is_tried(note))]
    rows = [
        "| case | what | median | smallest | largest | rounds | unit |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in result["rows"]:
        low, middle, high = (f"{value:,.4g}" for value in _three(row))
        names = f"{_line(row['case'])} | {_line(row['subject'])}"
        rows.append(f"| {names} | {middle} | {low} | {high} | {len(row['values'])} | {_line(row['unit'])} |")
    parts += ["<details><summary>All figures</summary>", "\n".join(rows), "</details>"]
    earlier = sorted({row["when"][:16] for row in result["rows"] if "when" in row})
    parts.append(
        f"Measured {when[:16].replace('T', ' ')} UTC"
        + (f" (some rows since {earlier[0].replace('T', ' ')})" if earlier else "")
        + f" on {machine['cores']} cores ({machine['processor']}, {machine['memory GB']} GB), load "
        f"{machine['load before']} before it began; Python {machine['python']}, PostgreSQL {machine['postgres']}, "
        f"Temporal {machine['temporal server']}, revision `{machine['revision']}`."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _three(row: Row) -> tuple[float, float, float]:
    spread = Spread.of(row["values"])
    return spread.low, spread.median, spread.high


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _is_tried(note: str) -> bool:
    return note.lower().startswith("tried")


def filled(page: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page with what the results say."""
    known = {found[1] for found in _REGION.finditer(page)}
    for name, result in results.items():
        if name not in known:
            place = f"## {result['title']}\n\n<!-- results: {name} -->\n<!-- end of results -->\n\n"
            page = page.replace(LAST, place + LAST)

    def region(found: re.Match[str]) -> str:
        said = section(results[found[1]]) if found[1] in results else "No figures are kept of it yet.\n"
        return f"<!-- results: {found[1]} -->\n{said}<!-- end of results -->\n"

    tried = [f"- {_line(result['title'])}: {_line(note)}" for result in results.values() for note in _tried(result)]
    page = _TRIED.sub(
        lambda _: "<!-- tried -->\n" + "".join(f"{line}\n" for line in tried) + "<!-- end of tried -->\n", page
    )
    return _REGION.sub(region, page)


def _tried(result: Mapping[str, Any]) -> Sequence[str]:
    return [note for note in result["notes"] if _is_tried(note)]


def pictures(results: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return all pictures, by the names of their files."""
    return {file: chart.svg() for result in results.values() for file, chart in charts(result).items()}


def main() -> None:
    """Write the page and its pictures."""
    results = load()
    PICTURES.mkdir(exist_ok=True)
    drawn = pictures(results)
    for file in PICTURES.glob("*.svg"):
        if file.name not in drawn and file.name not in DRAWN_BY_HAND:
            file.unlink()
    for name, svg in drawn.items():
        (PICTURES / name).write_text(svg, encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
