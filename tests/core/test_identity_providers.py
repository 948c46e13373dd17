"""What the claims of a token mean, by the rules of the operator's file; and what is no such file."""

from __future__ import annotations

from typing import Any

import pytest

from dalang.errors import InvalidDocument
from dalang.identity_providers import ClaimsRefused, Identity, Provider, read_providers

FILE = """
providers:
  - name: company
    issuer: https://id.example.com/realms/main
    audience: [dalang]
    subject: {claim: preferred_username, prefix: "company:"}
    tenant: {claim: organization, map: {acme-corp: acme}}
    roles: {claim: realm_access.roles, map: {ops: [operator, approver], "boss man": admin}, always: [viewer]}
    groups: {claim: groups, map: {/finance: finance}}
    requiredClaims: {email_verified: true}
"""
CLAIMS: dict[str, Any] = {
    "preferred_username": "ann",
    "organization": "acme-corp",
    "realm_access": {"roles": ["ops", "admin", "unknown", 7, None]},
    "groups": ["/finance", "/secret"],
    "email_verified": True,
}


def provider(text: str = FILE) -> Provider:
    return read_providers(text).providers[0]


def plain(**rules: Any) -> Provider:
    values = {"name": "p", "issuer": "https://id.example.com", "audience": ["x"], "tenant": {"claim": "org"}}
    return Provider.model_validate({**values, **rules})


def test_claims_become_an_identity() -> None:
    """Roles and groups that no rule knows are passed over; a bare `admin` is none of ours."""
    found = provider().identity(CLAIMS)
    assert found == Identity("acme", "company:ann", ("approver", "operator", "viewer"), ("finance",))


@pytest.mark.parametrize(
    "more",
    [
        {"organization": "evil"},
        {"organization": ["acme-corp", "acme-corp2"], "email_verified": False},
        {"organization": None},
        {"preferred_username": None},
        {"preferred_username": ""},
        {"preferred_username": ["ann"]},
        {"preferred_username": "a\x00nn"},
        {"preferred_username": "a" * 201},
        {"email_verified": False},
        {"email_verified": "true"},
        {"email_verified": 1},
    ],
)
def test_who_lacks_something_is_nobody(more: dict[str, Any]) -> None:
    """No tenant, no name, or not what is required, of exactly that kind."""
    with pytest.raises(ClaimsRefused):
        provider().identity({**CLAIMS, **more})


@pytest.mark.parametrize("org", ["../other", "", "a b", "a" * 300, ["a", "b"], {"a": 1}, [], 5, "a\x00"])
def test_a_tenant_is_one_name(org: Any) -> None:
    """A claim without a map may not name what could be a path, nothing, or several."""
    with pytest.raises(ClaimsRefused):
        plain().identity({"sub": "ann", "org": org})


def test_shapes_of_claims() -> None:
    """A list with one tenant, roles in one text, a claim whose name has dots, the default names of roles."""
    rules = plain(roles={"claim": "https://example.com/roles"}, groups={"claim": "team"})
    claims = {"sub": "ann", "org": ["acme"], "https://example.com/roles": "x dalang-viewer admin", "team": "red team"}
    assert rules.identity(claims) == Identity("acme", "ann", ("viewer",), ("red team",))
    assert plain(roles={"claim": "a.b.c"}).identity({"sub": "ann", "org": "acme", "a": {"b": ["x"]}}).roles == ()
    assert plain(tenant={"fixed": "one"}).identity({"sub": "ann", "org": "other"}).tenant_id == "one"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (("[dalang]", "[]"), "/providers/0"),
        (("https://id", "http://id"), "/providers/0/issuer"),
        (("realms/main", "realms?x=1"), "/providers/0/issuer"),
        (("[operator, approver]", "[root]"), "/providers/0/roles/map"),
        (("claim: organization", "fixed: acme, claim: organization"), "/providers/0/tenant"),
        (("requiredClaims", "algorithms: [HS256]\n    requiredClaims"), "/providers/0/algorithms"),
        (("requiredClaims", "algorithms: [none]\n    requiredClaims"), "/providers/0/algorithms"),
        (("requiredClaims", "client: {id: x, secret: hunter2}\n    requiredClaims"), "/providers/0/client/secret"),
        (("requiredClaims", "colour: red\n    requiredClaims"), "/providers/0/colour"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(change: tuple[str, str], place: str) -> None:
    """Before anything listens; no secret is repeated."""
    with pytest.raises(InvalidDocument) as caught:
        read_providers(FILE.replace(*change, 1))
    assert any(one.pointer.startswith(place) for one in caught.value.problems), caught.value.problems
    assert "hunter2" not in str([one.message for one in caught.value.problems])


def test_issuers_are_told_apart() -> None:
    """One issuer has one entry."""
    with pytest.raises(InvalidDocument, match="same issuer"):
        read_providers(FILE + FILE.partition("providers:\n")[2].replace("name: company", "name: other"))
