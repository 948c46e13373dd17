"""Which certificates this process trusts: those of httpx (certifi's, or what SSL_CERT_FILE and SSL_CERT_DIR name).

Every client of httpx reads them anew when it is made, 80 ms of CPU each, though most clients never speak TLS. All that
do share one context, which reads them at the first handshake.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterable
from typing import Any

import httpx


@functools.cache
def trusted() -> ssl.SSLContext:
    """Return the context of this process, for ``verify`` of a client of httpx."""
    return _WhenNeeded(ssl.PROTOCOL_TLS_CLIENT)


class _WhenNeeded(ssl.SSLContext):
    """Stands for httpx's own context until somebody shakes hands."""

    _protocols: tuple[str, ...] = ()

    @functools.cached_property
    def _real(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        self._protocols = tuple(alpn_protocols)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self._ready().wrap_bio(*args, **kwargs)

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        return self._ready().wrap_socket(*args, **kwargs)

    def _ready(self) -> ssl.SSLContext:
        self._real.set_alpn_protocols(self._protocols)
        return self._real
