"""The schema and the reference of plans: up to date, and of one mind with validation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from dalang.durations import parse_duration
from dalang.formats import load_document
from dalang.plan import BackoffStrategy, Node
from dalang.plan_schema import plan_schema
from dalang.reference import MODELS, files, main
from dalang.validation import CODES, validate
from tests.core.test_validation import GOOD
from tests.harness import ROOT

SCHEMA = plan_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
NO_PLANS = ("-options", "-patch", "-policy", "-servers", "-models")
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.yaml") if not path.stem.endswith(NO_PLANS))


@pytest.mark.parametrize("name", files())
def test_the_generated_files_are_up_to_date(name: str) -> None:
    """What stands in docs is what `python -m dalang.reference` writes."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == files()[name], "run: python -m dalang.reference"


def test_the_command_writes_the_files(tmp_path: Any) -> None:
    """The generator writes into the folder it is given."""
    main([str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == set(files())


def test_the_schema_is_one() -> None:
    """It is a schema of Draft 2020-12 without a reference that leads nowhere."""
    Draft202012Validator.check_schema(SCHEMA)
    assert VALIDATOR.is_valid(GOOD)
    assert set(MODELS) < set(SCHEMA["$defs"])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_valid_by_the_schema(path: Any) -> None:
    """Every example passes in an editor too."""
    assert [error.message for error in VALIDATOR.iter_errors(load_document(path.read_bytes()))] == []


def test_every_field_of_a_node_is_described() -> None:
    """A person reads in the reference what a field means."""
    described = SCHEMA["$defs"]["Node"]["properties"]
    plain = {"description", "descriptor", "requirements", "retryPolicy", "timeouts"}
    assert {name for name, field in described.items() if "description" not in field} <= plain
    assert {field.alias for field in Node.model_fields.values()} == set(described)


def test_the_reference_names_every_code() -> None:
    """Nothing that validation says is without its line."""
    text = files()["plan-reference.md"]
    assert [code for code in CODES if f"| `{code}` |" not in text] == []
    assert all(f"`{strategy}`" in text for strategy in BackoffStrategy)


@pytest.mark.parametrize(
    ("steps", "value"),
    [
        (("priority",), "high"),
        (("priority",), -7),
        (("timeoutMs",), 5000),
        (("nodes", 0, "retryPolicy"), {"initialDelayMs": 1, "maxDelay": "PT1M", "backoffStrategy": "LINEAR"}),
        (("nodes", 0, "timeouts"), {"startToClose": None, "heartbeatMs": 500}),
        (("nodes", 0, "priority"), None),
        (("nodes", 0, "type"), "whatever"),
        (("finally",), []),
    ],
)
def test_both_accept(steps: tuple[Any, ...], value: Any) -> None:
    """The schema and validation take the spellings that the documentation shows."""
    assert VALIDATOR.is_valid(changed(steps, value))
    assert not [p for p in validate(changed(steps, value)).errors if p.pointer.startswith("/" + str(steps[0]) + "/0")]
    assert validate(changed(("outputs",), {})).ok


@pytest.mark.parametrize(
    ("steps", "value"),
    [
        (("priority",), "urgent"),
        (("priority",), 1.5),
        (("timeout",), "soon"),
        (("timeout",), 90),
        (("timeoutMs",), -1),
        (("failurePolicy",), "ask"),
        (("nodes", 0, "task"), {"quorum": 0}),
        (("nodes",), []),
        (("nodes", 0, "pivot"), "yes"),
        (("nodes", 0, "nodeId"), ""),
        (("nodes", 0, "retryPolicy"), {"maxAttempts": 0}),
        (("edges", 0, "mapping"), {"a": 1}),
        (("edges", 0, "x"), 1),
    ],
)
def test_both_refuse(steps: tuple[Any, ...], value: Any) -> None:
    """What has the wrong shape is refused by the schema as by validation."""
    assert not VALIDATOR.is_valid(changed(steps, value))
    assert not validate(changed(steps, value)).ok


def changed(steps: tuple[Any, ...], value: Any) -> dict[str, Any]:
    document: Any = copy.deepcopy(GOOD)
    at = document
    for step in steps[:-1]:
        at = at[step]
    at[steps[-1]] = value
    if steps == ("timeoutMs",):
        del document["timeout"]
    return document  # type: ignore[no-any-return]


@given(
    st.text(alphabet="0159.PTWDHMSsmhd", max_size=9)
    | st.from_regex(r"P([0-9]{1,2}D)?(T([0-9]{1,2}H)?([0-9]\.[0-9]S)?)?", fullmatch=True)
)
def test_durations_by_the_schema(text: str) -> None:
    """The schema's pattern takes exactly the texts that are read as durations."""
    try:
        parse_duration(text)
    except ValueError as error:
        readable = "ten years" in str(error)
    else:
        readable = True
    duration = Draft202012Validator(SCHEMA["$defs"]["Duration"])
    assert duration.is_valid(text) == readable
