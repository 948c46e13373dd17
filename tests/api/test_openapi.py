"""The OpenAPI document is whole: what it points to is there, and each body and each answer is described."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from pydantic import ValidationError

from dalang.api.app import _BODIES, create_app
from dalang.settings import Settings

TEXTS = {"uuid": "3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11", "date-time": "2026-11-22T00:00:00Z"}
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


def test_texts_that_stand_for_ids_and_times_are_taken() -> None:
    """A strict model takes no text for a UUID or a time unless it is told to: the document would promise in vain."""
    wrong = []
    for model in _BODIES:
        for name, field in model.model_json_schema()["properties"].items():
            formats = set(re.findall(r'"format": "(uuid|date-time)"', json.dumps(field)))
            for given in [TEXTS[one] for one in formats if '"$ref"' not in json.dumps(field)]:
                try:
                    model.model_validate({name: given})
                except ValidationError as error:
                    wrong += [(model.__name__, name) for one in error.errors() if one["loc"][:1] == (name,)]
    assert wrong == []
