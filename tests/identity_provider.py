"""An identity provider on loopback: discovery, keys that rotate, codes with PKCE, and every way to misbehave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import uvicorn
from joserfc import jwk, jwt
from starlette.types import Receive, Scope, Send

from dalang.stack.ports import free_port

CLIENT = ("dalang-pages", "s3cret/with=signs")
AUDIENCE = "dalang"
_KEYS = {"RS256": jwk.RSAKey.generate_key(2048), "other": jwk.RSAKey.generate_key(2048)}
OTHER = _KEYS["other"]
"""Made once: RSA keys take a while."""


class IdentityProvider:
    """What it has and how it behaves; tests change both."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.issuer = f"http://{host}:{port}/realms/main"
        self.keys: dict[str, Any] = {"first": _KEYS["RS256"]}
        """Published, by key id."""
        self.asked: list[str] = []
        self.codes: dict[str, dict[str, Any]] = {}
        self.broken: str | None = None
        """status, html, huge, redirect, slow, other-issuer: what its answers are."""
        self.released = asyncio.Event()
        """Lets slow answers go."""
        self.authentication: list[str] | None = None
        """How clients may say who they are, if its discovery document tells."""
        self.page = ""
        """What is at ``/link``: any page of this other site."""

    def claims(self, **more: Any) -> dict[str, Any]:
        """Claims of a good token; None leaves one out."""
        now = int(time.time())
        good = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "f3a1",
            "iat": now,
            "exp": now + 300,
            "preferred_username": "ann",
            "organization": "acme-corp",
            "realm_access": {"roles": ["dalang-operator", "offline_access"]},
            "groups": ["/finance", "/other"],
        }
        return {name: value for name, value in {**good, **more}.items() if value is not None}

    def token(
        self, *, alg: str = "RS256", kid: str | None = "first", key: Any = None, typ: str = "JWT", **more: Any
    ) -> str:
        """A token; the claims are good unless ``more`` says otherwise."""
        header = {"alg": alg, "typ": typ} | ({"kid": kid} if kid is not None else {})
        signing = key or self.keys.get(kid or "first") or _KEYS["other"]
        return jwt.encode(header, self.claims(**more), signing, algorithms=[alg])

    def rotate(self, kid: str, kind: str = "other") -> None:
        """Sign with a new key from now on; the old ones are gone."""
        self.keys = {kid: _KEYS[kind]}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http":
            return
        path = scope["path"].removeprefix("/realms/main")
        self.asked.append(path)
        body = b""
        if scope["method"] == "POST":
            body = (await receive())["body"]
        if path == "/authorize":  # somebody who is signed in here already
            back = self.authorize("?" + scope["query_string"].decode())
            target = f"{self.codes[back['code']]['redirect_uri']}?{urlencode(back)}".encode()
            status, headers, content = 303, [(b"location", target)], b""
        elif path == "/link":
            status, headers, content = 200, [(b"content-type", b"text/html")], self.page.encode()
        else:
            status, headers, content = await self._answer(path, dict(scope["headers"]), body)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, path: str, headers: dict[bytes, bytes], body: bytes) -> tuple[int, Any, bytes]:
        import json

        if self.broken == "slow":
            await self.released.wait()
        if self.broken == "status":
            return 500, [], b"{}"
        if self.broken == "html":
            return 200, [], b"<html>sign in first</html>"
        if self.broken == "huge":
            return 200, [], b'{"keys": "' + b"x" * 2_000_000 + b'"}'
        if self.broken == "redirect":
            return 302, [(b"location", b"http://169.254.169.254/")], b""
        found: dict[str, Any] = {"error": "unknown"}
        if path == "/.well-known/openid-configuration":
            found = self._discovery()
        elif path == "/keys":
            found = {"keys": [self._published(kid, key) for kid, key in self.keys.items()]}
            found["keys"] += [{"kty": "oct", "k": "c2VjcmV0", "kid": "first"}, {"kty": "new"}, "none", {"kty": "RSA"}]
        elif path == "/token":
            return self._exchange(headers, dict(parse_qsl(body.decode())))
        return 200, [(b"content-type", b"application/json")], json.dumps(found).encode()

    def _discovery(self) -> dict[str, Any]:
        return {
            "issuer": "https://evil.example" if self.broken == "other-issuer" else self.issuer,
            "jwks_uri": f"{self.issuer}/keys",
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
        } | ({} if self.authentication is None else {"token_endpoint_auth_methods_supported": self.authentication})

    def _published(self, kid: str, key: Any) -> dict[str, Any]:
        return {**key.as_dict(private=False), "kid": kid, "use": "sig"}

    def authorize(self, address: str, **claims: Any) -> dict[str, str]:
        """What the person does who is sent here: signs in; returns the query of the way back."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = f"code-{len(self.codes)}"
        self.codes[code] = {**asked, "claims": claims}
        return {"code": code, "state": asked["state"], "iss": self.issuer}

    def _exchange(self, headers: dict[bytes, bytes], form: dict[str, str]) -> tuple[int, Any, bytes]:
        import json
        from urllib.parse import unquote

        asked = self.codes.pop(form.get("code", ""), None)
        given = base64.b64decode(headers.get(b"authorization", b"").removeprefix(b"Basic ")).decode()
        who = tuple(unquote(one) for one in given.split(":"))
        if self.authentication == ["client_secret_post"]:
            who = (form.get("client_id", ""), form.get("client_secret", "")) if given == "" else ()
        elif self.authentication == ["none"]:
            who = (form.get("client_id", ""), CLIENT[1]) if given == "" and "client_secret" not in form else ()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (
            asked is None
            or who != CLIENT
            or challenge.decode().rstrip("=") != asked["code_challenge"]
            or form["redirect_uri"] != asked["redirect_uri"]
        ):
            return 400, [], b'{"error": "invalid_grant"}'
        claims = {"aud": asked["client_id"], "nonce": asked["nonce"], **asked["claims"]}
        tokens = {"id_token": self.token(**claims), "access_token": self.token(), "token_type": "Bearer"}
        return 200, [(b"content-type", b"application/json")], json.dumps(tokens).encode()


@contextlib.asynccontextmanager
async def identity_provider(host: str = "127.0.0.1") -> AsyncIterator[IdentityProvider]:
    """Serve one; to a browser ``localhost`` is another site than 127.0.0.1."""
    port = free_port()
    made = IdentityProvider(port, host)
    config = uvicorn.Config(made, host="127.0.0.1", port=port, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield made
    finally:
        made.released.set()
        server.should_exit = True
        await running
