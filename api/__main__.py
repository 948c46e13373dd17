"""``python -m dalang.api``: serve the API until SIGTERM or SIGINT, then let requests end."""

from __future__ import annotations

import sys

from dalang import tracing
from dalang.activities.catalogue import load_node_modules
from dalang.api.oidc.trusted import Trusted
from dalang.api.serving import make_server
from dalang.encryption_keys import watched_keys
from dalang.enforcement import Enforcer
from dalang.errors import DalangError
from dalang.launch import require_keys
from dalang.logs import configure
from dalang.redaction_file import redaction_of
from dalang.settings import Settings
from dalang.signing import Keyring


def main() -> int:
    """Serve with the settings of the environment."""
    try:
        settings = Settings.load()
        settings.require_database_url()
        settings.require_safe_listening()
        configure(settings.log_level, settings.log_form, redaction=redaction_of(settings))
        tracing.start(settings, "dalang-api")
        Enforcer(settings)  # a policy with problems ends the process before it listens
        require_keys(settings, Keyring.load(settings.audit_keys_path), signs=True)  # so do audit keys
        watched_keys(settings)  # and those of encryption
        Trusted.of(settings)  # and identity providers
        load_node_modules(settings.node_modules)  # so that validation knows their node types
        server = make_server(settings)
    except DalangError as error:
        sys.stderr.write(f"dalang api: {error}\n")
        return 2
    server.run()
    tracing.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
