"""The live picture without a browser: whatever names are in it, wide and large plans, what a revision changed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

from dalang.api.ui.run_drawing import CULLED_FROM, LiveDrawing, summed_up, told
from dalang.api.ui.run_revisions import united
from dalang.api.ui.run_scenes import MAX_WIDTH, Scene, coded, live_picture
from dalang.plan_diff import plan_diff
from dalang.sketch import sketch
from dalang.statuses import NodeStatus

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = ['</title><script>alert("x")</script>', "]]> & <b>'\"", '" onload="x', "end\x00\u202edesrever", "</svg>"]


def scene(document: dict[str, Any]) -> Scene:
    plan = sketch(document)
    return Scene.of(plan, LiveDrawing(live_picture(plan)))


def plan(ids: list[str], edges: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "name": "p",
        "nodes": [{"nodeId": one, "type": "noop"} for one in ids],
        "edges": [{"edgeId": f"{a}->{b}", "sourceNodeId": a, "targetNodeId": b} for a, b in edges],
    }


def test_names_are_texts_and_nothing_else() -> None:
    """The picture is put into the page as it is: it holds no element that is not its own, whatever nodes are called."""
    document = plan(HOSTILE, [(HOSTILE[0], one) for one in HOSTILE[1:]])
    for node in document["nodes"]:
        node |= {"name": node["nodeId"], "description": node["nodeId"], "handler": node["nodeId"]}
    for edge in document["edges"]:
        edge |= {"condition": "'</text><script>' != \"&\""}
    root = ElementTree.fromstring(scene(document).drawing.fragment({}))
    assert {one.tag.removeprefix(SVG) for one in root.iter()} == {"svg", "g", "title", "path", "rect", "circle", "text"}
    assert {name for one in root.iter() for name in one.attrib if name.startswith("on")} == set()
    assert len([one for one in root.iter() if "data-node-id" in one.attrib]) == len(HOSTILE)


def test_a_box_of_many_tells_how_far_they_are() -> None:
    """What is most urgent is its status; between its first end and its last it is at work."""
    assert summed_up({"SUCCESS": 3, "FAILED": 1, "RUNNING": 2}) is NodeStatus.FAILED
    assert summed_up({"SUCCESS": 3, "PENDING": 1}) is NodeStatus.RUNNING
    assert summed_up({"PENDING": 2}) is NodeStatus.PENDING
    assert told({"SUCCESS": 3, "FAILED": 1, "PENDING": 2}) == "4 of 6 done, 1 failed"
    wide = scene(plan([f"n{at}" for at in range(MAX_WIDTH + 1)], []))
    assert [group["open"] for group in wide.groups()] == [True]
    assert set(wide.boxes) == {0}
    drawn = ElementTree.fromstring(wide.drawing.fragment({"n0": "SUCCESS"}))
    (box,) = (one for one in drawn.iter() if "data-group" in one.attrib)
    assert box.attrib["data-status"] == "RUNNING"
    assert box.attrib["aria-label"].endswith(f"1 of {MAX_WIDTH + 1} done")


def test_only_large_pictures_are_laid_out_by_what_is_seen() -> None:
    """A browser that runs no script lays out all of it, large or not: the style says so."""
    chain = [f"n{at}" for at in range(CULLED_FROM + 1)]
    large = scene(plan(chain, list(pairwise(chain))))
    assert 'class="dag cull"' in large.drawing.fragment({})
    assert 'class="dag"' in scene(plan(["a"], [])).drawing.fragment({})
    assert coded(["PENDING", "QUEUED"]) == "AB"


def test_what_was_removed_is_drawn_where_it_makes_no_circle() -> None:
    """An edge that was turned round stands in the picture once, as the new one; the other is counted."""
    before = plan(["a", "b", "gone"], [("a", "b"), ("b", "gone")])
    after = plan(["a", "b"], [("b", "a")])
    both, left_out = united(after, plan_diff(before, after))
    assert [one["nodeId"] for one in both["nodes"]] == ["a", "b", "gone"]
    assert [one["edgeId"] for one in both["edges"]] == ["b->a", "b->gone"]
    assert left_out == 1
