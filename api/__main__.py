"""``python -m dalang.api``: serve the API until SIGTERM or SIGINT, then let requests end."""

from __future__ import annotations

import sys

import uvicorn

from dalang.activities.catalogue import load_node_modules
from dalang.api.app import create_app
from dalang.api.oidc.trusted import Trusted
from dalang.encryption_keys import watched_keys
from dalang.enforcement import Enforcer
from dalang.errors import DalangError
from dalang.launch import require_keys
from dalang.logs import configure
from dalang.settings import Settings
from dalang.signing import Keyring

STREAMS_SECONDS = 10
"""How long a stopping server waits for requests; streams are told to end at once."""


def main() -> int:
    """Serve with the settings of the environment."""
    try:
        settings = Settings.load()
        settings.require_database_url()
        configure(settings.log_level, settings.log_form)
        Enforcer(settings)  # a policy with problems ends the process before it listens
        require_keys(settings, Keyring.load(settings.audit_keys_path), signs=True)  # so do audit keys
        watched_keys(settings)  # and those of encryption
        Trusted.of(settings)  # and identity providers
        load_node_modules(settings.node_modules)  # so that validation knows their node types
    except DalangError as error:
        sys.stderr.write(f"dalang api: {error}\n")
        return 2
    uvicorn.run(
        create_app(settings),
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STREAMS_SECONDS,
        # A request head that never ends, or a client that never reads, must not hold a connection for ever.
        timeout_keep_alive=30,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
