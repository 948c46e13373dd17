"""The inbox: what is asked is shown as it is, and what was shown is what is decided."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from playwright.async_api import Page, expect

from dalang.api.ui import prose
from dalang.api.ui.forms import fields_of
from tests.ui.conftest import Looking, Stack, accessible, fits, shot

HOSTILE = "<script>alert(1)</script> [x](javascript:alert(1)) ![p](https://example.com/p.png)"
FORM = {
    "type": "object",
    "required": ["channel", "contact"],
    "properties": {
        "channel": {"type": "string", "enum": ["blog", "mail"]},
        "copies": {"type": "integer", "minimum": 1, "default": 2},
        "urgent": {"type": "boolean"},
        "day": {"type": "string", "format": "date"},
        "at": {"type": "string", "format": "date-time"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "regions": {"type": "array", "uniqueItems": True, "items": {"enum": ["eu", "us"]}},
        "contact": {"type": "object", "required": ["email"], "properties": {"email": {"type": "string"}}},
        "extra": {"type": "object"},
    },
}


def asking(title: str, **task: Any) -> dict[str, Any]:
    """A plan that asks once."""
    node = {"nodeId": "ask", "type": "human", "inputs": {"text": "one\ntwo\nthree", "config": {"replicas": 3}}}
    return {"name": "asking", "nodes": [{**node, "task": {"title": title, **task}}]}


async def opened(stack: Stack, plan: dict[str, Any]) -> dict[str, Any]:
    """Start a run; return the task that it opens."""
    run_id = await stack.execute(plan)
    found = await stack.until(f"/orchestrator/human-tasks?runId={run_id}&open=true", lambda page: page["items"])
    return dict(found["items"][0])


async def decided(stack: Stack, task: dict[str, Any]) -> dict[str, Any]:
    """Wait for the decision about a task; return the task."""
    address = f"/orchestrator/human-tasks/{task['taskId']}"
    return dict(await stack.until(address, lambda one: one["status"] == "COMPLETED"))


async def fill(page: Page) -> None:
    """Fill in the form, by the labels that people read."""
    await page.get_by_label("Channel").select_option(label="mail")
    await page.get_by_label("Copies").fill("3")
    await page.get_by_label("Urgent").check()
    await page.get_by_label("Day", exact=True).fill("2026-12-24")
    for tag in ("a", "b"):
        await page.get_by_role("group", name="Tags").get_by_role("button", name="Add one").click()
        await page.keyboard.type(tag)
    await page.get_by_label("eu").check()
    await page.get_by_label("Extra").fill('{"x": [1]}')


async def test_a_form_is_filled_in_and_judged_at_its_fields(stack: Stack, look: Looking) -> None:
    """A problem stands at its field, which is focused; the values arrive with the types of the schema."""
    task = await opened(stack, asking("Fill me in", description=f"Is it **ready**? {HOSTILE}", form=FORM, priority=1))
    async with look(f"/ui/inbox/{task['taskId']}", width=390) as page:
        assert await page.locator("main script, main img, a[href^=javascript]").count() == 0
        assert await page.locator(".prose strong").inner_text() == "ready"
        await accessible(page)
        await fits(page)
        await shot(page, "task-phone")
        await fill(page)
        await page.get_by_role("button", name="Approve", exact=True).click()
        email = page.get_by_label("Email")
        await expect(email).to_have_attribute("aria-invalid", "true")
        assert await page.evaluate("document.activeElement.id") == await email.get_attribute("id")
        await accessible(page)
        await email.fill("kim@example.com")
        await page.get_by_role("button", name="Approve", exact=True).click()
        await page.wait_for_url("**/ui/inbox")
    after = await decided(stack, task)
    assert after["decision"]["values"] == {
        "channel": "mail",
        "copies": 3,
        "urgent": True,
        "day": "2026-12-24",
        "tags": ["a", "b"],
        "regions": ["eu"],
        "contact": {"email": "kim@example.com"},
        "extra": {"x": [1]},
    }


async def test_what_is_edited_is_shown_as_a_difference_and_sent_alone(stack: Stack, look: Looking) -> None:
    """Only what was changed is sent; the page of the decided task shows both."""
    task = await opened(stack, asking("Change me"))
    async with look(f"/ui/inbox/{task['taskId']}") as page:
        await page.get_by_role("button", name="Approve with changes").click()
        await expect(page.get_by_role("alert")).to_contain_text("Nothing is changed")
        await page.get_by_label("text", exact=True).fill("one\n2\nthree")
        assert await page.locator(".diff .minus").all_inner_texts() == ["-two"]
        await page.get_by_label("Notes").fill("digits")
        await page.get_by_role("button", name="Approve with changes").click()
        await page.wait_for_url("**/ui/inbox")
        after = await decided(stack, task)
        assert after["decision"]["outputs"] == {"text": "one\n2\nthree"}
        await page.goto(f"/ui/inbox/{task['taskId']}")
        assert await page.locator(".diff .plus").all_inner_texts() == ["+2"]
        await accessible(page)


async def test_what_has_changed_is_not_decided(stack: Stack, look: Looking) -> None:
    """The digest of what was shown goes with the decision; its refusal shows what is another now."""
    task = await opened(stack, asking("Look twice"))
    async with look(f"/ui/inbox/{task['taskId']}") as page:
        await page.locator("[data-task]").evaluate(
            "one => { const shown = JSON.parse(one.dataset.shown); shown.title = 'Look once';"
            " one.dataset.shown = JSON.stringify(shown); one.dataset.digest = '0'.repeat(64); }"
        )
        await page.get_by_role("button", name="Approve", exact=True).click()
        alert = page.get_by_role("alert")
        await expect(alert).to_contain_text("has changed since you read it")
        await expect(alert).to_contain_text("+Look twice")
        await page.get_by_role("button", name="Show it as it is now").click()
        await page.get_by_role("button", name="Reject").click()
        await page.wait_for_url("**/ui/inbox")


async def test_the_inbox_is_live(stack: Stack, look: Looking) -> None:
    """A new task appears, with its count; many are decided at once, and go."""
    mark = f"Task {uuid.uuid4().hex[:6]}"
    async with look("/ui/inbox", dark=True) as page:
        row = page.get_by_role("link", name=f"{mark} a", exact=True)
        first = await opened(stack, asking(f"{mark} a"))
        await expect(row).to_be_visible()
        await opened(stack, asking(f"{mark} b", form=FORM))
        await expect(page.get_by_role("link", name=f"{mark} b")).to_be_visible()
        await accessible(page)
        for name in ("a", "b"):
            await page.get_by_label(f"Choose: {mark} {name}").check()
        await page.locator("[data-decide]").get_by_role("button", name="Approve").click()
        await page.get_by_role("dialog").get_by_label("Notes").fill("all fine")
        await accessible(page)
        await page.get_by_role("dialog").get_by_role("button", name="Approve").click()
        await expect(row).to_have_count(0)
        await expect(page.locator("[data-refusals]")).to_contain_text(f"{mark} b")
    assert (await decided(stack, first))["notes"] == "all fine"


async def test_a_failure_asks_and_is_claimed_and_retried(stack: Stack, look: Looking) -> None:
    """With other inputs; the task says what went wrong, and who has it."""
    node = {"nodeId": "pay", "type": "api-test-picky", "inputs": {"card": "1"}, "retryPolicy": {"maxAttempts": 1}}
    task = await opened(stack, {"name": "paying", "failurePolicy": "escalate", "nodes": [node]})
    async with look(f"/ui/inbox/{task['taskId']}") as page:
        await expect(page.get_by_label("What went wrong")).to_contain_text("the card 1 is refused")
        await page.get_by_role("button", name="Claim").click()
        await expect(page.get_by_label("Whose it is")).to_contain_text("operator@acme")
        await accessible(page)
        if await page.locator("details.change summary").first.is_visible():
            await page.locator("details.change summary").first.click()
        await page.get_by_label("card").fill("4242")
        await page.get_by_role("button", name="Run it again").click()
        await page.wait_for_url("**/ui/inbox")
    run = await stack.until(f"/orchestrator/runs/{task['runId']}", lambda one: one["status"] == "COMPLETED")
    assert run["nodeStatusCounts"] == {"SUCCESS": 1}


async def test_a_task_is_decided_by_keyboard_alone(stack: Stack, look: Looking) -> None:
    """From the list to the button, by tabulator and enter; the focus is seen all the way."""
    title = f"Keys {uuid.uuid4().hex[:6]}"
    task = await opened(stack, asking(title))
    one = "document.activeElement"
    stop = f"[{one}.textContent.trim(), getComputedStyle({one}).outlineStyle]"

    async def tab_to(page: Page, name: str) -> None:
        for _ in range(120):
            await page.keyboard.press("Tab")
            word, outline = await page.evaluate(stop)
            if word == name:
                assert outline != "none"
                return
        raise AssertionError(f"no tabulator stop is called {name}")

    async with look("/ui/inbox?view=open") as page:
        await tab_to(page, title)
        await page.keyboard.press("Enter")
        await page.wait_for_url(f"**/{task['taskId']}")
        await tab_to(page, "Reject")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/ui/inbox")
    assert (await decided(stack, task))["decision"]["action"] == "reject"


async def test_who_may_not_decide_is_told_why(stack: Stack, look: Looking) -> None:
    """A viewer reads it; there is nothing to press."""
    task = await opened(stack, asking("Not yours"))
    async with look(f"/ui/inbox/{task['taskId']}", as_=("acme", "viewer")) as page:
        await expect(page.get_by_label("Decide")).to_contain_text("may read tasks, not decide them")
        assert await page.get_by_role("button", name="Approve").count() == 0
    response = await stack("GET", f"/ui/inbox/{task['taskId']}", as_=("globex", "admin"))
    assert response.status_code == 404


@pytest.mark.parametrize(
    "schema", [{}, {"properties": 3}, {"properties": {"a": True, "b": {"$ref": "#"}}}, {"$ref": "#"}]
)
def test_odd_schemas_make_no_odd_forms(schema: Any) -> None:
    """Whatever a schema is: fields that end, or none."""
    assert len(fields_of(schema)) < 3


def test_what_people_write_does_nothing() -> None:
    """HTML stays text, links lead to where browsers may go, and nobody is told who looks."""
    html = prose.markdown(HOSTILE)
    assert "<script" not in html
    assert "<img" not in html
    assert 'href="javascript' not in html
    assert "&lt;b" in prose.text("--- a\n+++ b\n-<b>")
