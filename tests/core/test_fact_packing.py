"""Batches of facts come out as they went in, whatever is in them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dalang.canonical import compact_json
from dalang.fact_packing import FACT_BYTES, kind_of, packed, with_facts
from dalang.wire import Fact, RecordInput

VALUES = st.none() | st.booleans() | st.integers(0, 1) | st.sampled_from([1.0, "1"])
OBJECTS = st.dictionaries(st.sampled_from(["status", "attempt"]), VALUES, max_size=2)
FACTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["NODE_STARTED", "NODE_COMPLETED"]), "at": st.integers(1000, 1010)},
    optional={"data": OBJECTS, "body": OBJECTS, "nodeId": st.sampled_from(["a", "ü"])},
)


@given(st.lists(FACTS, max_size=8), st.integers(0, 5))
def test_what_is_packed_comes_out_as_it_was(facts: list[Any], seq: int) -> None:
    """To the last bit: true is not 1, and 1 is not 1.0, or events would not have the same digests."""
    told: list[Fact] = [{"seq": seq + number, **fact} for number, fact in enumerate(facts, 1)]
    batch: RecordInput = {
        "runId": "r",
        "tenantId": "t",
        "head": {"epoch": 0, "seq": seq, "hash": ""},
        "facts": [],
        "packed": packed([(fact, kind_of(fact)) for fact in told]),
        "status": "RUNNING",
        "counts": {},
        "final": False,
    }
    unpacked = with_facts(batch)
    assert "packed" not in unpacked
    assert compact_json(unpacked["facts"]) == compact_json(told)
    assert with_facts(unpacked) == unpacked


def test_a_fact_like_the_one_before_it_is_a_few_bytes() -> None:
    """What the flow of facts reckons with is what it is."""
    facts: list[Fact] = [
        {"seq": seq, "type": "NODE_STARTED", "at": 10**12 + seq, "data": {"status": "RUNNING", "attempt": 1}}
        for seq in range(1, 1000)
    ]
    for fact in facts:
        fact["nodeId"] = "n1"
        fact["body"] = {"inputs": {}}
    size = len(compact_json(packed([(fact, kind_of(fact)) for fact in facts])))
    assert size < len(facts) * (FACT_BYTES + len("n1") + len("{}")) + 200
