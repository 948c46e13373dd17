"""The way out: the HTTP client of every node whose address a plan, a tenant or a peer can choose.

.. code-block:: python

    async with http_client(timeout=30) as client:
        answer = await client.get(url)  # raises EgressRefused where the operator does not allow it

It checks where the connection goes, not what the URL says: a name is resolved once, every address it stands for is
judged, and the connection goes to exactly one of those, while ``Host`` header and TLS server name stay the URL's.
So a name that means something else at the second look (DNS rebinding) gains nothing, and a redirect, which needs a
connection too, is checked as the first request is. Proxies and credentials of the environment (``HTTP_PROXY``,
``.netrc``) are not used; an operator who wants a proxy sets ``DALANG_EGRESS_PROXY``.

Addresses that the operator configured, such as that of OPA, need none of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import ip_address
from typing import Any

import httpcore
import httpx

from dalang import tracing
from dalang.egress import SCHEMES, Address, Egress, Refused
from dalang.nodes import NodeFailure, PolicyViolation
from dalang.trust import trusted

Resolve = Callable[[str, int], Awaitable[list[Address]]]
_OF_TRANSPORT = ("verify", "cert", "http1", "http2", "limits", "retries", "socket_options")
_OURS = ("transport", "mounts", "proxy", "trust_env", "app")


class EgressRefused(PolicyViolation):
    """The operator's rules do not allow this address; the text says what he can set."""


class _InForce:
    rules = Egress()


@contextlib.contextmanager
def enforcing(rules: Egress) -> Iterator[None]:
    """Let ``rules`` hold for the clients that this process makes in the block: a worker has one set of them."""
    before, _InForce.rules = _InForce.rules, rules
    try:
        yield
    finally:
        _InForce.rules = before


def http_client(*, rules: Egress | None = None, resolve: Resolve | None = None, **options: Any) -> httpx.AsyncClient:
    """Return an ``httpx.AsyncClient`` that reaches what the operator allows, and raises :class:`EgressRefused` else.

    ``options`` are those of ``httpx.AsyncClient``; redirects are followed only if ``follow_redirects`` says so. Cookies
    are not kept, unless ``cookies`` says otherwise: most clients serve nodes of many runs and tenants, and the session
    of one is nobody else's. Without ``rules`` those of the process hold. ``resolve`` stands for the resolver, in tests.

    Raises:
        TypeError: an option would lead around the rules.
    """
    around = [name for name in _OURS if name in options]
    if around:
        raise TypeError(f"http_client takes no {', '.join(around)}: that would lead around the operator's rules")
    for_transport = {name: options.pop(name) for name in _OF_TRANSPORT if name in options}
    for_transport.setdefault("verify", trusted())
    options.setdefault("cookies", CookieJar(DefaultCookiePolicy(allowed_domains=())))
    transport = _Transport(rules or _InForce.rules, resolve or _resolved, for_transport)
    return httpx.AsyncClient(transport=transport, trust_env=False, **options)


def refusal_within(error: BaseException) -> EgressRefused | None:
    """Return the refusal that a library has wrapped into an error of its own (one of a connection, as a rule).

    Adapters ask before they make a NETWORK_ERROR of such an error; the wrapper of all handlers asks, too.
    """
    seen: set[int] = set()
    open_ones: list[BaseException | None] = [error]
    while open_ones:
        one = open_ones.pop()
        if one is None or id(one) in seen or (isinstance(one, NodeFailure) and not isinstance(one, EgressRefused)):
            continue
        if isinstance(one, EgressRefused):
            return one
        seen.add(id(one))
        open_ones += [one.__cause__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ())]
    return None


class _Transport(httpx.AsyncHTTPTransport):
    """Judges each request by its URL, and each connection by its address."""

    def __init__(self, rules: Egress, resolve: Resolve, options: dict[str, Any]) -> None:
        super().__init__(**options, proxy=rules.proxy or None)
        self._rules = rules
        if not rules.proxy:
            # httpx has no option for it; a test fails when it is called otherwise in another version.
            pool: Any = self._pool
            pool._network_backend = _Connections(rules, resolve, pool._network_backend)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it, if its address may be."""
        url = request.url
        host = url.raw_host.decode("ascii")
        port = url.port or SCHEMES.get(url.scheme, 0)
        if not host:
            raise httpx.UnsupportedProtocol(f"{url} names no host")
        try:
            if self._rules.check_host(url.scheme, host, port) is None and self._rules.proxy:
                self._rules.check_behind_proxy(host, port)
        except Refused as refused:
            raise EgressRefused(str(refused), details={"address": f"{host}:{port}"}) from None
        # Of the address no more than the host: the rest may hold secrets.
        attributes = {"http.request.method": request.method, "server.address": host, "server.port": port}
        with tracing.span(request.method, "client", attributes) as span:
            if tracing.TRACEPARENT not in request.headers:
                tracing.inject(request.headers)
            response = await super().handle_async_request(request)
            span.set_attribute("http.response.status_code", response.status_code)
            if response.status_code >= 400:
                tracing.mark_failed(str(response.status_code))
            return response


class _Connections(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that were judged, and to no other."""

    def __init__(self, rules: Egress, resolve: Resolve, inner: httpcore.AsyncNetworkBackend) -> None:
        self._rules = rules
        self._resolve = resolve
        self._inner = inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - it is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve once, judge every address, connect to the first that answers."""
        until = None if timeout is None else time.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._addresses(host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"the name {host} was not resolved in time") from None
        try:
            for address in addresses:
                self._rules.check_address(host, address, port)
        except Refused as refused:
            raise EgressRefused(str(refused), details={"address": f"{host}:{port}"}) from None
        failed: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            left = None if until is None else max(until - time.monotonic(), 0.001)
            try:
                return await self._inner.connect_tcp(str(address), port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    async def _addresses(self, host: str, port: int) -> list[Address]:
        with contextlib.suppress(ValueError):
            return [ip_address(host)]
        try:
            return await self._resolve(host, port)
        except TimeoutError:
            raise
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the name {host} cannot be resolved: {error}") from None

    async def connect_unix_socket(self, path: str, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        """Refuse: no plan has business with sockets of the machine."""
        raise EgressRefused("sockets of the machine are not allowed")

    async def sleep(self, seconds: float) -> None:
        """Wait between two tries to connect."""
        await self._inner.sleep(seconds)


async def _resolved(host: str, port: int) -> list[Address]:
    """Ask the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(one[4][0]) for one in found))
