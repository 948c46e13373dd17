"""How the API is served: by uvicorn, with TLS where there is a certificate, believing only proxies that are named."""

from __future__ import annotations

import logging
import ssl
import time
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from dalang.api.app import create_app
from dalang.settings import PREFIX, Settings, SettingsError

STREAMS_SECONDS = 10
"""How long a stopping server waits for requests; streams are told to end at once."""
LOOK_SECONDS = 1.0

logger = logging.getLogger("dalang.api")


def make_server(settings: Settings, app: ASGIApp | None = None) -> uvicorn.Server:
    """Return the server of ``app``, by default the API; it listens when it is run.

    Raises:
        SettingsError: the certificate cannot be used.
    """
    certificate = Certificate(settings.tls_cert_file, settings.tls_key_file) if settings.tls_cert_file else None
    config = uvicorn.Config(
        app or create_app(settings),
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STREAMS_SECONDS,
        # A request head that never ends, or a client that never reads, must not hold a connection for ever.
        timeout_keep_alive=30,
        proxy_headers=bool(settings.behind_proxy),
        forwarded_allow_ips=list(settings.behind_proxy),
        ssl_context_factory=None if certificate is None else lambda *_: certificate.current(),
    )
    return uvicorn.Server(config)


class Certificate:
    """A certificate and its key, read again when one of the files changes: a renewal needs no restart."""

    def __init__(self, certificate: str, key: str) -> None:
        """Raises SettingsError when they cannot be used."""
        self._files = (Path(certificate), Path(key))
        self._seen = self._signature()
        self._looked = time.monotonic()
        try:
            self._context = self._read()
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"{PREFIX}TLS_CERT_FILE and {PREFIX}TLS_KEY_FILE: {_why(error)}") from None

    def current(self) -> ssl.SSLContext:
        """Return what new connections are made with."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            seen = self._signature()
            if seen != self._seen:
                try:
                    self._context = self._read()
                except (OSError, ssl.SSLError) as error:  # half of a renewal, perhaps: the other half is another change
                    logger.error("the certificate that was read before goes on to be used: %s", _why(error))
                else:
                    logger.info("the certificate was read again")
                self._seen = seen
        return self._context

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(*self._files, password=lambda: "")  # never asks at a terminal
        # Called at the beginning of every handshake, whether the client names a server or not.
        context.sni_callback = self._greet
        return context

    def _greet(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self.current()

    def _signature(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for file in self._files:
            try:
                about = file.stat()
            except OSError:
                continue
            found.append((about.st_mtime_ns, about.st_size, about.st_ino))
        return tuple(found)


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"they are no certificate with its key, in PEM and without a password ({error.reason or error})"
    return f"{error.filename or 'one of them'} cannot be read: {error.strerror}"
