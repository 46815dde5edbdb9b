"""The demo's own code: its data, the files that it writes, and whose service it asks."""

import json
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from core.process import free_port
from examples.digits import sample

NUM_DIGITS = 1797


@pytest.fixture(scope="module")
def digits():
    return sample.digits()


@pytest.fixture(scope="module")
def archive(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "digits.zip"
    sample.write_zip(digits[: sample.NUM_UPLOADED], path)
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_there_are_as_many_digits_as_the_original_has(digits):
    assert len(digits) == NUM_DIGITS
    assert {digit.word for digit in digits} == set(sample.WORDS)
    assert all(digit.png.startswith(b"\x89PNG") for digit in digits)


def test_the_zip_holds_a_line_and_a_picture_for_each_digit_in_order(digits, archive):
    lines = [json.loads(line) for line in archive.read("data.jsonl").splitlines()]
    assert len(lines) == sample.NUM_UPLOADED == 1500
    assert [line["answer"] for line in lines] == [digit.word for digit in digits[:1500]]
    assert all(archive.read(line["image"]) == digit.png for line, digit in zip(lines, digits, strict=False))


def test_no_held_out_digit_is_in_the_zip(digits, archive):
    uploaded = {archive.read(name) for name in archive.namelist() if name.endswith(".png")}
    held_out = digits[sample.NUM_UPLOADED :]
    assert len(held_out) == NUM_DIGITS - 1500
    assert [digit.word for digit in held_out if digit.png in uploaded] == []


def test_the_write_command_writes_the_zip_and_a_held_out_seven(digits, tmp_path):
    command = [sys.executable, "-m", "examples.digits.write", "digits.zip", "seven.png"]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "digits.zip") as opened:
        assert len(opened.namelist()) == 1501
    seven = (tmp_path / "seven.png").read_bytes()
    assert [digit.word for digit in digits[1500:] if digit.png == seven] == ["seven"]


def test_the_demo_asks_nobody_when_its_own_service_cannot_start(tmp_path):
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", free_port()))
        foreign.listen()
        foreign.settimeout(0.1)
        environment = os.environ | {
            "LENSMITH_PORT": str(foreign.getsockname()[1]),
            "LENSMITH_DATA_DIR": str(tmp_path / "data"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "examples.digits.demo"],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            check=False,
        )
        assert done.returncode == 1
        assert "is in use" in done.stdout
        with pytest.raises(TimeoutError):
            foreign.accept()
