"""Where Temporal is, said by a profile of Temporal's own configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from dalang.settings import Settings, SettingsError

TOML = """
[profile.cloud]
address = "team.abc12.tmprl.cloud:7233"
namespace = "team.abc12"
api_key = "of-the-file"

[profile.mtls]
address = "temporal.example.org:7233"
namespace = "runs"
[profile.mtls.tls]
server_name = "frontend"
server_ca_cert_path = "/keys/ca.pem"
client_cert_path = "/keys/client.pem"
client_key_path = "/keys/client.key"

[profile.inline]
address = "temporal.example.org:7233"
[profile.inline.tls]
client_cert_data = "PEM"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "temporal.toml"
    made.write_text(TOML)
    monkeypatch.setenv("DALANG_TEMPORAL_CONFIG_FILE", str(made))
    (tmp_path / "stack.json").write_text('{"temporal_address": "127.0.0.1:1", "temporal_namespace": "local"}')
    monkeypatch.setenv("DALANG_HOME", str(tmp_path))
    return made


@pytest.mark.usefixtures("file")
def test_a_profile_goes_before_the_stack_and_behind_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporal's own variables go before its file, settings of ours before both; the key is in no repr."""
    monkeypatch.setenv("DALANG_TEMPORAL_PROFILE", "cloud")
    settings = Settings.load()
    assert (settings.temporal_address, settings.temporal_namespace) == ("team.abc12.tmprl.cloud:7233", "team.abc12")
    assert settings.temporal_api_key == "of-the-file"
    assert "of-the-file" not in repr(settings)
    monkeypatch.setenv("TEMPORAL_API_KEY", "of-the-environment")
    monkeypatch.setenv("DALANG_TEMPORAL_NAMESPACE", "other")
    settings = Settings.load()
    assert (settings.temporal_api_key, settings.temporal_namespace) == ("of-the-environment", "other")


@pytest.mark.usefixtures("file")
def test_certificates_are_named_by_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate within the profile is refused, as are profiles that are not there, and half a pair."""
    monkeypatch.setenv("DALANG_TEMPORAL_PROFILE", "mtls")
    settings = Settings.load()
    found = (settings.temporal_tls_ca_file, settings.temporal_tls_cert_file, settings.temporal_tls_key_file)
    assert found == ("/keys/ca.pem", "/keys/client.pem", "/keys/client.key")
    assert (settings.temporal_tls, settings.temporal_tls_server_name) == (True, "frontend")
    for name, said in (("inline", "name its file"), ("nobody", "nobody")):
        monkeypatch.setenv("DALANG_TEMPORAL_PROFILE", name)
        with pytest.raises(SettingsError, match=said):
            Settings.load()
    with pytest.raises(SettingsError, match="belong together"):
        Settings.of({"temporal_tls_cert_file": "/keys/client.pem"})
