"""``dalang logs`` on a real stack."""

from __future__ import annotations

import json
import time
from typing import Any, cast

import pytest

from dalang.commands import node_logs, watching
from dalang.commands.client import ApiClient
from dalang.commands.failures import Unreachable
from dalang.commands.session import Session
from tests.cli.conftest import Dalang
from tests.harness import PATIENCE, ROOT


@pytest.mark.usefixtures("here")
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
    assert "has no node 'nobody'" in dalang("logs", "latest", "--node", "nobody").err


def test_an_api_that_restarts_is_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    """Following goes on from the last line that was told, whichever request met it."""
    monkeypatch.setattr(node_logs, "LINGER_SECONDS", 0.0)
    monkeypatch.setattr(watching.time, "sleep", lambda seconds: None)
    away = Unreachable("away")
    running, ended = {"status": "RUNNING"}, {"status": "COMPLETED"}
    page = {"items": [{"position": 7}], "next": None}
    answers = [away, running, away, running, page, away, running, {"items": [], "next": None}, ended, page]
    places: list[Any] = []

    class Restarting:
        def get(self, path: str, **query: Any) -> Any:
            if path.endswith("/logs"):
                places.append(query["after"])
            if isinstance(answers[0], Unreachable):
                raise answers.pop(0)
            return answers.pop(0)

    session = Session()
    session._client = cast(ApiClient, Restarting())
    assert list(node_logs._followed(session, "a", None, None)) == page["items"] * 2
    assert places == [None, None, 7, 7]
