"""What stands in the way of a start is one sentence with a remedy, never a traceback."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from core.layout import Layout
from ops import address, data
from ops.errors import CannotStart

LENSMITH = str(Path(sys.executable).with_name("lensmith"))

BAD_DATABASES = {
    "nothing there": ("postgresql://u:s3cret@127.0.0.1:1/x", "cannot be used"),
    "no URL": ("s3cret", "no URL of a database"),
    "no port": ("postgresql://u:s3cret@host:many/x", "no URL of a database"),
    "no driver": ("nosuch://u:s3cret@host/x", "no URL of a database"),
    "no folder": ("sqlite:////nowhere/at/all.db", "cannot be used"),
}


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [LENSMITH, *arguments], capture_output=True, text=True, timeout=60, env=os.environ | environment, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("kind", BAD_DATABASES)
@pytest.mark.parametrize("command", ["up", "migrate"])
def test_a_database_that_cannot_be_used_is_one_sentence_without_its_password(command, kind, tmp_path):
    url, said_of_it = BAD_DATABASES[kind]
    status, said = run(command, LENSMITH_DATABASE_URL=url, LENSMITH_DATA_DIR=str(tmp_path), LENSMITH_PORT="0")
    assert (status, said.count("\n")) == (1, 1), said
    assert said_of_it in said
    assert "LENSMITH_DATABASE_URL" in said
    assert "s3cret" not in said


@pytest.mark.parametrize("command", ["up", "migrate"])
def test_a_data_directory_that_cannot_be_written_is_one_sentence(command, tmp_path):
    (tmp_path / "file").write_text("")
    status, said = run(command, LENSMITH_DATA_DIR=str(tmp_path / "file" / "data"), LENSMITH_PORT="0")
    assert (status, said.count("\n")) == (1, 1), said
    assert "cannot be written" in said
    assert "LENSMITH_DATA_DIR" in said


def test_a_lock_that_cannot_be_opened_is_one_sentence(tmp_path):
    layout = Layout(tmp_path)
    layout.make()
    layout.lock.mkdir()
    with pytest.raises(CannotStart, match="cannot be written"), data.locked(layout):
        pass


def test_a_database_of_a_newer_lensmith_is_told(tmp_path):
    import sqlite3

    environment = {"LENSMITH_DATA_DIR": str(tmp_path)}
    assert run("migrate", **environment)[0] == 0
    with sqlite3.connect(tmp_path / "lensmith.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'from the future'")
    connection.close()
    status, said = run("migrate", **environment)
    assert (status, said.count("\n")) == (1, 1), said
    assert "another version of Lensmith" in said


def test_a_port_in_use_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(CannotStart, match="is in use"):
            address.claim("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_told(host):
    with pytest.raises(CannotStart, match=f"This machine has no address {host}"):
        address.claim(host, 8000)


def test_a_port_that_needs_rights_is_told():
    refused = address._refusal("127.0.0.1", 80, PermissionError(errno.EACCES, "Permission denied"))
    assert "ports below 1024 need rights" in str(refused)


def test_an_ipv6_address_goes_in_brackets():
    assert address.url("::1", 8000) == "http://[::1]:8000"
    assert address.url("localhost", 8000) == "http://localhost:8000"


def test_port_0_is_any_free_one():
    assert address.claim("127.0.0.1", 0) > 0
