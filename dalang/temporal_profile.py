"""A profile of Temporal's own configuration (``temporal.toml``, ``TEMPORAL_*`` variables) as settings of ours.

It is what ``temporal config`` writes and Temporal's command line reads, so that a Temporal Cloud namespace is described
once for all tools. Only what says where Temporal is and how it is asked is taken; keys and certificates by file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILES = {
    "server_root_ca_cert": "temporal_tls_ca_file",
    "client_cert": "temporal_tls_cert_file",
    "client_private_key": "temporal_tls_key_file",
}


class BadProfile(ValueError):
    """The profile cannot be used; the text says why."""


def profile_settings(name: str, file: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that the profile ``name`` gives; ``file`` empty: where Temporal's tools keep it.

    Variables ``TEMPORAL_*`` of ``environment`` go before the file, as they do for those tools.

    Raises:
        BadProfile: it is not there, or holds what cannot be taken.
    """
    from temporalio.envconfig import ClientConfigProfile  # loads the SDK, which most commands do without

    known = {
        key: value
        for key, value in environment.items()
        if key.startswith("TEMPORAL_") or key in ("HOME", "XDG_CONFIG_HOME")
    }
    try:
        profile = ClientConfigProfile.load(name, config_source=Path(file) if file else None, override_env_vars=known)
    except (RuntimeError, OSError, ValueError) as error:
        raise BadProfile(f"the profile {name!r} of Temporal cannot be read: {error}") from None
    found: dict[str, Any] = {
        "temporal_address": profile.address,
        "temporal_namespace": profile.namespace,
        "temporal_api_key": profile.api_key,
    }
    if profile.tls is not None:
        found["temporal_tls"] = not profile.tls.disabled
        found["temporal_tls_server_name"] = profile.tls.server_name
        for part, setting in FILES.items():
            source = getattr(profile.tls, part)
            if source is not None and not isinstance(source, Path):
                raise BadProfile(f"the profile {name!r} of Temporal holds a key or certificate itself: name its file")
            found[setting] = None if source is None else str(source)
    if not any(value for value in found.values()):
        raise BadProfile(f"the profile {name!r} of Temporal is not there, or empty")
    return {key: value for key, value in found.items() if value not in (None, "")}
