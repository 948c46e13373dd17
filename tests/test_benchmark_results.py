"""What benchmarks share: ratios with their spread, files of results, processor time by process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.results import computed, percentile, ratio, row, save


def test_a_ratio_is_of_values_measured_beside_each_other() -> None:
    """A round that was slow for both says nothing about either."""
    assert str(ratio([1.1, 11.0, 1.3], [1.0, 10.0, 1.0])) == "1.10 (1.10-1.30)"


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """It is the smallest one that so many do not exceed."""
    values = [float(number) for number in range(100, 0, -1)]
    assert (percentile(values, 0.99), percentile(values, 0.5), percentile([7.0], 0.99)) == (99.0, 50.0, 7.0)


def test_what_is_measured_in_parts_is_kept_together(tmp_path: Path) -> None:
    """Rows that were not measured again stay, with the time when they were measured."""
    save("parts", "Parts", [row("a", "x", "s", [1.0, 3.0]), row("b", "x", "s", 5)], ["quiet"], folder=tmp_path)
    file = save("parts", "Parts", [row("b", "x", "s", [6, 7, 8])], ["busy"], keep=True, folder=tmp_path)
    told = json.loads(file.read_text())
    assert [(one["case"], one["median"], "when" in one) for one in told["rows"]] == [
        ("a", 2.0, True),
        ("b", 7.0, False),
    ]
    assert told["notes"] == ["quiet", "busy"]
    assert '"values": [6.0, 7.0, 8.0]' in file.read_text()
    assert {"cores", "python", "postgres", "temporal server", "revision"} <= told["machine"].keys()


def test_processor_time_counts_where_it_was_spent() -> None:
    """A child with a name of its own counts there alone; what a child computed that has ended is its parent's."""
    compute = "until = time.process_time() + 0.3\nwhile time.process_time() < until: pass\n"
    busy = f"import time\ninput()\n{compute}print(flush=True)\ninput()\n{compute}"
    idle = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {busy!r}])\n"
        "print(child.pid, flush=True)\nchild.wait()\nprint(flush=True)\ninput()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", idle], stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        child = int(parent.stdout.readline())

        def go_on() -> None:
            parent.stdin.write("\n")
            parent.stdin.flush()
            parent.stdout.readline()

        with computed({"parent": parent.pid, "child": child}) as spent:
            go_on()
        assert spent["child"] >= 0.29 > spent["parent"]
        assert spent.total == spent["parent"] + spent["child"]
        with computed({"parent": parent.pid}) as spent:
            go_on()
        assert spent["parent"] >= 0.29
        parent.communicate("\n")
