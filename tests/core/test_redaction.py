"""What is not kept in events and logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalang.canonical import compact_json, plain_json
from dalang.errors import InvalidDocument
from dalang.redaction import DEFAULT_KEYS, REDACTED, Redaction, is_withheld
from dalang.redaction_file import redaction_of
from dalang.settings import Settings, SettingsError
from dalang.store import chain
from dalang.wire import Fact

RULES = Redaction.read(
    {
        "keys": ["card-number"],
        "paths": ["outputs.customer.email", "inputs.**.address", "outputs.rows.*.ssn"],
        "patterns": [r"\b4\d{15}\b"],
    }
)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"inputs": {"headers": {"Authorization": "Bearer x"}}}, {"inputs": {"headers": {"Authorization": REDACTED}}}),
        (
            {"outputs": {"api_key": "k", "apiKey": ["k"], "API-KEY": {"k": 1}}},
            dict.fromkeys(("api_key", "apiKey", "API-KEY"), REDACTED),
        ),
        ({"outputs": {"token": 12, "tokens": "many", "password": None, "secret": ""}}, None),
        ({"inputs": {"token": "secret://shop", "password": "{{secret://a}}", "cookie": "***"}}, None),
        ({"inputs": {"Authorization": "Bearer {{secret://a}}", "secret": "{{secret://a}}:{{secret://b}}"}}, None),
        ({"inputs": {"Authorization": "Bearer {{secret://a}}x"}}, {"Authorization": REDACTED}),
        ({"form": {"properties": {"password": {"type": "string"}}}}, None),
        (
            {"outputs": {"customer": {"email": "a@b.example", "name": "Ann"}}},
            {"customer": {"email": REDACTED, "name": "Ann"}},
        ),
        ({"inputs": {"a": [{"address": "x"}], "address": 5}}, {"a": [{"address": REDACTED}], "address": REDACTED}),
        ({"outputs": {"rows": [{"ssn": 1, "n": 2}, {"n": 3}]}}, {"rows": [{"ssn": REDACTED, "n": 2}, {"n": 3}]}),
        ({"outputs": {"said": "card 4111111111111111!"}}, {"said": f"card {REDACTED}!"}),
        ({"outputs": {"Card_Number": "4"}}, {"Card_Number": REDACTED}),
    ],
)
def test_what_is_taken_out(body: dict[str, Any], expected: Any) -> None:
    """By key, by path, by pattern; numbers behind default keys, names of secrets and forms stay."""
    before = json.dumps(body)
    found = RULES(body)
    part = next(iter(body))
    assert found == (body if expected is None else expected if part in expected else {part: expected})
    assert json.dumps(body) == before
    assert is_withheld(found) == (expected is not None)
    assert RULES(found) == found
    encoded = json.dumps(body, separators=(",", ":")).encode()
    assert RULES.concerns(encoded)  # with paths nobody knows without looking
    keys = Redaction()
    assert keys.concerns(encoded) or keys(body) == body


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("POST with password=hunter2 to x", "POST with password=[redacted] to x"),
        ('{"apiKey": "abc", "n": 1}', '{"apiKey": [redacted], "n": 1}'),
        ("Authorization: Bearer abc.def ends", "Authorization: [redacted] ends"),
        ("a token of 12 tokens: 5", "a token of 12 tokens: 5"),
        ("pay with 4111111111111111", "pay with [redacted]"),
    ],
)
def test_lines_of_logs(line: str, kept: str) -> None:
    """What stands behind a key, and what a pattern fits."""
    assert RULES.line(line) == kept


def test_a_fact_is_recognised_by_what_it_was_and_hashed_as_it_is_kept() -> None:
    """Who has the original can prove that it is the one; a repeated flush is known again."""
    fact: Fact = {
        "seq": 1,
        "type": "X",
        "at": 5,
        "data": {"reason": "4111111111111111"},
        "body": {"outputs": {"token": "t"}},
    }
    kept = chain.prepare(fact, redaction=RULES)
    assert (kept.body, kept.data) == ({"outputs": {"token": REDACTED}}, {"reason": REDACTED})
    assert kept.fact_digest == chain.fact_digest(fact, kept.salt)
    assert kept.body_digest == chain.salted_digest(kept.salt, kept.body)
    assert fact["body"] == {"outputs": {"token": "t"}}


@pytest.mark.parametrize(
    ("document", "pointers"),
    [
        ({"keys": "x", "more": 1}, ["/more", "/keys"]),
        ({"patterns": ["(", "a*"], "defaults": 1}, ["/defaults", "/patterns/0", "/patterns/1"]),
        ([], [""]),
    ],
)
def test_bad_rules_are_named(document: Any, pointers: list[str]) -> None:
    """All at once."""
    with pytest.raises(InvalidDocument) as found:
        Redaction.read(document)
    assert [one.pointer for one in found.value.problems] == pointers


def test_the_file_is_read_at_the_start(tmp_path: Path) -> None:
    """Without one the built-in keys hold; one that cannot be read, or is wrong, ends the process."""
    assert redaction_of(Settings())({"outputs": {"password": "x"}}) == {"outputs": {"password": REDACTED}}
    path = tmp_path / "rules.yaml"
    settings = Settings(redaction_file=str(path))
    with pytest.raises(SettingsError, match="cannot be read"):
        redaction_of(settings)
    path.write_text("defaults: false\nkeys: [iban]\n")
    assert redaction_of(settings)({"outputs": {"password": "x", "IBAN": "y"}})["outputs"] == {
        "password": "x",
        "IBAN": REDACTED,
    }
    path.write_text("keys: 5\n")
    with pytest.raises(SettingsError, match="/keys"):
        redaction_of(settings)
    assert all(key == key.lower() and key.isalpha() for key in DEFAULT_KEYS)


KEYS = st.sampled_from(DEFAULT_KEYS).flatmap(
    lambda key: st.tuples(*(st.sampled_from((one, one.upper(), f"-{one}", f"{one}_-")) for one in key)).map("".join)
)
BODIES = st.recursive(
    st.none() | st.integers(-9, 9) | st.sampled_from(("", "x", "token", "secret://a", "password")),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS | st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(("inputs", "outputs", "form")), BODIES))
def test_what_passes_holds_nothing_that_is_taken_out(body: dict[str, Any]) -> None:
    """However a key is written; so what is written as JSON already need not be looked through."""
    text = plain_json(body)
    keys = Redaction()
    assert text is None or not keys.passes(text) or keys(body) == body
    assert not RULES.passes("{}"), "with paths and patterns nobody knows without looking"


def test_keys_that_json_writes_in_another_way_are_found_in_it() -> None:
    """A quote or a tab is written with a backslash; of "İ" the small letters are two characters."""
    for rule in ('pin "new"', "a\tb", "back\\slash", "\x01", "İd"):
        keys, body = Redaction((rule,)), {"outputs": [{rule: "sesame"}]}
        assert keys(body) == {"outputs": [{rule: REDACTED}]}
        text = plain_json(body)
        assert text is None or not keys.passes(text), rule
        assert keys.concerns(compact_json(body)), rule


def test_an_ordinary_event_is_stored_as_if_there_were_no_rules() -> None:
    """Each part of it is written once; what a rule concerns takes the longer way."""
    fact: Fact = {"seq": 1, "type": "NODE_COMPLETED", "at": 5, "nodeId": "a", "data": {"status": "SUCCESS"}}
    for outputs, is_plain in (({"n": 1}, True), ({"pass_word": "x"}, False)):
        stored = chain.prepare({**fact, "body": {"outputs": outputs}}, redaction=Redaction())
        assert (stored.body_json is not None) is is_plain
        assert stored.body == {"outputs": {"n": 1} if is_plain else {"pass_word": REDACTED}}
