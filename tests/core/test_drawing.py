"""Pictures of plans: well formed whatever the names are, collapsed where wide, laid out without overlaps."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalang.drawing import dot, mermaid, svg
from dalang.formats import load_document
from dalang.graph import GraphError
from dalang.layout import layered, spread
from dalang.picture import clip, columns_of, picture, printable
from dalang.plan import Plan

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    '</title><script>alert("x")</script>',
    "]]> & <b>'\"",
    '"]; evil [label="x',
    'n0 --> n9"]\n  click n0 "javascript:alert(1)"',
    "%%{init: {'securityLevel': 'loose'}}%%",
    "`**markdown**` #quot; #35; \\N \\\\",
    "end\x00\x08\ufffe\u202edesrever\u2028next",
    "\ud800 lone",
    "",
    "宽字符名称" * 20,
]


def plan(nodes: list[Any], edges: list[Any] | None = None, **more: Any) -> Plan:
    documents = [node if isinstance(node, dict) else {"nodeId": node, "type": "noop"} for node in nodes]
    links = [
        edge if isinstance(edge, dict) else {"sourceNodeId": edge[0], "targetNodeId": edge[1]} for edge in edges or []
    ]
    return Plan.model_validate({"name": "p", "nodes": documents, "edges": links, **more})


def boxes(text: str) -> dict[str, tuple[float, float, float, float]]:
    """Return x, y, width and height of every box that stands for one node, by its id."""
    found = {}
    for group in ElementTree.fromstring(text).iter(f"{SVG}g"):
        if "data-node-id" in group.attrib:
            rect = group.find(f"{SVG}rect")
            assert rect is not None
            found[group.attrib["data-node-id"]] = tuple(float(rect.attrib[k]) for k in ("x", "y", "width", "height"))
    return found  # type: ignore[return-value]


def random_plan(count: int, reach: int, seed: int = 1, types: int = 3) -> Plan:
    chance = random.Random(seed)
    nodes = [{"nodeId": f"n{n}", "type": f"type{chance.randrange(types)}"} for n in range(count)]
    pairs = {(max(0, n - chance.randint(1, reach)), n) for n in range(1, count) for _ in range(2)}
    return plan(nodes, [(f"n{a}", f"n{b}") for a, b in sorted(pairs)])


def test_a_small_plan_in_mermaid() -> None:
    """Ports and conditions stand on the links, statuses in words, finally in a frame of its own."""
    drawn = plan(
        [{"nodeId": "a", "name": "Ask", "type": "http"}, {"nodeId": "b", "type": "agent", "join": "any"}, "c"],
        [
            {"sourceNodeId": "a", "targetNodeId": "b", "condition": "outputs.n > 1"},
            {"sourceNodeId": "a", "sourcePort": "error", "targetNodeId": "c"},
        ],
        **{"finally": [{"nodeId": "z", "type": "noop"}]},
    )
    assert mermaid(drawn, {"a": "SUCCESS", "c": "PENDING"}) == (
        "flowchart LR\n"
        '  n0["Ask<br/>http<br/>SUCCESS"]\n'
        '  n1["b<br/>agent · join any"]\n'
        '  n2["c<br/>noop<br/>PENDING"]\n'
        '  subgraph finally["finally"]\n'
        '    n3["z<br/>finally · noop"]\n'
        "  end\n"
        '  n0 -.->|"if outputs.n #62; 1"| n1\n'
        '  n0 -.->|"error"| n2\n'
        "  classDef SUCCESS fill:#d3f2de,color:#1b2430\n"
        "  class n0 SUCCESS\n"
    )


def test_a_small_plan_in_dot() -> None:
    """The same in the language of Graphviz."""
    drawn = plan(
        [{"nodeId": "a", "name": 'say "hi"', "type": "http"}, "b"],
        [{"sourceNodeId": "a", "sourcePort": "error", "targetNodeId": "b"}],
    )
    assert dot(drawn) == (
        "digraph plan {\n"
        '  graph [rankdir=LR, label="p", labelloc=t, fontname=Helvetica];\n'
        "  node [shape=box, style=rounded, fontname=Helvetica, fontsize=11];\n"
        "  edge [fontname=Helvetica, fontsize=9];\n"
        '  n0 [label="say \\"hi\\"\\nhttp", style="rounded"];\n'
        '  n1 [label="b\\nnoop", style="rounded"];\n'
        '  n0 -> n1 [label="error", style=dashed, color="#b42318"];\n'
        "}\n"
    )


def test_an_svg_tells_what_it_shows() -> None:
    """There is a title, a description, a label for screen readers, and colours for light and dark."""
    text = svg(plan(["a", "b"], [("a", "b")], description="x"), {"a": "RUNNING"})
    root = ElementTree.fromstring(text)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == "p: 2 nodes in 2 levels"
    assert root.findtext(f"{SVG}title") == "p"
    assert root.findtext(f"{SVG}desc") == "2 nodes in 2 levels"
    assert "prefers-color-scheme:dark" in text
    assert "▶ RUNNING · noop" in text
    assert set(boxes(text)) == {"a", "b"}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name: str) -> None:
    """Names, conditions, ports and statuses cannot leave the place they are shown in."""
    drawn = Plan.model_construct(
        name=name or "p",
        nodes=tuple(plan([{"nodeId": "a", "type": "noop"}, "b"]).nodes),
        edges=(),
    )
    nodes = [
        node.model_copy(update={"name": name, "type": name or "noop", "description": name}) for node in drawn.nodes
    ]
    edges = (
        plan(["a", "b"], [("a", "b")])
        .edges[0]
        .model_copy(update={"condition": name, "source_port": name or "success", "mapping": {name: name}})
    )
    drawn = drawn.model_copy(update={"nodes": tuple(nodes), "edges": (edges,)})
    root = ElementTree.fromstring(svg(drawn, {"a": name or "x"}))
    known = {"svg", "title", "desc", "style", "rect", "g", "path", "text"}
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= known
    assert not any(attribute.startswith("on") for element in root.iter() for attribute in element.attrib)
    assert "\u202e" not in "".join(root.itertext())
    for line in mermaid(drawn, {"a": name or "x"}).splitlines():
        assert re.fullmatch(
            r'flowchart LR|  n\d+\["[^"\[\]{}`%<>\\|&]*(<br/>[^"\[\]{}`%<>\\|&]*)*"\]'
            r'|  n\d+ (-->|-\.->)(\|"[^"|{}`%<>\\&]*"\|)? n\d+',
            line,
        ), line
    for line in dot(drawn, {"a": name or "x"}).splitlines():
        assert len(re.findall(r'(?<!\\)(?:\\\\)*"', line)) % 2 == 0


@given(st.text(max_size=40))
def test_printable_text_is_one_line_of_xml_characters(text: str) -> None:
    """What is shown has no control, formatting or unassigned characters and can stand in XML."""
    shown = printable(text)
    ElementTree.fromstring(f"<a>{shown.replace('&', '&amp;').replace('<', '&lt;')}</a>".encode())
    assert shown == " ".join(shown.split())


@given(st.text(max_size=60), st.integers(1, 40))
def test_clipped_text_fits(text: str, columns: int) -> None:
    """A clipped text takes no more columns than it is given."""
    assert columns_of(clip(text, columns)) <= columns


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_boxes_never_overlap_and_edges_lead_on(seed: int, count: int, reach: int) -> None:
    """Whatever the graph is, no two boxes overlap, and all of them are inside the picture."""
    text = svg(random_plan(count, reach, seed))
    root = ElementTree.fromstring(text)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    found = list(boxes(text).values())
    assert len(found) == count
    for index, (x, y, w, h) in enumerate(found):
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
        for other_x, other_y, other_w, other_h in found[index + 1 :]:
            apart_x = x + w <= other_x + 0.2 or other_x + other_w <= x + 0.2
            apart_y = y + h <= other_y + 0.2 or other_y + other_h <= y + 0.2
            assert apart_x or apart_y


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(0, 20), st.floats(0.1, 8)), min_size=1, max_size=20))
def test_spread_keeps_order_and_distances(items: list[tuple[float, float, float]]) -> None:
    """Coordinates are at least as far apart as asked, and are the wishes where these are far enough apart."""
    offsets = [sum(gap for _, gap, _ in items[: index + 1]) for index in range(len(items))]
    wishes = [wish for wish, _, _ in items]
    places = spread(wishes, offsets, [weight for _, _, weight in items])
    for index in range(1, len(items)):
        assert places[index] - places[index - 1] >= offsets[index] - offsets[index - 1] - 1e-6
    if all(wishes[n] - wishes[n - 1] >= offsets[n] - offsets[n - 1] for n in range(1, len(items))):
        assert places == pytest.approx(wishes, abs=1e-6)


def test_crossings_are_undone() -> None:
    """Edges that need not cross do not: a ladder written upside down is put in order."""
    layout = layered([0, 0, 0, 1, 1, 1], [10] * 6, [(0, 5), (1, 4), (2, 3)], gap=5, lane=5)
    left, right = layout.cross[:3], layout.cross[3:]
    assert sorted(range(3), key=lambda n: left[n]) == sorted(range(3), key=lambda n: right[2 - n])


def test_long_edges_pass_beside_boxes() -> None:
    """An edge over a layer has a stop there which is outside of its boxes."""
    layout = layered([0, 1, 2], [40] * 3, [(0, 1), (1, 2), (0, 2)], gap=10, lane=10)
    assert layout.routes[0] == ()
    ((layer, cross),) = layout.routes[2]
    assert layer == 1
    assert abs(cross - layout.cross[1]) >= 25


def test_wide_levels_are_drawn_by_type() -> None:
    """A level of more than 100 nodes is a box per type that tells how many nodes of which names it has."""
    many = [{"nodeId": f"work_{n}", "type": "agent" if n % 3 else "http"} for n in range(150)]
    drawn = plan(["a", *many, "z"], [("a", f"work_{n}") for n in range(150)] + [(f"work_{n}", "z") for n in range(150)])
    shown = picture(drawn, {f"work_{n}": "SUCCESS" for n in range(40)}, max_boxes=1000, max_links=1000)
    assert shown.collapsed
    assert [(box.title, box.subtitle) for box in shown.boxes] == [
        ("a", "noop"),
        ("50 × http", "work"),
        ("100 × agent", "work"),
        ("z", "noop"),
    ]
    assert [link.label for link in shown.links] == ["×50", "×100", "×50", "×100"]
    assert shown.boxes[1].statuses == (("SUCCESS", 14),)
    assert "152 nodes in 3 levels, drawn as 4 boxes" in svg(drawn)


def test_two_thousand_nodes_are_drawn_within_a_second() -> None:
    """A large picture takes little time (of the processor, best of three: the machine may be busy)."""
    drawn = random_plan(2000, 100)
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        text = svg(drawn)
        best = min(best, time.process_time() - started)
    assert len(boxes(text)) == 2000
    assert best < 1.0


@pytest.mark.parametrize(("count", "reach"), [(12_000, 600), (12_000, 12_000), (12_000, 1), (3_000, 10)])
def test_what_is_too_large_becomes_a_picture_to_look_at(count: int, reach: int) -> None:
    """Plans of any shape are collapsed to at most some hundred boxes, and to what Mermaid can draw."""
    drawn = random_plan(count, reach)
    shown = ElementTree.fromstring(svg(drawn))
    assert 2 <= len(shown.findall(f"{SVG}g")) <= 3_000
    text = mermaid(drawn)
    assert len(text) < 50_000
    assert text.count(" -->") <= 500


def test_statuses_of_many_nodes_are_counted() -> None:
    """A box of several nodes says how many are in which status."""
    many = [f"n{n}" for n in range(120)]
    statuses = {node: "FAILED" if n < 3 else "SUCCESS" for n, node in enumerate(many)}
    assert "✓ 117 SUCCESS · ✗ 3 FAILED" in svg(plan(many), statuses)


def test_a_plan_with_a_cycle_is_refused() -> None:
    """What validation would refuse is not drawn."""
    with pytest.raises(GraphError):
        svg(plan(["a", "b"], [("a", "b"), ("b", "a")]))


def test_the_conditions_example_is_drawn_with_all_its_labels() -> None:
    """Ports and conditions of the example stand in the picture."""
    drawn = Plan.model_validate(load_document((EXAMPLES / "conditions.yaml").read_bytes()))
    labels = [text.text or "" for text in ElementTree.fromstring(svg(drawn)).iter(f"{SVG}text")]
    everything = " ".join("".join(text.itertext()) for text in ElementTree.fromstring(svg(drawn)).iter(f"{SVG}text"))
    assert labels
    for label in ("if !outputs.legacy", "if outputs.score >= 0.8", "error if error.type", "finally"):
        assert label in everything
