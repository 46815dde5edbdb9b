"""What this machine offers: GPUs as CUDA would count them, without asking CUDA."""

import pytest

from worker.capacity import num_gpus


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that counts the GPUs of a machine with these entries of the driver and of /dev."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def count(*, driver=(), devices=()):
        for name in driver:
            (tmp_path / "driver" / name).mkdir(parents=True)
        (tmp_path / "dev").mkdir()
        for name in devices:
            (tmp_path / "dev" / name).touch()
        return num_gpus(driver=tmp_path / "driver", devices=tmp_path / "dev")

    return count


def test_a_machine_without_any_offers_none(machine):
    assert machine() == 0


def test_the_driver_counts(machine):
    assert machine(driver=["0000:01:00.0", "0000:02:00.0"], devices=["nvidia0"]) == 2


def test_a_container_that_shows_only_devices_is_counted_by_them(machine):
    assert machine(devices=["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia0foo", "null"]) == 2


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("", 0), ("-1", 0), ("0", 1), ("0,1", 2), (" 1 , 3", 2), ("GPU-abc,GPU-def", 2), ("0,-1,1", 1), ("0,,1", 1)],
)
def test_what_was_made_visible_counts_whatever_there_is(machine, monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine(driver=["0000:01:00.0"]) == expected
