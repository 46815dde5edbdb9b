"""`make demo` that is ended before its end."""

import os
import signal
import subprocess
import sys

import pytest

from core.process import free_port
from tests.conftest import wait_for
from tests.processes import below, is_alive

pytestmark = pytest.mark.e2e


def test_a_demo_that_is_told_to_end_takes_its_service_along(tmp_path):
    output = tmp_path / "demo.out"
    environment = {"LENSMITH_DATA_DIR": str(tmp_path / "data"), "LENSMITH_PORT": str(free_port())}
    with output.open("wb") as out:
        demo = subprocess.Popen(
            [sys.executable, "-m", "examples.digits.demo"], stdout=out, stderr=out, env=os.environ | environment
        )
    try:
        wait_for(lambda: "is up" in output.read_text(), within_s=180, what="the service's start")
        processes = below(demo.pid)
        assert len(processes) > 1
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(60) == 128 + signal.SIGTERM
    finally:
        demo.kill()
        demo.wait()
    assert [pid for pid in processes if is_alive(pid)] == []
    assert "stopped" in output.read_text()
