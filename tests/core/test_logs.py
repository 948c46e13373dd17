"""Log lines: what they tell without being told, in both forms, and what they never tell."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from dalang.about import tell, telling
from dalang.logs import Json, Text


@pytest.fixture
def lines() -> Iterator[tuple[logging.Logger, io.StringIO, logging.StreamHandler]]:  # type: ignore[type-arg]
    """A logger of its own, and what it has written."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logger = logging.Logger("dalang.test")
    logger.addHandler(handler)
    return logger, written, handler


def test_a_line_tells_what_the_work_is_about(lines) -> None:  # type: ignore[no-untyped-def]
    """Fields come from around the line, the inner over the outer, and end with their block."""
    logger, written, handler = lines
    handler.setFormatter(Json())
    with telling(request="r1", tenant=None):
        tell(tenant="acme")
        with telling(run="1234", node="n1", attempt=2):
            logger.warning("it is %s", "late")
        logger.info("answered", extra={"fields": {"status": 200}})
    logger.info("idle")
    inner, outer, nothing = map(json.loads, written.getvalue().splitlines())
    about = {"run": "1234", "node": "n1", "attempt": 2, "tenant": "acme", "request": "r1"}
    assert {name: inner[name] for name in about} == about
    assert (inner["level"], inner["message"], inner["logger"]) == ("WARNING", "it is late", "dalang.test")
    assert (outer["tenant"], outer["status"], outer.get("run")) == ("acme", 200, None)
    assert nothing.keys() == {"time", "level", "logger", "message"}


def test_an_error_is_one_line_of_json_and_a_stack_for_people(lines) -> None:  # type: ignore[no-untyped-def]
    """A collector must not see a stack as many lines."""
    logger, written, handler = lines
    for form in (Json(), Text()):
        handler.setFormatter(form)
        try:
            raise KeyError("gone")
        except KeyError:
            logger.exception("failed", exc_info=True)
    first, *rest = written.getvalue().splitlines()
    assert "KeyError: 'gone'" in json.loads(first)["error"]
    assert rest[0].endswith("dalang.test: failed")
    assert rest[-1] == "KeyError: 'gone'"


def test_lines_of_temporals_sdk_are_about_runs_too(lines) -> None:  # type: ignore[no-untyped-def]
    """The SDK says of its own lines which workflow they are about, and repeats it in the text."""
    logger, written, handler = lines
    handler.setFormatter(Text())
    of_sdk = {"workflow_id": "run-77", "attempt": 3}
    logger.warning(f"Completing activity as failed ({of_sdk})", extra={"temporal_activity": of_sdk})
    assert written.getvalue().endswith("dalang.test: Completing activity as failed  run=77 attempt=3\n")


def test_tokens_are_taken_out(lines) -> None:  # type: ignore[no-untyped-def]
    """Ours by what they look like, others by the word before them."""
    logger, written, handler = lines
    handler.setFormatter(Json())
    ours = "dalang_" + "x" * 43
    logger.info("token %s, Authorization: Bearer abc.def-123, callback /callbacks/dalang_cb_%s", ours, "y" * 43)
    text = json.loads(written.getvalue())["message"]
    assert text == "token ***, Authorization: Bearer ***, callback /callbacks/***"
