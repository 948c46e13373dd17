"""The OpenAPI document is whole: what it points to is there, and each body and each answer is described."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from dalang.api.app import create_app
from dalang.settings import Settings

POINTER = re.compile(r'"#/components/schemas/([^"]+)"')


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings(database_url="postgresql://a:b@localhost/c")).openapi()


def test_each_reference_leads_somewhere(document: dict[str, Any]) -> None:
    """Two models of one name would both be there under the names of their modules, and under their own neither."""
    known = set(document["components"]["schemas"])
    assert set(POINTER.findall(json.dumps(document))) <= known
    assert [name for name in known if "__" in name] == []


def test_each_operation_says_what_it_takes_and_gives(document: dict[str, Any]) -> None:
    """Verbs that change something take a described body or none; each answer but 204 has a media type."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            answers = {status: one for status, one in operation["responses"].items() if status not in ("204", "101")}
            assert all(one.get("content") for one in answers.values()), (method, path)
            assert {"4XX", "5XX"} <= set(answers), (method, path)
            for content in operation.get("requestBody", {}).get("content", {}).values():
                assert content.get("schema"), (method, path)
