"""What a fact is stored as: one serialisation of its parts, and the same digests as by the long way."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st

from dalang.canonical import canonical_bytes
from dalang.store import chain
from dalang.wire import Fact

RUN = UUID(int=7)
TEXT = st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
FACTS = st.fixed_dictionaries(
    {"seq": st.integers(1, 9), "type": TEXT, "at": st.integers(0, 2**45)},
    optional={"data": OBJECT, "body": OBJECT | st.none(), "nodeId": TEXT, "other": JSON},
)


@given(FACTS)
@example({"seq": 1, "type": "NODE_STARTED", "at": 5, "data": {"b": 1, "a": [True]}, "nodeId": 'n"1', "body": {"x": {}}})
@example({"seq": 1, "type": "NODE_STARTED", "at": 5, "data": {"ä": "ü"}, "nodeId": "n", "body": {"x": "ü"}})
@example({"seq": 1, "type": "X", "at": 5, "data": {}})
def test_a_fact_has_the_digests_of_the_long_way(fact: Any) -> None:
    """However it was written, a repetition is recognised, and who verifies the chain computes the same hash."""
    told: Fact = fact
    event = chain.prepare(told)
    assert event.fact_digest == chain.fact_digest(told, event.salt)
    if event.body is None:
        assert event.body_digest is None
    else:
        assert event.body_digest == chain.salted_digest(event.salt, event.body)
    for audit in (None, {}, {"actor": {"type": "agent", "id": "ö"}, "level": "WARN"}):
        audited = event._replace(audit=audit)
        document = canonical_bytes(chain.event_document(RUN, "tenänt", 2, audited, event.body_digest))
        expected = hashlib.sha256(document + b"f" * 64).hexdigest()
        assert chain.event_hash(RUN, "tenänt", 2, audited, event.body_digest, "f" * 64) == expected
