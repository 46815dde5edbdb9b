"""What is free is what nobody would be killed for: of the machine, and of every control group around us."""

import pytest

from core.free_memory import free_bytes, limit_bytes

GB = 2**30


@pytest.fixture
def machine(tmp_path):
    """Lay out a machine with so much available, and groups with (limit, used, pages of files)."""

    def machine(available_gb, **groups):
        (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {available_gb * 1024**2} kB\n")
        (tmp_path / "membership").write_text("0::/outer/inner\n")
        for name, place in (("outer", "outer"), ("inner", "outer/inner")):
            folder = tmp_path / "cgroup" / place
            folder.mkdir(parents=True, exist_ok=True)
            if name in groups:
                limit, used, of_files = groups[name]
                (folder / "memory.max").write_text("max\n" if limit is None else f"{limit * GB}\n")
                (folder / "memory.current").write_text(f"{used * GB}\n")
                (folder / "memory.stat").write_text(f"anon 5\ninactive_file {of_files * GB}\n")
        return {
            "meminfo": tmp_path / "meminfo",
            "cgroups": tmp_path / "cgroup",
            "membership": tmp_path / "membership",
        }

    return machine


def test_without_groups_it_is_what_the_kernel_calls_available(machine):
    assert free_bytes(**machine(12)) == 12 * GB


def test_a_group_has_what_its_limit_leaves_and_its_pages_of_files(machine):
    assert free_bytes(**machine(12, inner=(8, 5, 2))) == 5 * GB
    assert free_bytes(**machine(3, inner=(8, 5, 2))) == 3 * GB


def test_the_groups_around_ours_bind_as_well(machine):
    assert free_bytes(**machine(12, outer=(6, 4, 0), inner=(None, 1, 0))) == 2 * GB
    assert free_bytes(**machine(12, outer=(6, 7, 0))) == 0


def test_groups_of_the_first_version_bind_alike(tmp_path):
    (tmp_path / "meminfo").write_text(f"MemAvailable: {12 * 1024**2} kB\n")
    (tmp_path / "membership").write_text("4:memory:/outer/inner\n2:cpu,cpuacct:/outer\n0::/\n")
    for place, limit in (("outer/inner", 8 * GB), ("outer", 2**63 - 4096)):
        folder = tmp_path / "cgroup/memory" / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (folder / "memory.usage_in_bytes").write_text(f"{5 * GB}\n")
        (folder / "memory.stat").write_text(f"cache 5\ntotal_inactive_file {GB}\n")
    places = {"cgroups": tmp_path / "cgroup", "membership": tmp_path / "membership"}
    assert free_bytes(meminfo=tmp_path / "meminfo", **places) == 4 * GB
    assert limit_bytes(**places) == 8 * GB


def test_this_machine_says_something():
    assert free_bytes() > 100 * 2**20


def test_where_nobody_says_nobody_knows(tmp_path):
    nothing = tmp_path / "none"
    assert free_bytes(meminfo=nothing, cgroups=nothing, membership=nothing) is None
