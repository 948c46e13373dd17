"""The page about performance tells what was measured."""

from __future__ import annotations

from xml.etree import ElementTree

from benchmarks.report import DRAWN_BY_HAND, LAST, PAGE, PICTURES, charts, filled, load, pictures
from benchmarks.results import row


def test_the_page_and_its_pictures_are_made_of_the_results() -> None:
    """Neither is written by hand, nor left from an earlier measurement: `python benchmarks/report.py` makes them."""
    results = load()
    assert PAGE.read_text(encoding="utf-8") == filled(PAGE.read_text(encoding="utf-8"), results)
    stored = {file.name: file.read_text(encoding="utf-8") for file in PICTURES.glob("*.svg")}
    assert {name: svg for name, svg in stored.items() if name not in DRAWN_BY_HAND} == pictures(results)


def test_a_result_that_nobody_knows_has_its_picture_and_place() -> None:
    """Every unit with several rows is drawn, with a title and a description for those who hear it."""
    rows = [row("fan <500>", "by hand", "s", [1.0, 2.0, 3.0]), row("fan <500>", "PlanRun", "s", [2.0, 2.5, 900.0])]
    facts = dict.fromkeys(("cores", "processor", "memory GB", "load before", "python", "postgres"), 2)
    machine = {**facts, "temporal server": "1", "revision": "abc"}
    notes = ["Quiet.", "Tried sleeping; it did not help."]
    result = {"name": "new", "title": "New", "when": "2026-11-22T10:00:00+00:00", "machine": machine, "notes": notes}
    result["rows"] = rows
    (chart,) = charts(result).values()
    root = ElementTree.fromstring(chart.svg())
    told = " ".join(root.itertext())
    assert "fan <500>, PlanRun: 2.50 (2.00-900)" in told
    assert "logarithmic" in told
    page = filled(f"# P\n\n{LAST}\n<!-- tried -->\n<!-- end of tried -->\n", {"new": result})
    assert "- New: Tried sleeping; it did not help.\n<!-- end of tried -->" in page
    assert "## New\n\n<!-- results: new -->\n![New: s](performance/new-1.svg)\n\n- Quiet.\n\n" in page
    assert filled(page, {"new": result}) == page
