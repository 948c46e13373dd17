"""How a page is made: who looks, the template around it, and an error as a page.

A route of a page is one of :class:`PageRoute`: who is not signed in is led to ``/ui/sign-in``, and any error is a page
that says what to do. Everything that is allowed or refused is so by the same dependency as in REST.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse

from dalang import __version__
from dalang.api import problems
from dalang.api.auth import DECIDERS, OPERATORS, Principal, Reader
from dalang.api.human_tasks import person
from dalang.api.problems import Unauthenticated
from dalang.api.services import Service, Services
from dalang.api.ui import marks, telling
from dalang.api.ui.files import static
from dalang.api.ui.icons import icon
from dalang.store.human_tasks import count_waiting
from dalang.svg import STYLE as DRAWING_STYLE

SIGN_IN = "/ui/sign-in"


@dataclass(frozen=True)
class Entry:
    """A line of the navigation."""

    section: str
    title: str
    address: str
    icon: str


NAVIGATION = (
    Entry("overview", "Overview", "/ui/", "overview"),
    Entry("runs", "Runs", "/ui/runs", "runs"),
    Entry("inbox", "Inbox", "/ui/inbox", "inbox"),
    Entry("plans", "Plans", "/ui/plans", "plan"),
)
OPERATIONS = (
    Entry("agents", "Agents", "/ui/agents", "agent"),
    Entry("limits", "Limits", "/ui/limits", "limits"),
    Entry("queue", "Queue", "/ui/queue", "queue"),
    Entry("breakers", "Breakers", "/ui/breakers", "breaker"),
    Entry("schedules", "Schedules", "/ui/schedules", "schedule"),
    Entry("webhooks", "Webhooks", "/ui/webhooks", "webhook"),
)


@dataclass(frozen=True)
class Visitor:
    """Who looks at a page, and what it is drawn from."""

    request: Request
    who: Principal
    it: Services

    @property
    def csrf(self) -> str:
        """What the scripts send with what changes something; empty where a token came with the request itself."""
        return str(getattr(self.request.state, "csrf", "") or "")

    @property
    def may_operate(self) -> bool:
        """Whether it may start and control runs."""
        return bool(self.who.roles & OPERATORS)

    @property
    def may_decide(self) -> bool:
        """Whether it may decide human tasks."""
        return bool(self.who.roles & DECIDERS)

    async def page(self, template: str, *, title: str, section: str = "", status: int = 200, **more: Any) -> Response:
        """Return a page; ``section`` is the line of the navigation that it belongs to."""
        async with self.it.transaction(self.who.tenant_id) as conn:
            waiting = await count_waiting(conn, self.who.tenant_id, person(self.who))
        common = {"visitor": self, "waiting": waiting, "csrf": self.csrf}
        return html(template, {**common, "title": title, "section": section, **more}, status)


async def _visitor(request: Request, who: Reader, it: Service) -> Visitor:
    return Visitor(request, who, it)


Looks = Annotated[Visitor, Depends(_visitor)]
"""The parameter of every page's route."""


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that Starlette calls."""
        handle = super().get_route_handler()

        async def handle_with_pages(request: Request) -> Response:
            try:
                return await handle(request)
            except Unauthenticated:
                return RedirectResponse(f"{SIGN_IN}?next={quote(_local(request), safe='')}", 303)
            except Exception as error:
                return error_page(request, error)

        return handle_with_pages


def error_page(request: Request, error: Exception) -> Response:
    """Return the page that tells an error as REST would have answered it."""
    answer = problems.answer(request, error)
    problem = json.loads(bytes(answer.body))
    response = html("error.html", {"problem": problem, "title": _TITLES.get(answer.status_code, problem["title"])})
    response.status_code = answer.status_code
    if "retry-after" in answer.headers:
        response.headers["Retry-After"] = answer.headers["retry-after"]
    return response


def html(template: str, context: Mapping[str, Any], status: int = 200) -> Response:
    """Return a template as a page, with headers that let in nothing from elsewhere."""
    known = {"visitor": None, "waiting": 0, "csrf": "", "section": "", "now": datetime.now(UTC)}
    text = environment.get_template(template).render({**known, **context})
    return HTMLResponse(text, status, headers=HEADERS)


def _local(request: Request) -> str:
    query = request.url.query
    return request.url.path + (f"?{query}" if query else "")


_TITLES = {
    403: "You may not see this",
    404: "There is no such page",
    500: "Something went wrong",
    503: "A part of Dalang does not answer",
}
# A picture of a plan brings its style with it; this lets in that one and no other.
_DRAWING = base64.b64encode(hashlib.sha256(DRAWING_STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    f"style-src 'self' 'sha256-{_DRAWING}'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    # Not no-referrer: browsers would send a form with `Origin: null`, which is nobody's.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals |= {
        "navigation": NAVIGATION,
        "operations": OPERATIONS,
        "version": __version__,
        "static": static,
        "icon": icon,
        "run_badge": marks.run_badge,
        "node_badge": marks.node_badge,
        "task_badge": marks.task_badge,
        "kind_badge": marks.kind_badge,
        "agent_badge": marks.agent_badge,
        "breaker_badge": marks.breaker_badge,
        "meter": marks.meter,
        "badge": marks.badge,
        "progress": marks.progress,
        "with_query": telling.with_query,
    }
    made.filters |= {
        "moment": telling.moment,
        "duration": telling.duration,
        "number": telling.number,
        "short": telling.short,
        "priority": telling.priority,
        "pretty": telling.pretty,
    }
    return made


environment = _environment()
"""Where the templates are; everything that is put into one is escaped unless it says that it is HTML."""
