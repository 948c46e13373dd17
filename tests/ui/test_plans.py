"""Plans: written, checked at their lines, stored, looked at, rehearsed, started."""

from __future__ import annotations

import uuid

import pytest
from playwright.async_api import expect

from dalang.api.ui.lines import line_told, lines_of
from tests.ui.conftest import Looking, Stack, accessible, fits, shot

PLAN = """name: {name}
version: 1.0.0
inputs:
  type: object
  required: [feature]
  properties:
    feature: {{type: string, minLength: 3}}
    copies: {{type: integer, default: 2}}
nodes:
  - nodeId: greet
    type: {type}
    inputs: {{what: "${{inputs.feature}}"}}
  - {{nodeId: wait, type: sleep, inputs: {{seconds: 0.01}}}}
edges:
  - {{sourceNodeId: greet, targetNodeId: wait}}
"""


async def test_a_plan_is_written_stored_and_started(stack: Stack, look: Looking) -> None:
    """A problem stands at its line; the stored plan's form is made from its schema; pressing twice starts once."""
    name = f"plan-{uuid.uuid4().hex[:8]}"
    async with look("/ui/plans/new") as page:
        await expect(page.locator("[data-verdict]")).to_have_text("Valid")
        await accessible(page)
        await page.get_by_label("The plan", exact=True).fill(PLAN.format(name=name, type="nope"))
        await expect(page.locator("[data-gutter] .error")).to_have_text("11")
        await accessible(page)
        await page.get_by_role("button", name="Line 11").click()
        chosen = (
            "const one = document.querySelector('[data-source]'); one.value.slice(one.selectionStart, one.selectionEnd)"
        )
        assert await page.evaluate(chosen) == "    type: nope"
        await page.get_by_label("The plan", exact=True).fill(PLAN.format(name=name, type="noop"))
        await expect(page.locator("[data-verdict]")).to_have_text("Valid")
        await expect(page.locator("[data-picture] [data-node-id=greet]")).to_be_visible()
        await page.get_by_role("button", name="Store this version").click()
        await page.wait_for_url("**/ui/plans/*version=1.0.0")
        await accessible(page)
        form = page.locator("[data-start]")
        await form.get_by_label("Feature").fill("ab")
        await form.get_by_role("button", name="Start").click()
        await expect(form.locator(".wrong")).to_contain_text("at least 3 characters")
        await form.get_by_label("Feature").fill("login")
        await page.set_viewport_size({"width": 390, "height": 844})
        await fits(page)
        await form.get_by_role("button", name="Start").click()
        await page.wait_for_url("**/ui/runs/*")
        run_id = page.url.rpartition("/")[2]
    run = await stack.until(f"/orchestrator/runs/{run_id}", lambda one: one["status"] == "COMPLETED")
    assert run["inputs"] == {"feature": "login", "copies": 2}


async def test_a_rehearsal_is_a_picture(stack: Stack, look: Looking) -> None:
    """The median rehearsal with its critical path; what is assumed wrongly is told with its place."""
    document = {
        "name": f"rehearsed-{uuid.uuid4().hex[:6]}",
        "nodes": [{"nodeId": "design", "type": "noop"}, {"nodeId": "build", "type": "noop"}],
        "edges": [{"sourceNodeId": "design", "targetNodeId": "build"}],
    }
    stored = (await stack("POST", "/orchestrator/plans", json=document)).json()
    address = f"/ui/plans/{stored['planId']}/rehearsal?runs=20&assumed="
    assumed = "nodes: {design: {duration: 'uniform(1h, 2h)', failures: {rate: 0.3, type: NETWORK_ERROR}}}"
    async with look(address + assumed, dark=True) as page:
        await expect(page.locator(".rehearsed .critical").first).to_contain_text("design")
        await expect(page.locator(".rehearsed")).to_contain_text("design")
        await accessible(page)
        await shot(page, "rehearsal")
        await page.goto(address + "nodes: {nobody: {duration: 1h}}")
        await expect(page.get_by_role("alert")).to_contain_text("nobody")
    assert (await stack("GET", address, as_=("acme", "viewer"))).status_code == 403


TEXT = 'nodes:\n  - nodeId: a\n    inputs:\n      "x/y": 1\n  - {nodeId: b}\n'


@pytest.mark.parametrize(
    ("pointer", "line"),
    [("", 1), ("/nodes/0/nodeId", 2), ("/nodes/0/inputs/x~1y", 4), ("/nodes/1/type", 5), ("/nodes/9", 1), ("/zzz", 1)],
)
def test_a_pointer_has_a_line(pointer: str, line: int) -> None:
    """Its own, or that of the nearest place above it."""
    assert lines_of(TEXT, [pointer]) == {pointer: line}


def test_a_text_that_cannot_be_read_names_its_line_itself() -> None:
    """So there are no places."""
    assert lines_of("a: [", [""]) == {}
    assert line_told("Line 12, column 3: no.") == 12
    assert line_told("It is nothing.") is None
