"""What benchmarks share: ratios with their spread, files of results, processor time by process."""

from __future__ import annotations

import json
import os
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
    """Also what a child computed that has ended; a child with a name of its own counts there alone."""
    busy = "import time\nwhile time.process_time() < 0.3: pass\n"
    parent = f"import subprocess, sys\ninput()\nsubprocess.run([sys.executable, '-c', {busy!r}])\nprint()\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        with computed({"here": os.getpid(), "child": child.pid}) as spent:
            child.stdin.write("\n")
            child.stdin.flush()
            child.stdout.readline()
        child.communicate("\n")
    assert spent["child"] >= 0.29
    assert spent["here"] < spent["child"]
    assert spent.total == spent["here"] + spent["child"]
