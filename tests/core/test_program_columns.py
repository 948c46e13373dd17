"""Programs in columns: they say what the document says, however they were read, and what is equal only once."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalang.compilation import compile_plan
from dalang.plan import Plan
from dalang.program import Program
from dalang.program_columns import Names, NodeColumns, Numbers, named, packed, read_in_columns
from tests.core.random_runs import random_plan

EDGES = ("sources", "ports", "targets", "target_ports", "mappings", "conditions")
COLUMNS = ("nodes", "types", "joins", "light", "edge_ids", *EDGES)


def compact(document: Any, *, sort: bool = False) -> str:
    """JSON as it comes to a worker."""
    return json.dumps(document, separators=(",", ":"), sort_keys=sort, ensure_ascii=False)


def told(program: Program) -> dict[str, Any]:
    """All that a program says, in lists."""
    own = {name: value for name, value in vars(program).items() if not name.startswith("_") and name != "document"}
    groups = {name: [list(group) for group in own.pop(name)] for name in ("edges_in", "edges_out", "reads")}
    lists = {name: list(own.pop(name)) for name in COLUMNS}
    return {**own, **groups, **lists, "outputs_template": program.document.get("outputs")}


@pytest.mark.parametrize("sort", [False, True])
def test_what_is_read_in_columns_is_the_document(sort: bool) -> None:
    """Every plan gives the same program, and the document's own nodes and edges, whichever way it was read."""
    for seed in range(40):
        document = compile_plan(random_plan(Random(seed)))
        read = read_in_columns(compact(document, sort=sort))
        assert read is not None
        sent = json.loads(compact(packed(document), sort=sort))
        program, whole = Program(read), Program(document)
        assert told(program) == told(whole) == told(Program(sent))
        assert packed(sent) == sent
        nodes = [{"id": name, **own} for name, own in zip(program.ids, program.nodes, strict=True)]
        assert nodes == document["nodes"]
        edges = zip(program.edge_ids, *(getattr(program, name) for name in EDGES), strict=True)
        assert [list(edge) for edge in edges] == document["edges"]
        rest = {key: value for key, value in document.items() if key not in ("nodes", "edges")}
        assert program.document == rest
        for node, ends in enumerate(zip(program.edges_in, program.edges_out, strict=True)):
            assert list(ends[0]) == [edge for edge, one in enumerate(document["edges"]) if one[3] == node]
            assert list(ends[1]) == [edge for edge, one in enumerate(document["edges"]) if one[1] == node]


def test_what_is_not_written_as_we_do_is_not_read() -> None:
    """Of anything but the compact JSON of a document nothing is made: it is read as a whole, or refused."""
    plan = Plan.model_validate({"name": "p", "nodes": [{"nodeId": "a", "type": "noop"}]})
    text = compact(compile_plan(plan))
    assert read_in_columns(text) is not None
    spaced = json.dumps(compile_plan(plan))
    cut = (text[:at] for at in range(len(text)))
    for other in (
        spaced,
        text + " ",
        text + "}",
        " " + text,
        *cut,
        text.replace('"edges":[]', '"edges":{}'),
        "[]",
        "7",
    ):
        assert read_in_columns(other) is None, other


def test_what_nodes_have_in_common_is_there_once() -> None:
    """Nodes that differ in nothing but their ids share what is said of them; a number is not a truth value."""
    same = {"type": "noop", "inputs": {"x": 1}}
    nodes = NodeColumns.of([{"id": "a", **same}, {"id": "b", **same}, {"id": "c", **same, "inputs": {"x": True}}])
    assert nodes.definitions[0] is nodes.definitions[1]
    assert nodes.definitions[2]["inputs"]["x"] is True


@given(names=st.lists(st.text(max_size=3), unique=True, max_size=30), other=st.text(max_size=3))
def test_many_names_are_kept_in_little(names: list[str], other: str) -> None:
    """They, and their numbers, are as a list and a dict have them; any other name has none."""
    kept, (known, numbers) = Names(names), named(names)
    found = Numbers(kept)
    assert list(kept) == [kept[at] for at in range(len(names))] == list(known) == names
    assert dict(found) == numbers
    assert found.get(other) == numbers.get(other)
    assert found.get(None) is None  # type: ignore[call-overload]
    if names:
        assert kept[-1] == names[-1]
    with pytest.raises(IndexError):
        kept[len(names)]
