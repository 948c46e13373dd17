"""API tokens over REST: made by admins for their tenant, shown once, listed, revoked."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from tests.api.world import Api, problem

TOKENS = "/orchestrator/tokens"
ADMIN = ("acme", "admin")


async def made(api: Api, **body: Any) -> dict[str, Any]:
    response = await api("POST", TOKENS, as_=ADMIN, json={"subject": "ann", "roles": ["viewer"], **body})
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


async def used(api: Api, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return (await api("GET", "/orchestrator/runs", as_=None, headers=headers)).status_code


async def test_a_token_is_made_used_and_revoked(api: Api) -> None:
    """It is shown once; a use is seen; a revoked one is refused by this server at once."""
    token = await made(api, groups=["finance"], name="laptop", expiresIn="1d")
    path = f"{TOKENS}/{token['tokenId']}"
    assert await used(api, token["token"]) == 200
    known = await api.get(path, as_=ADMIN)
    assert (known["subject"], known["roles"], known["groups"], known["name"]) == (
        "ann",
        ["viewer"],
        ["finance"],
        "laptop",
    )
    assert known["expiresAt"]
    assert known["lastUsedAt"]
    assert token["token"] not in str(known)
    revoked = (await api("DELETE", path, as_=ADMIN)).json()
    assert revoked["revokedAt"]
    assert await used(api, token["token"]) == 401
    assert (await api("DELETE", path, as_=ADMIN)).json() == revoked


async def test_tokens_are_listed_page_by_page(api: Api) -> None:
    """The newest first; those that hold no more are left out when only active ones are asked for."""
    ids = [(await made(api, name=str(number)))["tokenId"] for number in range(3)]
    await api("DELETE", f"{TOKENS}/{ids[1]}", as_=ADMIN)
    first = await api.get(f"{TOKENS}?limit=2", as_=ADMIN)
    assert [one["tokenId"] for one in first["items"]] == ids[:0:-1]
    rest = await api.get(f"{TOKENS}?limit=100&cursor={first['next']}", as_=ADMIN)
    assert rest["items"][0]["tokenId"] == ids[0]
    assert rest["next"] is None
    active = [one["tokenId"] for one in (await api.get(f"{TOKENS}?active=true", as_=ADMIN))["items"]]
    assert ids[0] in active
    assert ids[1] not in active


async def test_only_admins_and_only_of_their_tenant(app: FastAPI, api: Api) -> None:
    """Nobody gives himself more; another tenant's tokens are not there."""
    token = await made(api)
    path = f"{TOKENS}/{token['tokenId']}"
    for role in ("viewer", "approver", "operator"):
        for method, address in (("GET", TOKENS), ("POST", TOKENS), ("GET", path), ("DELETE", path)):
            problem(await api(method, address, as_=("acme", role)), 403)
    for method in ("GET", "DELETE"):
        problem(await api(method, path, as_=("globex", "admin")), 404)
    assert token["tokenId"] not in str(await api.get(TOKENS, as_=("globex", "admin")))
    assert await used(api, token["token"]) == 200


async def test_a_bad_request_makes_nothing(api: Api) -> None:
    """Roles there are not, no subject, no end, and times that cannot be."""
    before = await api.get(TOKENS, as_=ADMIN)
    for body in (
        {"roles": ["root"]},
        {"roles": []},
        {"subject": ""},
        {"subject": "a\nb"},
        {"expiresIn": 0},
        {"expiresIn": "9999d"},
        {"tenantId": "globex"},
    ):
        problem(await api("POST", TOKENS, as_=ADMIN, json={"subject": "ann", "roles": ["viewer"], **body}), 422)
    assert [one["tokenId"] for one in (await api.get(TOKENS, as_=ADMIN))["items"]] == [
        one["tokenId"] for one in before["items"]
    ]
