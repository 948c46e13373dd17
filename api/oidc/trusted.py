"""All identity providers of the operator's file, and who comes with a token of theirs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dalang.api.oidc import TokenRefused
from dalang.api.oidc.issuer import Issuer
from dalang.api.oidc.verifying import issuer_of, verify
from dalang.identity_providers import ClaimsRefused, Identity, Provider, Providers, read_providers
from dalang.settings import PREFIX, Settings
from dalang.watched_file import WatchedFile

SETTING = f"{PREFIX}IDENTITY_PROVIDERS_FILE"
LATEST = datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Bearer:
    """Who a token stands for, and how long."""

    identity: Identity
    expires_at: datetime


class Trusted:
    """The providers; none without a file."""

    def __init__(self, file: WatchedFile[Providers] | None, now: Callable[[], float] = time.time) -> None:
        self._file = file
        self._now = now
        self._issuers: dict[str, Issuer] = {}

    @classmethod
    def of(cls, settings: Settings) -> Trusted:
        """Return the providers that the settings name; raises SettingsError when their file is bad."""
        if not settings.identity_providers_file:
            return cls(None)
        return cls(WatchedFile(SETTING, Path(settings.identity_providers_file), read_providers))

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(issuer.close() for issuer in self._issuers.values()))
        self._issuers.clear()

    def providers(self) -> Providers:
        """Return those that hold now."""
        return Providers() if self._file is None else self._file.current()

    def issuer(self, provider: Provider) -> Issuer:
        """Return what is remembered of a provider; nothing, once its entry in the file has changed."""
        known = self._issuers.get(provider.name)
        if known is None or known.provider != provider:
            known = self._issuers[provider.name] = Issuer(provider)
        return known

    def provider_of(self, token: str) -> Provider | None:
        """Return who says to have signed a token; None: it is of nobody that is known here."""
        if self._file is None:
            return None
        issuer = issuer_of(token)
        return None if issuer is None else self.providers().of_issuer(issuer)

    async def bearer(self, provider: Provider, token: str) -> Bearer:
        """Return who comes with a provider's token.

        Raises:
            TokenRefused: it is not good for REST.
            Unavailable: the provider does not answer.
        """
        if not provider.audience:
            raise TokenRefused("Tokens of this issuer sign in to the pages only.")
        claims = await verify(self.issuer(provider), token, provider.audience, now=self._now)
        try:
            identity = provider.identity(claims)
        except ClaimsRefused as error:
            raise TokenRefused(str(error)) from None
        until = min(claims["exp"] + provider.clock_skew_seconds, LATEST.timestamp())
        return Bearer(identity, datetime.fromtimestamp(until, UTC))
