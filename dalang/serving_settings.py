"""Settings of the API and its pages: where it listens, by what name it is known, who comes in and for how long."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, field_validator, model_validator

Port = Annotated[int, Field(ge=1, le=65535)]


class ServingSettings(BaseModel):
    """The part of :class:`~dalang.settings.Settings` that says how the API is reached."""

    api_host: str = Field(
        default="127.0.0.1",
        description="Address the API listens on. One that others reach needs TLS, or a proxy that speaks it "
        "(`docs/identity.md`): else the API does not start.",
    )
    api_port: Port = Field(default=8400, description="Port the API listens on.")
    tls_cert_file: str = Field(
        default="",
        description="PEM file of the certificate, with its chain, that the API speaks TLS with; read again when it "
        "changes.",
    )
    tls_key_file: str = Field(default="", description="PEM file of its private key, without a password.")
    behind_proxy: tuple[str, ...] = Field(
        default=(),
        description="Addresses and networks (`10.0.0.5`, `172.16.0.0/12`) of the proxies before the API that speak "
        "TLS: their `X-Forwarded-For` and `X-Forwarded-Proto` are believed. `*`: whoever connects.",
    )
    api_url: str = Field(
        default="",
        description="Address of the API that the command line talks to. Default: from `api_host` and `api_port`.",
    )
    public_url: str = Field(
        default="",
        description="Address of the API as others reach it: of `callback`, of the A2A agent card, of the pages. "
        "Default: `api_url`.",
    )
    api_requests_per_second: float = Field(
        default=0,
        ge=0,
        description="So many requests of one token an API server answers, and ten times as many at once; 0: no limit.",
    )
    identity_providers_file: str = Field(
        default="",
        description="YAML file of the OpenID Connect providers whose tokens are taken (`docs/identity.md`); read again "
        "when it changes.",
    )
    session_seconds: float = Field(
        default=12 * 3600,
        ge=60,
        le=30 * 24 * 3600,
        description="How long somebody stays signed in to the pages at most (`docs/identity.md`).",
    )
    session_idle_seconds: float = Field(
        default=2 * 3600, ge=60, le=30 * 24 * 3600, description="And how long without using them."
    )

    @field_validator("behind_proxy", mode="before")
    @classmethod
    def _proxies(cls, value: Any) -> Any:
        return tuple(x.strip() for x in value.split(",") if x.strip()) if isinstance(value, str) else value

    @field_validator("behind_proxy")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                ipaddress.ip_network("0.0.0.0/0" if one == "*" else one)
            except ValueError:
                raise ValueError(f"{one!r} is no address, network or `*`; a network looks like 172.16.0.0/12") from None
        if "*" in value and len(value) > 1:
            raise ValueError("`*` is all there are; nothing stands beside it")
        return value

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if bool(self.tls_cert_file) != bool(self.tls_key_file):
            raise ValueError("tls_cert_file and tls_key_file go together")
        return self

    @property
    def unsafe_listening(self) -> str | None:
        """Why the API must not listen where it is told to; None when it may."""
        if self.tls_cert_file or self.behind_proxy or _is_loopback(self.api_host):
            return None
        return (
            f"the API would listen on {self.api_host}:{self.api_port} without TLS, where others can read the tokens "
            "and cookies that come to it. Either give it a certificate (DALANG_TLS_CERT_FILE and DALANG_TLS_KEY_FILE), "
            "or say which proxy speaks TLS before it (DALANG_BEHIND_PROXY=<its address or network>), or let it listen "
            "on this machine only (DALANG_API_HOST=127.0.0.1)"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
