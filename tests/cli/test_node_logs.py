"""``dalang logs`` on a real stack."""

from __future__ import annotations

import json
import time

import pytest

from tests.cli.conftest import Dalang
from tests.harness import PATIENCE, ROOT

pytestmark = pytest.mark.usefixtures("here")


def test_what_an_example_logs_is_shown_to_its_end(dalang: Dalang) -> None:
    """Followed it ends with the run; as JSON one object per line; a list says where the next begins."""
    assert dalang("run", ROOT / "examples/checkpoint.yaml").code == 0
    end = time.monotonic() + PATIENCE
    while "100 of 100 rows" not in (followed := dalang("logs", "latest", "--follow").out):
        assert time.monotonic() < end, followed
    assert "INFO     import: 10 of 100 rows\n" in followed
    lines = [json.loads(line) for line in dalang("logs", "latest", "--follow", "--json").out.splitlines()]
    assert [line["message"] for line in lines][:2] == ["10 of 100 rows", "20 of 100 rows"]
    assert len(lines) == len(followed.splitlines())
    first = dalang("logs", "latest", "--node", "import", "--limit", "1")
    assert first.out.endswith("import: 10 of 100 rows\n")
    assert f"--after {lines[0]['position']}" in first.err
    assert dalang("logs", "latest", "--node", "nobody").err == "Nothing was logged.\n"
