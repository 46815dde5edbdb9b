"""Settings: the variables of the contract, and who may be let in."""

import pytest
import sqlalchemy as sa

from core.db import Database
from core.settings import Settings
from core.storage import Storage


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


@pytest.mark.parametrize("name", ["data", "a?b", "a#b", "a%20b", "a b", "ä"])
def test_the_embedded_defaults_lie_in_the_data_directory_whatever_its_name(tmp_path, name):
    settings = Settings(data_dir=tmp_path / name)
    settings.layout.make()
    database = Database(settings.resolved_database_url)
    with database.write() as session:
        session.execute(sa.text("CREATE TABLE x (y INTEGER)"))
    database.close()
    Storage.from_url(settings.resolved_storage_url).put_bytes("x", b"")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert settings.layout.database.is_file()
    assert (settings.layout.storage / "x").is_file()


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


def test_our_own_bucket_can_be_no_source_of_callers():
    with pytest.raises(ValueError, match="the bucket lensmith holds our own objects"):
        Settings(storage_url="s3://lensmith/objects", source_buckets="open, lensmith")
    Settings(storage_url="s3://lensmith/objects", source_buckets="open")


def test_a_heartbeat_that_is_too_slow_for_its_lease_is_refused():
    with pytest.raises(ValueError, match="heartbeats at least every 2 s"):
        Settings(lease_s=6, heartbeat_s=5)
