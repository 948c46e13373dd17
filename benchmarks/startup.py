"""How long people wait for Dalang to begin: ``dalang --help``, and ``dalang up`` until it answers, until a run ends.

``python benchmarks/startup.py [--rounds 5]`` starts the stack in a new folder, as on the first day, starts a run as
soon as it answers, stops the stack and starts it again. CPU seconds are those of the whole stack: they say what a quiet
machine with more cores could save, while times on a busy one say little.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import Spread, arguments, computed, row, save
from dalang.settings import Settings
from dalang.stack.supervisor import on_free_ports

ROOT = Path(__file__).resolve().parent.parent
CALLS = {
    "help": ["--help"],
    "version": ["--version"],
    "help of a group": ["tasks", "--help"],
    "validate a plan": ["plan", "validate", "examples/hello.yaml"],
}
PHASES = {
    "files of the database made": "postgres/initialised",
    "Temporal ready": "temporal/initialised",
    "tables migrated": "stack.json",
}
"""What is done when a file of the stack's home is written."""
DALANG = [sys.executable, "-c", "from dalang.cli import main; main()"]


class Measured(dict[tuple[str, str, str], list[float]]):
    """What was measured, by case, subject and unit."""

    def note(self, case: str, subject: str, seconds: float, cpu: float | None = None) -> None:
        """Add what one round took."""
        self.setdefault((case, subject, "s"), []).append(seconds)
        if cpu is not None:
            self.setdefault((case, subject, "CPU s"), []).append(cpu)


def call(words: list[str]) -> tuple[float, float]:
    """Run one command; return seconds and CPU seconds."""
    began = time.perf_counter()
    with computed({"here": os.getpid()}) as spent:
        subprocess.run([*DALANG, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began, spent.total


def up(settings: Settings, measured: Measured, case: str) -> None:
    """Start the stack, wait for its first answer and for a run, and stop it."""
    environment = {**os.environ, **settings.environment(), "PYTHONPATH": str(ROOT)}
    address = f"http://127.0.0.1:{settings.api_port}"
    with computed({"here": os.getpid()}) as spent, httpx.Client(trust_env=False) as client:
        began, clock = time.perf_counter(), time.time()
        process = subprocess.Popen([*DALANG, "up"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            _until_ready(client, address, process)
            answered = time.perf_counter() - began
            for phase, file in PHASES.items():
                written = (settings.home / file).stat().st_mtime
                if written > clock:  # else by an earlier start
                    measured.note(case, phase, written - clock)
            plan = {"name": "first", "nodes": [{"nodeId": "only", "type": "noop"}]}
            client.headers["Authorization"] = f"Bearer {(settings.home / 'token').read_text().strip()}"
            run = client.post(f"{address}/orchestrator/execute", json={"plan": plan}).raise_for_status().json()
            while client.get(f"{address}/orchestrator/runs/{run['runId']}").json()["status"] != "COMPLETED":
                time.sleep(0.01)
            completed = time.perf_counter() - began
            stopping = time.perf_counter()
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    measured.note(case, "first answer", answered)
    measured.note(case, "first run completed", completed)
    measured.note(case, "stopping", time.perf_counter() - stopping)
    measured.setdefault((case, "all of it", "CPU s"), []).append(spent.total)


def _until_ready(client: httpx.Client, address: str, process: subprocess.Popen[str]) -> None:
    while True:
        if process.poll() is not None:
            raise SystemExit(f"dalang up ended with {process.returncode}")
        try:
            if client.get(f"{address}/health/ready").is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.01)


def main() -> None:
    """Measure and tell."""
    wanted = arguments(__doc__, rounds=5).parse_args()
    measured = Measured()
    for number in range(wanted.rounds + 1):
        for case, words in CALLS.items():
            seconds, cpu = call(words)
            if number:  # the first round fills the caches of the disk
                measured.note(f"dalang {case}", "a command", seconds, cpu)
    for _ in range(wanted.rounds):
        with tempfile.TemporaryDirectory() as folder:
            settings = on_free_ports(Settings(home=Path(folder)))
            up(settings, measured, "dalang up, first time")
            up(settings, measured, "dalang up again")
    for (case, subject, unit), values in measured.items():
        print(f"{case:<24} {subject:<22} {Spread.of(values)} {unit}")
    if wanted.save:
        notes = [
            "`dalang up` runs PostgreSQL, Temporal, a worker and an API; the first time it makes the database, too.",
            "The aims: help in 0.3 s, the first answer in 5 s.",
        ]
        save("startup", "Start-up", [row(*one, values) for one, values in measured.items()], notes)


if __name__ == "__main__":
    main()
