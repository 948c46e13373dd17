"""Tokens of identity providers: which are taken, what they say, and what a provider that misbehaves can do."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from joserfc import jwk

from dalang.api.oidc import TokenRefused
from dalang.api.oidc import issuer as issuers
from dalang.api.oidc.issuer import Issuer
from dalang.api.oidc.verifying import issuer_of, verify
from dalang.errors import Unavailable
from dalang.identity_providers import Provider, TenantRule
from tests.identity_provider import AUDIENCE, OTHER, IdentityProvider, identity_provider


@pytest.fixture(scope="module")
async def served() -> AsyncIterator[IdentityProvider]:
    async with identity_provider() as made:
        yield made


class Clock:
    """Monotonic time that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def peer(served: IdentityProvider) -> IdentityProvider:
    """The provider as it is when nothing is wrong."""
    fresh = IdentityProvider(0)
    served.keys, served.broken, served.codes = fresh.keys, None, {}
    served.asked.clear()
    served.released.clear()
    return served


@pytest.fixture
async def issuer(peer: IdentityProvider, clock: Clock) -> AsyncIterator[Issuer]:
    provider = Provider(name="company", issuer=peer.issuer, audience=(AUDIENCE,), tenant=TenantRule(fixed="acme"))
    made = Issuer(provider, clock)
    yield made
    await made.close()


async def checked(issuer: Issuer, token: str) -> dict[str, Any]:
    return await verify(issuer, token, issuer.provider.audience)


async def test_a_good_token_is_taken_and_the_keys_are_asked_for_once(issuer: Issuer, peer: IdentityProvider) -> None:
    """However many come; in any of the algorithms that are allowed."""
    peer.keys["curve"] = jwk.ECKey.generate_key("P-256")
    for _ in range(3):
        assert (await checked(issuer, peer.token()))["preferred_username"] == "ann"
    assert (await checked(issuer, peer.token(alg="ES256", kid="curve")))["sub"] == "f3a1"
    assert (await checked(issuer, peer.token(aud=["other", AUDIENCE], typ="at+jwt")))["sub"] == "f3a1"
    assert peer.asked == ["/.well-known/openid-configuration", "/keys"]


def _forged(header: dict[str, Any], peer: IdentityProvider) -> str:
    parts = [json.dumps(one).encode() for one in (header, peer.claims())] + [b"signature"]
    return ".".join(base64.urlsafe_b64encode(one).decode().rstrip("=") for one in parts)


def _by_public_key(peer: IdentityProvider) -> str:
    """The old trick: the public key, which everybody has, as the secret of an HMAC."""
    signed = _forged({"alg": "HS256", "kid": "first"}, peer).rpartition(".")[0]
    signature = hmac.digest(peer.keys["first"].as_pem(private=False), signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


NOW = int(time.time())
BAD: dict[str, tuple[str, Callable[[IdentityProvider], str]]] = {
    "alg none": (
        "a way that is not allowed",
        lambda peer: _forged({"alg": "none", "kid": "first"}, peer)[: -len("c2lnbmF0dXJl")],
    ),
    "alg none with a signature": (
        "a way that is not allowed",
        lambda peer: _forged({"alg": "none", "kid": "first"}, peer),
    ),
    "HMAC by the public key": ("a way that is not allowed", _by_public_key),
    "an algorithm that is not allowed": ("a way that is not allowed", lambda peer: peer.token(alg="RS512")),
    "an algorithm of another kind of key": (
        "a key that its issuer does not have",
        lambda peer: _forged({"alg": "ES256", "kid": "first"}, peer),
    ),
    "no algorithm": ("no JSON Web Token", lambda peer: _forged({"kid": "first"}, peer)),
    "another's signature": ("signature is wrong", lambda peer: peer.token(key=OTHER)),
    "no signature": ("signature is wrong", lambda peer: peer.token().rpartition(".")[0] + "."),
    "changed claims": (
        "signature is wrong",
        lambda peer: ".".join(
            [peer.token().split(".")[0], _forged({}, peer).split(".")[1][:-2] + "AA", peer.token().split(".")[2]]
        ),
    ),
    "an unknown key": ("a key that its issuer does not have", lambda peer: peer.token(kid="nobody's")),
    "a key id that is none": ("no JSON Web Token", lambda peer: _forged({"alg": "RS256", "kid": ["first"]}, peer)),
    "another issuer": ("'iss'", lambda peer: peer.token(iss="https://evil.example")),
    "no issuer": ("'iss'", lambda peer: peer.token(iss=None)),
    "another audience": ("'aud'", lambda peer: peer.token(aud="shop")),
    "no audience": ("'aud'", lambda peer: peer.token(aud=None)),
    "an audience that is none": ("'aud'", lambda peer: peer.token(aud={"dalang": True})),
    "expired": ("expired", lambda peer: peer.token(exp=NOW - 31)),
    "no end": ("'exp'", lambda peer: peer.token(exp=None)),
    "an end that is none": ("'exp'", lambda peer: peer.token(exp="tomorrow")),
    "not yet valid": ("'nbf'", lambda peer: peer.token(nbf=NOW + 600)),
    "of the future": ("'iat'", lambda peer: peer.token(iat=NOW + 600)),
    "no subject": ("'sub'", lambda peer: peer.token(sub=None)),
    "a logout token": ("none for access", lambda peer: peer.token(typ="logout+jwt")),
    "critical headers": (
        "signature is wrong",
        lambda peer: _forged({"alg": "RS256", "kid": "first", "crit": ["x"], "x": 1}, peer),
    ),
    "too long": ("too long", lambda peer: peer.token(groups=["x" * 8_000])),
    "deep": ("no JSON Web Token", lambda peer: base64.urlsafe_b64encode(b"[" * 5_000).decode() + ".e30.e30"),
    "no JSON": ("no JSON Web Token", lambda peer: "a.b.c"),
    "nothing": ("no JSON Web Token", lambda peer: ".."),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_token_is_refused(issuer: Issuer, peer: IdentityProvider, what: str) -> None:
    """Whatever is wrong with it, and nothing of it is told but the kind."""
    why, make = BAD[what]
    with pytest.raises(TokenRefused, match=why):
        await checked(issuer, make(peer))


async def test_clocks_may_differ_a_little(issuer: Issuer, peer: IdentityProvider) -> None:
    """By half a minute, unless the file says otherwise."""
    now = int(time.time())
    await checked(issuer, peer.token(exp=now - 20, iat=now + 20, nbf=now + 20))


async def test_without_a_key_id_there_must_be_one_key_only(
    issuer: Issuer, peer: IdentityProvider, clock: Clock
) -> None:
    """Else it would be a guess."""
    await checked(issuer, peer.token(kid=None))
    peer.keys["second"] = OTHER
    clock.now += 24 * 3600
    with pytest.raises(TokenRefused):
        await checked(issuer, peer.token(kid=None))


async def test_a_rotation_is_taken_up_at_once(issuer: Issuer, peer: IdentityProvider, clock: Clock) -> None:
    """With the first token of the new key; but invented ids do not make the provider be asked again and again."""
    await checked(issuer, peer.token())
    old = peer.token()
    peer.rotate("second")
    for _ in range(3):
        with pytest.raises(TokenRefused):
            await checked(issuer, peer.token(kid="second"))
    assert peer.asked.count("/keys") == 1
    clock.now += issuers.PAUSE_SECONDS
    await checked(issuer, peer.token(kid="second"))
    with pytest.raises(TokenRefused):
        await checked(issuer, old)
    assert peer.asked.count("/keys") == 2


@pytest.mark.parametrize("how", ["status", "html", "huge", "redirect", "other-issuer"])
async def test_a_provider_that_does_not_answer_well(
    issuer: Issuer, peer: IdentityProvider, clock: Clock, how: str
) -> None:
    """No token is taken before a good answer, and it is not asked again at once; then it goes on."""
    peer.broken = how
    for _ in range(3):
        with pytest.raises(Unavailable):
            await checked(issuer, peer.token())
    assert len(peer.asked) == 1
    peer.broken = None
    clock.now += issuers.PAUSE_SECONDS
    await checked(issuer, peer.token())


async def test_known_keys_hold_while_the_provider_is_slow_or_away(
    issuer: Issuer, peer: IdentityProvider, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it; after a day without a word they hold no more."""
    await checked(issuer, peer.token())
    peer.broken = "slow"
    clock.now += issuers.FRESH_SECONDS + 1
    await checked(issuer, peer.token())
    assert issuer._refreshing is not None
    assert not issuer._refreshing.done()
    await checked(issuer, peer.token())
    monkeypatch.setattr(issuers, "SECONDS", 0.05)
    clock.now += issuers.KNOWN_SECONDS
    issuer._refreshing.cancel()
    with pytest.raises(Unavailable):
        await checked(issuer, peer.token())


def test_what_is_no_jwt_is_none_of_an_issuer() -> None:
    """API tokens are told from JWTs by their look alone."""
    assert issuer_of("dalang_" + "x" * 43) is None
    assert issuer_of("a.b.c") is None
    assert issuer_of("e30.W10.x") is None
    assert issuer_of("ä.e30.x") is None
