"""The authorization code flow without the pages around it: how a client says who it is, and whose claims count."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from dalang.api.oidc import TokenRefused, codes
from dalang.api.oidc.codes import Attempt
from dalang.api.oidc.issuer import Issuer
from dalang.identity_providers import Identity, Provider
from tests.identity_provider import AUDIENCE, CLIENT, IdentityProvider, identity_provider

REDIRECT = "https://dalang.example/ui/sign-in/company/callback"


@pytest.fixture(scope="module")
async def peer() -> AsyncIterator[IdentityProvider]:
    async with identity_provider() as made:
        yield made


async def signed_in(peer: IdentityProvider, client: dict[str, Any], **claims: Any) -> Identity:
    """There and back; return who came."""
    rules = {"tenant": {"fixed": "acme"}, "roles": {"claim": "realm_access.roles"}}
    values = {"name": "company", "issuer": peer.issuer, "audience": [AUDIENCE], "client": client, **rules}
    issuer = Issuer(Provider.model_validate(values))
    attempt = Attempt.read(Attempt.begin("company", "/ui/").cookie())
    assert attempt is not None
    try:
        way_back = peer.authorize(await codes.address(issuer, attempt, REDIRECT), **claims)
        return await codes.identity(issuer, attempt, way_back, REDIRECT)
    finally:
        await issuer.close()


@pytest.mark.parametrize("way", ["client_secret_basic", "client_secret_post", "none"])
async def test_a_client_says_who_it_is_as_the_provider_wants(
    peer: IdentityProvider, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """By HTTP's own way, in the form, or, being public, by PKCE alone."""
    monkeypatch.setenv("A_SECRET", CLIENT[1])
    peer.authentication = [way]
    client = {"id": CLIENT[0]} | ({} if way == "none" else {"secret": "env:A_SECRET"})
    assert await signed_in(peer, client) == Identity("acme", "f3a1", ("operator",), ("/finance", "/other"))
    monkeypatch.setenv("A_SECRET", "wrong")
    with pytest.raises(TokenRefused, match="refused"):
        await signed_in(peer, client if "secret" in client else {"id": "another"})


async def test_claims_of_the_access_token_count_where_the_file_says_so(peer: IdentityProvider) -> None:
    """If it is one that REST would take, of the same person."""
    peer.authentication = ["none"]
    without_roles = {"realm_access": None}
    assert (await signed_in(peer, {"id": CLIENT[0]}, **without_roles)).roles == ()
    client = {"id": CLIENT[0], "claims": "accessToken"}
    assert (await signed_in(peer, client, **without_roles)).roles == ("operator",)
    with pytest.raises(TokenRefused, match="two people"):
        await signed_in(peer, client, sub="another")


@pytest.mark.parametrize(
    "cookie", ["", "W10=", "ä", "e30=", "WyJhIiwxLCJiIl0=", "x" * 5_000, "WyJcdWQ4MDAiLCIiLCIiXQ", None]
)
def test_what_is_no_attempt_is_none(cookie: str | None) -> None:
    """Whatever somebody puts into the cookie."""
    assert Attempt.read(cookie) is None
