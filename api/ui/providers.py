"""``/ui/sign-in/<provider>``: signing in where the person has an account already, and coming back from there."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from dalang.api.auth import READERS
from dalang.api.oidc import TokenRefused, codes
from dalang.api.oidc.codes import Attempt
from dalang.api.oidc.issuer import Issuer
from dalang.api.rates import TooManyRequests
from dalang.api.services import Service, Services
from dalang.api.sessions import is_over_https
from dalang.api.ui.pages import HEADERS, SIGN_IN, PageRoute
from dalang.api.ui.sign_in import HOME, Next, address_of, begin_session, local_path, refused
from dalang.errors import NotFound, Unavailable
from dalang.store.browser_sessions import SignedIn

router = APIRouter(include_in_schema=False, route_class=PageRoute)

COOKIE = "dalang_sign_in"
ATTEMPT_SECONDS = 600


@router.get(SIGN_IN + "/{provider}")
async def begin(request: Request, it: Service, provider: str, next_: Next = HOME) -> Response:
    """Send the browser to its provider."""
    issuer = _issuer(it, provider)
    attempt = Attempt.begin(provider, local_path(next_))
    try:
        away = await codes.address(issuer, attempt, _redirect_uri(it, provider))
    except Unavailable as error:
        return refused(it, HTTPStatus.SERVICE_UNAVAILABLE, str(error), attempt.next)
    response = RedirectResponse(away, HTTPStatus.SEE_OTHER, headers=HEADERS)
    response.set_cookie(
        COOKIE,
        attempt.cookie(),
        max_age=ATTEMPT_SECONDS,
        path=SIGN_IN,
        httponly=True,
        samesite="lax",
        secure=is_over_https(request),
    )
    return response


@router.get(SIGN_IN + "/{provider}/callback")
async def come_back(request: Request, it: Service, provider: str) -> Response:
    """Sign in whoever the provider says has come back; each attempt counts once."""
    issuer = _issuer(it, provider)
    attempt = Attempt.read(request.cookies.get(COOKIE))
    response = await _answered(request, it, issuer, attempt)
    response.delete_cookie(COOKIE, path=SIGN_IN, httponly=True, samesite="lax", secure=is_over_https(request))
    return response


async def _answered(request: Request, it: Services, issuer: Issuer, attempt: Attempt | None) -> Response:
    next_ = local_path(attempt.next if attempt else None)
    try:
        it.failed_sign_ins.take(address_of(request), 0)
        if attempt is None or attempt.provider != issuer.provider.name:
            raise TokenRefused("This took too long, or began in another browser; sign in again.")
        uri = _redirect_uri(it, issuer.provider.name)
        found = await codes.identity(issuer, attempt, dict(request.query_params), uri)
    except TokenRefused as error:
        return refused(it, HTTPStatus.UNAUTHORIZED, str(error), next_, address_of(request))
    except TooManyRequests as error:
        return refused(it, HTTPStatus.TOO_MANY_REQUESTS, str(error), next_)
    except Unavailable as error:
        return refused(it, HTTPStatus.SERVICE_UNAVAILABLE, str(error), next_)
    if not READERS & set(found.roles):
        return refused(it, HTTPStatus.FORBIDDEN, "You have no role here; ask an administrator.", next_)
    who = SignedIn(found.tenant_id, found.subject, found.roles, found.groups)
    return await begin_session(request, it, who, next_)


def _issuer(it: Services, name: str) -> Issuer:
    provider = it.trusted.providers().named(name)
    if provider is None:
        raise NotFound("There is no identity provider of this name.")
    return it.trusted.issuer(provider)


def _redirect_uri(it: Services, name: str) -> str:
    return f"{it.settings.public_url}{SIGN_IN}/{name}/callback"
