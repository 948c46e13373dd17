"""``/ui/sign-in`` and ``/ui/sign-out``: a browser gets its session cookie by a token or by a ticket, and loses it.

A link with a ticket signs in at once when a person opened it, from a terminal or by hand. A link on a page of others
is asked about first: it would sign in whoever follows it as somebody else, and he would not notice.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.responses import RedirectResponse

from dalang.api.auth import READERS, session_cookie
from dalang.api.bodies import media_type, read_body
from dalang.api.problems import Unauthenticated, UnsupportedMedia
from dalang.api.rates import TooManyRequests
from dalang.api.services import Service, Services
from dalang.api.sessions import (
    COOKIE,
    CSRF_HEADER,
    check_not_forged,
    check_origin,
    forget_cookie,
    set_cookie,
)
from dalang.api.ui.pages import HEADERS, SIGN_IN, html
from dalang.errors import Unavailable
from dalang.store.browser_sessions import SignedIn

logger = logging.getLogger("dalang.identity")
router = APIRouter(include_in_schema=False)

HOME = "/ui/"
MAX_NEXT_LENGTH = 2_000
MAX_FORM_BYTES = 16 * 1024
FORM = "application/x-www-form-urlencoded"
Cookie = Annotated[str | None, Depends(session_cookie)]
Next = Annotated[str, Query(alias="next")]


@router.get(SIGN_IN)
async def sign_in_page(request: Request, it: Service, next_: Next = HOME, ticket: str | None = None) -> Response:
    """Show how to sign in, or do it with a ticket."""
    if ticket is not None and request.headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return await _with_ticket(request, it, ticket, local_path(next_))
    return _page(it, local_path(next_), ticket=ticket)


@router.post(SIGN_IN)
async def sign_in(request: Request, it: Service) -> Response:
    """Sign in with the token, or the ticket, of the form."""
    check_origin(request)
    form = await _form(request)
    next_ = local_path(form.get("next"))
    if "ticket" in form:
        return await _with_ticket(request, it, form["ticket"], next_)
    return await _with_token(request, it, form.get("token", "").strip(), next_)


@router.post("/ui/sign-out")
async def sign_out(request: Request, it: Service, cookie: Cookie) -> Response:
    """End the session; the CSRF value comes in the form (``csrf``) or in its header."""
    response = RedirectResponse(SIGN_IN, HTTPStatus.SEE_OTHER)
    if cookie:
        given = request.headers.get(CSRF_HEADER)
        check_not_forged(request, cookie, (await _form(request)).get("csrf", "") if given is None else given)
        await it.sessions.end(cookie)
        forget_cookie(request, response)
    return response


async def _with_token(request: Request, it: Services, token: str, next_: str) -> Response:
    try:
        it.failed_sign_ins.take(address_of(request), 0)
        principal = await it.tokens.principal(token) if token else None
    except Unauthenticated as error:
        return refused(it, HTTPStatus.UNAUTHORIZED, str(error), next_, address_of(request))
    except Unavailable as error:
        return _unavailable(it, error, next_)
    if principal is None:
        why = "This token is unknown, expired or revoked."
        return refused(it, HTTPStatus.UNAUTHORIZED, why, next_, address_of(request))
    if not principal.roles & READERS:
        return refused(it, HTTPStatus.FORBIDDEN, "This token has no role that may read.", next_)
    return await begin_session(request, it, principal.signed_in(), next_)


async def _with_ticket(request: Request, it: Services, ticket: str, next_: str) -> Response:
    try:
        it.failed_sign_ins.take(address_of(request), 0)
    except Unavailable as error:
        return _unavailable(it, error, next_)
    who = await it.sessions.use(ticket)
    if who is None:
        why = "This link was used before, or is too old."
        return refused(it, HTTPStatus.UNAUTHORIZED, why, next_, address_of(request))
    return await begin_session(request, it, who, next_)


def local_path(text: str | None) -> str:
    """Return ``text`` if it is a path of this server, else that of the first page: no link leads elsewhere."""
    if not text or len(text) > MAX_NEXT_LENGTH or not text.isprintable() or not text.isascii():
        return HOME
    # Browsers read // and /\ as the beginning of another server's address.
    return text if text[0] == "/" and text[1:2] not in ("/", "\\") else HOME


async def begin_session(request: Request, it: Services, who: SignedIn, next_: str) -> Response:
    """Sign in and go on to ``next_``, a local path; the session that the browser had before ends."""
    response = RedirectResponse(next_, HTTPStatus.SEE_OTHER, headers=HEADERS)
    before = request.cookies.get(COOKIE)
    if before:
        await it.sessions.end(before)
    set_cookie(request, response, await it.sessions.start(who))
    logger.info("%r of tenant %r signed in from %s", who.subject, who.tenant_id, address_of(request))
    return response


def refused(it: Services, status: HTTPStatus, why: str, next_: str, address: str | None = None) -> Response:
    """Return the sign-in page that says why; the failure is counted against ``address``, if there is one."""
    if address is not None:
        with suppress(TooManyRequests):
            it.failed_sign_ins.take(address)
    return _page(it, next_, status=status, problem=why)


def address_of(request: Request) -> str:
    """Return where a request comes from; behind a proxy that is trusted, what that says."""
    return request.client.host if request.client else ""


def _unavailable(it: Services, error: Unavailable, next_: str) -> Response:
    too_many = isinstance(error, TooManyRequests)
    return refused(it, HTTPStatus.TOO_MANY_REQUESTS if too_many else HTTPStatus.SERVICE_UNAVAILABLE, str(error), next_)


def _page(
    it: Services, next_: str, *, status: int = 200, problem: str | None = None, ticket: str | None = None
) -> Response:
    providers = [one for one in it.trusted.providers().providers if one.client is not None]
    shown = {"title": "Sign in", "next": next_, "problem": problem, "ticket": ticket, "providers": providers}
    return html("sign_in.html", shown, status)


async def _form(request: Request) -> dict[str, str]:
    if media_type(request) != FORM:
        raise UnsupportedMedia(f"The form is sent with Content-Type: {FORM}.")
    body = await read_body(request, MAX_FORM_BYTES)
    try:
        fields = parse_qs(body.decode("ascii"), errors="strict", max_num_fields=10)
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items()}
