"""Free memory under limits of the machine and of control groups, and what is chosen by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from shockwatch import memory
from shockwatch.memory import available_bytes, require_memory, sketches


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 64 kB\n")
    (tmp_path / "cgroup").write_text("")
    monkeypatch.setattr(memory, "_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_MOUNT", tmp_path / "groups")
    return tmp_path


def limit(folder: Path, names: tuple[str, str], most: str, used: int, stat: str) -> None:
    folder.mkdir(parents=True)
    (folder / names[0]).write_text(most)
    (folder / names[1]).write_text(str(used))
    (folder / "memory.stat").write_text(stat)


def test_the_machine_alone(machine: Path) -> None:
    assert available_bytes() == 64 * 1024


def test_version_two_counts_cache_as_free(machine: Path) -> None:
    (machine / "cgroup").write_text("0::/job\n")
    names = ("memory.max", "memory.current")
    limit(machine / "groups/job", names, "40000", 30000, "anon 1\ninactive_file 5000\n")
    assert available_bytes() == 15000
    (machine / "groups/job/memory.max").write_text("max\n")
    assert available_bytes() == 64 * 1024


def test_version_one_in_a_container(machine: Path) -> None:
    (machine / "cgroup").write_text("5:devices:/\n4:memory:/elsewhere/abc\n0::/\n")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit(machine / "groups/memory", names, "9000", 1000, "total_inactive_file 7\n")
    assert available_bytes() == 8007


def test_sketches_where_points_would_take_half_of_what_is_free(machine: Path) -> None:
    small, large = nn.Linear(10, 10), nn.Linear(40, 40)
    assert (110 * 4) * 2 * memory.FULL_COPIES <= 64 * 1024 < (1640 * 4) * 2 * memory.FULL_COPIES
    assert [sketches("auto", m) for m in (small, large)] == [False, True]
    assert [sketches("full", m) for m in (small, large)] == [False, False]
    assert [sketches("sketch", m) for m in (small, large)] == [True, True]


def test_a_probe_makes_as_many_products_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for copies in (0, 117, 118, 119, 120, 189, 190, 10**6):
        monkeypatch.setattr(memory, "available_bytes", lambda copies=copies: 1000 * copies)
        found.append(memory.products_within(1000))
    assert found == [0, 0, 24, 24, 25, 59, 60, 60]


def test_a_wrong_mode_is_named() -> None:
    with pytest.raises(ValueError, match="memory='half': must be one of 'auto', 'full', 'sketch'"):
        require_memory("memory", "half")
