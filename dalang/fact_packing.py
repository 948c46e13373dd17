"""A batch of facts in few bytes: type and data, which are the same of most nodes, stand once.

A fact of a node that did nothing unusual is thirty bytes so, and not a hundred and seventy: a batch holds more of them,
and storing a batch is an activity. Histories hold batches as they were sent, in either form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dalang.canonical import compact_json
from dalang.wire import Fact, PackedFacts, RecordInput

FACT_BYTES = 24
"""What a packed fact needs beside its node's name, its body and, once, its kind."""


def kind_of(fact: Fact) -> str:
    """Return what facts of one kind have in common, as text."""
    return compact_json([fact["type"], fact["data"]] if "data" in fact else [fact["type"]]).decode()


def packed(facts: Sequence[tuple[Fact, str]]) -> PackedFacts:
    """Return facts, each with its kind, that are numbered one by one."""
    kinds: dict[str, int] = {}
    first: list[list[Any]] = []
    told: list[list[Any]] = []
    at = facts[0][0]["at"] if facts else 0
    for fact, kind in facts:
        number = kinds.get(kind)
        if number is None:
            number = kinds[kind] = len(first)
            first.append([fact["type"], fact["data"]] if "data" in fact else [fact["type"]])
        entry: list[Any] = [number, fact["at"] - at]
        if "body" in fact:
            entry += [fact.get("nodeId"), fact["body"]]
        elif "nodeId" in fact:
            entry.append(fact["nodeId"])
        told.append(entry)
    return {"kinds": first, "at": at, "facts": told}


def with_facts(batch: RecordInput) -> RecordInput:
    """Return a batch with its facts, however they came."""
    if "packed" not in batch:
        return batch
    given, seq, facts = batch["packed"], batch["head"]["seq"], list[Fact]()
    kinds, start = given["kinds"], given["at"]
    for number, entry in enumerate(given["facts"], seq + 1):
        kind = kinds[entry[0]]
        fact: Fact = {"seq": number, "type": kind[0], "at": start + entry[1]}
        if len(kind) > 1:
            fact["data"] = kind[1]
        if len(entry) > 2 and entry[2] is not None:
            fact["nodeId"] = entry[2]
        if len(entry) > 3:
            fact["body"] = entry[3]
        facts.append(fact)
    plain: RecordInput = {**batch, "facts": facts}
    del plain["packed"]
    return plain
