"""One identity provider over HTTP: where its endpoints are, and the keys that its tokens are signed with.

Theory of operation
    Keys are remembered for ten minutes. A token with a key id that is not known makes them be fetched anew, but not
    again within ten seconds: so a rotation is taken up at once, and whoever sends invented ids makes nobody hammer the
    provider. While a provider is away, or slow, keys that were known go on to hold for a day, and who comes with one of
    them does not wait for it. Its answers are bounded in size and time, and redirects are not followed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from joserfc import jwk
from joserfc.errors import JoseError

from dalang.api.oidc import TokenRefused
from dalang.errors import Unavailable
from dalang.identity_providers import Provider, is_safe_address

logger = logging.getLogger("dalang.identity")

SECONDS = 5.0
MAX_BYTES = 512 * 1024
MAX_KEYS = 100
FRESH_SECONDS = 600.0
KNOWN_SECONDS = 24 * 3600.0
PAUSE_SECONDS = 10.0
"""Between two attempts to fetch the keys."""
MIN_RSA_BITS = 2048
_KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}

Key = jwk.RSAKey | jwk.ECKey | jwk.OKPKey


class UnknownKey(Exception):
    """The provider has no key of this id for this algorithm."""


@dataclass(frozen=True)
class Endpoints:
    """What the provider's discovery document says."""

    keys: str
    authorization: str | None
    token: str | None
    authentication: tuple[str, ...]


class Issuer:
    """A provider, and what is remembered of it."""

    def __init__(self, provider: Provider, now: Callable[[], float] = time.monotonic) -> None:
        self.provider = provider
        self._now = now
        self._keys: list[Key] = []
        self._fetched = self._tried = -KNOWN_SECONDS
        self._endpoints: tuple[Endpoints, float] | None = None
        self._fetching = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def key(self, key_id: str | None, algorithm: str) -> Key:
        """Return the key that a token names; without an id the only one there is for its algorithm.

        Raises:
            UnknownKey: there is none.
            Unavailable: no key is known yet, and the provider does not answer.
        """
        if self._now() - self._fetched >= KNOWN_SECONDS:
            self._keys = []
        known = self._known(key_id, algorithm)
        if known is None:
            await self._refresh()
            known = self._known(key_id, algorithm)
        elif self._now() - self._fetched >= FRESH_SECONDS and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(self._refresh_in_peace(), name="identity keys")
        if known is None:
            raise UnknownKey
        return known

    async def endpoints(self) -> Endpoints:
        """Return where things are.

        Raises:
            Unavailable: the provider does not answer, or not as OpenID Connect says.
        """
        if self._endpoints is None or self._now() - self._endpoints[1] >= FRESH_SECONDS:
            issuer = self.provider.issuer
            said = await self.fetch(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            if said.get("issuer") != issuer:
                raise self._wrong(f"its discovery document is of the issuer {str(said.get('issuer'))[:200]!r}")
            keys, methods = self._address(said, "jwks_uri"), said.get("token_endpoint_auth_methods_supported")
            if keys is None:
                raise self._wrong("its discovery document has no jwks_uri")
            found = Endpoints(
                keys,
                authorization=self._address(said, "authorization_endpoint"),
                token=self._address(said, "token_endpoint"),
                authentication=tuple(map(str, methods)) if isinstance(methods, list) else ("client_secret_basic",),
            )
            self._endpoints = found, self._now()
        return self._endpoints[0]

    async def fetch(self, url: str, **post: Any) -> Mapping[str, Any]:
        """Return the JSON object that an address answers, within bounds; with ``data`` it is posted.

        Raises:
            TokenRefused: what was posted is refused.
            Unavailable: there is no such answer.
        """
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        try:
            async with (
                asyncio.timeout(SECONDS),
                self._http().stream("POST" if post else "GET", url, headers=headers, **post) as answer,
            ):
                body = b""
                async for part in answer.aiter_raw():
                    body += part
                    if len(body) > MAX_BYTES:
                        raise self._wrong(f"its answer has more than {MAX_BYTES} bytes")
            if post and answer.status_code in (400, 401, 403):
                logger.warning("identity provider %s refuses: %s", self.provider.name, body[:500])
                raise TokenRefused("The identity provider refused; sign in again, or ask its administrator.")
            if answer.status_code != 200:
                raise self._wrong(f"it answers {answer.status_code}")
            said = json.loads(body)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
            raise self._wrong(f"it does not answer ({type(error).__name__})") from None
        except (ValueError, RecursionError):
            raise self._wrong("its answer is no JSON") from None
        if not isinstance(said, dict):
            raise self._wrong("its answer is no JSON object")
        return said

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            trusted = ssl.create_default_context(cafile=self.provider.ca_file)
            limits = httpx.Limits(max_connections=5, keepalive_expiry=30)
            self._client = httpx.AsyncClient(
                verify=trusted, timeout=SECONDS, limits=limits, follow_redirects=False, trust_env=False
            )
        return self._client

    def _known(self, key_id: str | None, algorithm: str) -> Key | None:
        kind = _KINDS[algorithm[:2]]
        fitting = [key for key in self._keys if key.key_type == kind and key.get("alg") in (None, algorithm)]
        if key_id is None:
            return fitting[0] if len(fitting) == 1 else None
        return next((key for key in fitting if key.get("kid") == key_id), None)

    async def _refresh(self) -> None:
        """Fetch the keys, unless that was tried just now; who comes meanwhile waits for the same answer."""
        async with self._fetching:
            if self._now() - self._tried < PAUSE_SECONDS:
                if not self._keys:
                    raise self._away()
                return
            self._tried = self._now()
            try:
                self._keys = _usable(await self.fetch((await self.endpoints()).keys))
                self._fetched = self._now()
            except Unavailable:
                if not self._keys:
                    raise

    async def _refresh_in_peace(self) -> None:
        try:
            await self._refresh()
        except Unavailable as error:
            logger.warning("keys that were known go on to hold: %s", error)

    def _address(self, said: Mapping[str, Any], name: str) -> str | None:
        address = said.get(name)
        if address is not None and not (isinstance(address, str) and is_safe_address(address)):
            raise self._wrong(f"its {name} is no address that is safe")
        return address

    def _wrong(self, why: str) -> Unavailable:
        logger.warning("identity provider %s: %s", self.provider.name, why)
        return self._away()

    def _away(self) -> Unavailable:
        return Unavailable(f"The identity provider {self.provider.name} does not answer at the moment; try again.")


def _usable(document: Mapping[str, Any]) -> list[Key]:
    """Return the public keys for signatures of a JWK set; what is something else, or wrong, is passed over."""
    listed = document.get("keys")
    found: list[Key] = []
    for one in listed[:MAX_KEYS] if isinstance(listed, list) else ():
        if not isinstance(one, dict) or one.get("use", "sig") != "sig" or one.get("kty") not in _KINDS.values():
            continue
        try:
            key = jwk.import_key({name: value for name, value in one.items() if name != "key_ops"})
        except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
            logger.warning("a key of an identity provider cannot be read: %s", type(error).__name__)
            continue
        if isinstance(key, jwk.RSAKey) and key.raw_value.key_size < MIN_RSA_BITS:
            continue
        if isinstance(key, Key):
            found.append(key)
    return found
