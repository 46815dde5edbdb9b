"""Settings: the variables of the contract, and who may be let in."""

import pytest

from core.settings import Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.5"])
def test_loopback_needs_no_key(host):
    assert Settings(host=host).exposure is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "lensmith.example"])
def test_any_other_address_needs_one(host, monkeypatch):
    assert "LENSMITH_API_KEY" in Settings(host=host).exposure
    monkeypatch.setenv("LENSMITH_API_KEY", "")
    assert Settings(host=host).exposure is not None, "an empty key is no key"
    monkeypatch.setenv("LENSMITH_API_KEY", "s3cret")
    assert Settings(host=host).exposure is None
    assert "s3cret" not in repr(Settings(host=host))


def test_the_embedded_defaults_lie_in_the_data_directory(tmp_path):
    settings = Settings(data_dir=tmp_path)
    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/lensmith.db"
    assert settings.resolved_storage_url == (tmp_path / "storage").as_uri()


def test_the_variables_of_the_contract_are_read(monkeypatch):
    for name, value in {
        "DATABASE_URL": "postgresql://a",
        "STORAGE_URL": "s3://b/c",
        "LOG_FORMAT": "json",
        "PORT": "9",
    }.items():
        monkeypatch.setenv(f"LENSMITH_{name}", value)
    settings = Settings()
    assert (settings.resolved_database_url, settings.resolved_storage_url) == ("postgresql://a", "s3://b/c")
    assert (settings.log_format, settings.port) == ("json", 9)


def test_a_heartbeat_that_is_too_slow_for_its_lease_is_refused():
    with pytest.raises(ValueError, match="heartbeats at least every 2 s"):
        Settings(lease_s=6, heartbeat_s=5)
