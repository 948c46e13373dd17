"""The operator's identity providers (OpenID Connect): whose tokens are believed, and what their claims mean here.

``DALANG_IDENTITY_PROVIDERS_FILE`` is such a file (``docs/identity.md``):

.. code-block:: yaml

    providers:
      - name: company
        issuer: https://id.example.com/realms/main
        audience: [dalang]
        subject: {claim: preferred_username}
        tenant: {claim: organization, map: {acme-corp: acme}}
        roles: {claim: realm_access.roles, map: {dalang-operators: operator}}
        groups: {claim: groups}
        client: {id: dalang-pages, secret: "env:OIDC_CLIENT_SECRET"}

What a claim says is believed only as far as the rules of its provider go: roles that no rule knows are passed over, and
who has no tenant is nobody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from dalang.canonical import pointer
from dalang.errors import InvalidDocument, Problem
from dalang.formats import load_document

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA")
"""Of signatures: with all of them who checks cannot sign."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_GROUPS = 1_000
MAX_LENGTH = 200
ENV, FILE = "env:", "file:"
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")

Role = Literal["viewer", "operator", "approver", "admin", "agent"]
ROLES: dict[str, tuple[Role, ...]] = {
    f"dalang-{role}": (role,) for role in ("viewer", "operator", "approver", "admin", "agent")
}
"""What roles are called there, unless a rule says otherwise. A bare ``admin`` may mean anything."""
Text = Annotated[str, Field(min_length=1, max_length=MAX_LENGTH)]


class ClaimsRefused(Exception):
    """The claims are no identity here; the text says why."""


@dataclass(frozen=True)
class Identity:
    """Who somebody is, by a provider's claims."""

    tenant_id: str
    subject: str
    roles: tuple[str, ...]
    groups: tuple[str, ...]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True, frozen=True)


class SubjectRule(_Part):
    """Who it is: a claim, with ``prefix`` before it where providers may know different people by one name."""

    claim: Text = "sub"
    prefix: str = Field("", max_length=50)


class TenantRule(_Part):
    """Whose it is: always the ``fixed`` one, or what the claim says; with ``map`` only what stands there."""

    fixed: Text | None = None
    claim: Text | None = None
    map: dict[str, Text] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.fixed is None) == (self.claim is None):
            raise ValueError("a tenant is either `fixed`, or that of a `claim`")
        return self


class RolesRule(_Part):
    """What somebody may do: roles by the values of a claim, and those that ``always`` are his."""

    claim: Text = "roles"
    map: dict[str, tuple[Role, ...]] = ROLES
    always: tuple[Role, ...] = ()

    @field_validator("map", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: [one] if isinstance(one, str) else one for name, one in value.items()}


class GroupsRule(_Part):
    """Whose human tasks he may decide: the values of a claim; with ``map`` only those that stand there."""

    claim: Text = "groups"
    map: dict[str, Text] | None = None


class Client(_Part):
    """What Dalang is to the provider, for the pages. Without a ``secret`` it is a public client."""

    id: Text
    secret: str | None = Field(None, pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:/.+)$")
    scopes: tuple[Text, ...] = ("openid", "profile")
    claims: Literal["idToken", "accessToken"] = "idToken"
    """Which token's claims count; the access token's must be one that REST would take."""

    @field_validator("scopes")
    @classmethod
    def _openid(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        return scopes if "openid" in scopes else ("openid", *scopes)


class Provider(_Part):
    """Somebody whose signed word is taken for who somebody is."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,49}$")]
    title: str | None = Field(None, min_length=1, max_length=100)
    issuer: Text
    audience: tuple[Text, ...] = ()
    """Of tokens that REST takes; none: it takes none, the pages sign in only."""
    algorithms: tuple[str, ...] = ("RS256", "PS256", "ES256", "Ed25519")
    clock_skew_seconds: int = Field(30, ge=0, le=300)
    required_claims: dict[str, str | bool | int] = Field(default_factory=dict)
    subject: SubjectRule = SubjectRule()
    tenant: TenantRule
    roles: RolesRule = RolesRule()
    groups: GroupsRule = GroupsRule()
    client: Client | None = None
    ca_file: str | None = None

    @field_validator("issuer")
    @classmethod
    def _address(cls, issuer: str) -> str:
        if not is_safe_address(issuer):
            raise ValueError("an issuer is an https:// address without query; http:// on loopback only")
        return issuer

    @field_validator("algorithms")
    @classmethod
    def _asymmetric(cls, algorithms: tuple[str, ...]) -> tuple[str, ...]:
        if not algorithms or not set(algorithms) <= set(ALGORITHMS):
            raise ValueError(f"algorithms are some of {', '.join(ALGORITHMS)}")
        return algorithms

    @model_validator(mode="after")
    def _is_good_for_something(self) -> Self:
        if not self.audience and self.client is None:
            raise ValueError("a provider has an `audience` (for REST), a `client` (for the pages), or both")
        if self.client is not None and self.client.claims == "accessToken" and not self.audience:
            raise ValueError("`claims: accessToken` needs the `audience` of access tokens")
        return self

    def identity(self, claims: Mapping[str, Any]) -> Identity:
        """Return who the claims of a token that was checked stand for.

        Raises:
            ClaimsRefused: they lack something that is required; there is no tenant.
        """
        for name, wanted in self.required_claims.items():
            said = found(claims, name)
            if not (said == wanted and type(said) is type(wanted)) and not (isinstance(said, list) and wanted in said):
                raise ClaimsRefused(f"The token's claim {name!r} is not what this server requires.")
        subject = found(claims, self.subject.claim)
        if not isinstance(subject, str) or not _is_name(subject):
            raise ClaimsRefused(f"The token has no name in the claim {self.subject.claim!r}.")
        said_roles = _texts(found(claims, self.roles.claim), split=True)
        roles = {*self.roles.always, *(role for one in said_roles for role in self.roles.map.get(one, ()))}
        groups = _texts(found(claims, self.groups.claim))
        if self.groups.map is not None:
            groups = [self.groups.map[one] for one in groups if one in self.groups.map]
        named = tuple(sorted({one for one in groups if _is_name(one)}))
        return Identity(self._tenant(claims), self.subject.prefix + subject, tuple(sorted(roles)), named)

    def _tenant(self, claims: Mapping[str, Any]) -> str:
        rule = self.tenant
        if rule.fixed is not None:
            return rule.fixed
        assert rule.claim is not None
        said = _texts(found(claims, rule.claim))
        tenants = {rule.map[one] for one in said if one in rule.map} if rule.map is not None else set(said)
        if len(tenants) != 1:
            raise ClaimsRefused(f"The token's claim {rule.claim!r} names no tenant, or several.")
        [tenant] = tenants
        if len(tenant) > MAX_LENGTH or _TENANT.fullmatch(tenant) is None:
            raise ClaimsRefused(f"The token's claim {rule.claim!r} is no name of a tenant.")
        return tenant


class Providers(_Part):
    """All of them."""

    providers: tuple[Provider, ...] = ()

    @model_validator(mode="after")
    def _apart(self) -> Self:
        for what in ("name", "issuer"):
            values = [getattr(one, what) for one in self.providers]
            if len(set(values)) != len(values):
                raise ValueError(f"two providers have the same {what}")
        return self

    def of_issuer(self, issuer: str) -> Provider | None:
        """Return the provider whose tokens say ``iss`` so."""
        return next((one for one in self.providers if one.issuer == issuer), None)

    def named(self, name: str) -> Provider | None:
        """Return the provider of this name that signs in to the pages."""
        return next((one for one in self.providers if one.name == name and one.client is not None), None)


def read_providers(data: bytes | str) -> Providers:
    """Return the providers of a YAML or JSON document.

    Raises:
        InvalidDocument: with all its problems.
    """
    document = load_document(data)
    try:
        return Providers.model_validate(document)
    except ValidationError as error:
        raise InvalidDocument([_problem(one) for one in error.errors()], "identity providers file") from None


def is_safe_address(address: str) -> bool:
    """Tell whether nobody on the way can answer in its place: https, or this very machine."""
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        return False
    safe = parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)
    return bool(safe and host and not parts.fragment and not parts.query and not parts.username)


def found(claims: Mapping[str, Any], path: str) -> Any:
    """Return what the claims say at ``path``: a claim of just this name, else step by step (``realm_access.roles``)."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _texts(value: Any, *, split: bool = False) -> list[str]:
    if isinstance(value, str):
        return value.split() if split else [value]
    if isinstance(value, Sequence):
        return [one for one in value[:MAX_GROUPS] if isinstance(one, str)]
    return []


def _is_name(text: str) -> bool:
    return 0 < len(text) <= MAX_LENGTH and text.isprintable()


def _problem(error: Mapping[str, Any]) -> Problem:
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["loc"] and error["loc"][-1] == "secret":
        message = "a secret does not stand in the file: write env:VARIABLE or file:/path"
    code = "UNKNOWN_FIELD" if error["type"] == "extra_forbidden" else "BAD_VALUE"
    return Problem(pointer=pointer(*error["loc"]), code=code, message=message)
