"""Nothing of the product is without a word in the documentation."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

import pytest

from dalang.api.app import create_app
from dalang.commands.program import program
from dalang.errors import ErrorPayload, ErrorType, SuggestedAction
from dalang.settings import Settings
from dalang.statuses import NodeStatus, RunStatus
from dalang.wire import EventType
from tests.docs.access import table
from tests.docs.markdown import blocks, documents
from tests.harness import ROOT

DOCS = ROOT / "docs"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (RunStatus, "docs/concepts.md"),
        (NodeStatus, "docs/concepts.md"),
        (EventType, "docs/concepts.md"),
        (ErrorType, "docs/errors.md"),
        (SuggestedAction, "docs/errors.md"),
    ],
)
def test_every_name_has_its_paragraph(kind: type[StrEnum], name: str) -> None:
    """A paragraph that begins with the name says who causes it and when."""
    entries = dict(re.findall(r"^- \*\*`(\w+)`\*\*:? (.*(?:\n  .*)*)", text(name), flags=re.M))
    assert [one for one in kind if len(entries.get(str(one), "")) < 40] == []


def test_every_field_of_an_error_is_explained() -> None:
    """errors.md has a row for each."""
    missing = [
        field.alias
        for field in ErrorPayload.model_fields.values()
        if f"| `{field.alias}` |" not in text("docs/errors.md")
    ]
    assert missing == []


def test_every_route_is_in_the_reference() -> None:
    """With its method, as a heading's code or in a table, and nothing that is no route."""
    paths = create_app(Settings(database_url="postgresql://a:b@localhost/c")).openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}
    written = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`\s?]*)`", text("docs/rest.md")))
    assert written == routes


def test_every_address_says_who_may_ask() -> None:
    """access.md has a line for each, pages too, and none for what is no address; tests/api/test_routes.py tries all."""
    served = set()
    for route in create_app(Settings(database_url="postgresql://a:b@localhost/c")).routes:
        methods = set(getattr(route, "methods", None) or {"POST"}) - {"HEAD", "OPTIONS"}
        served |= {f"{method} {re.sub(r':path}', '}', getattr(route, 'path', str(route)))}" for method in methods}
    written = [f"{one.method} {one.path}" for one in table()]
    assert len(written) == len(set(written))
    assert served - set(written) == set(), "docs/access.md needs a line: | `METHOD /path` | who |"
    assert set(written) - served == set()


def commands(group: Any, prefix: str) -> list[str]:
    """Return every command below a group as it is typed."""
    found = []
    for name, command in group.commands.items():
        found += commands(command, f"{prefix} {name}") if hasattr(command, "commands") else [f"{prefix} {name}"]
    return found


def test_every_command_is_in_the_reference() -> None:
    """As a heading, or at the start of a table's row; and nothing that is no command."""
    known = set(commands(program(), "dalang"))
    written = set(re.findall(r"^(?:#+ |\| )`(dalang(?: [a-z][a-z-]*)+)", text("docs/cli.md"), flags=re.M))
    assert written == known


def test_every_example_is_described() -> None:
    """examples/README.md has a sentence for each file."""
    files = [path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".yaml", ".json", ".py")]
    described = text("examples/README.md")
    assert [name for name in files if f"[{name}]({name})" not in described] == []


def test_every_document_can_be_reached_from_the_readme() -> None:
    """A page that nothing links to is not read."""
    readme = text("README.md")
    missing = [path.name for path in DOCS.glob("*.md") if f"(docs/{path.name}" not in readme]
    assert missing == []


def test_the_readme_is_short() -> None:
    """A reader has two commands' patience."""
    assert len(text("README.md").splitlines()) < 200


def test_the_picture_is_up_to_date() -> None:
    """docs/feature-development.svg is what the command of the contributing guide draws."""
    from dalang.drawing import svg
    from dalang.loading import load_plan

    plan = load_plan((ROOT / "examples/feature-development.yaml").read_bytes()).require()
    command = "dalang plan graph examples/feature-development.yaml --format svg -o docs/feature-development.svg"
    assert text("docs/feature-development.svg") == svg(plan), f"run: {command}"


def test_every_block_belongs_to_a_document() -> None:
    """There are blocks to run: a parser that finds none would let everything pass."""
    assert sum(len(blocks(path)) for path in documents()) > 40


def test_examples_in_the_text_are_the_files() -> None:
    """A plan that is shown under the name of a file is that file."""
    shown = [one for path in documents() for one in blocks(path) if one.marks.get("file", "").startswith("examples/")]
    assert shown
    assert [str(one) for one in shown if text(one.marks["file"]) != one.text] == []
