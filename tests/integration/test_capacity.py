"""What one machine can hold: cores, containers' quotas, free memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray
import torch

from raydet.cli import main
from raydet.cluster.capacity import Machine, check_holds, cores, own_bytes, this_machine, threads_for
from raydet.cluster.needs import Claim
from raydet.doctor.estimate import judge_capacity
from raydet.errors import ConfigError
from raydet.label_files.run import LabelOptions, label
from raydet.settings import dump_file
from raydet.train.launch import launch
from tests.helpers import tiny_config

pytestmark = pytest.mark.integration

GB = 10**9


def test_cores_are_asked_for_in_sum_and_taken_in_turns():
    claims = [Claim("worker", 2, {"CPU": 1.0}), Claim("teacher", 4, {"CPU": 0.5})]
    assert check_holds(claims, Machine(4, None), {}) == []  # 2 * 1 + 4 * 0.5 = 4
    (warning,) = check_holds(claims, Machine(3, None), {})
    assert "CPU: 2 for 2 workers + 2 for 4 teachers, together 4; this machine has 3 cores" in warning


def test_memory_is_warned_about_when_it_is_close_and_refused_when_it_is_too_little():
    claims, each = [Claim("worker", 1, {"CPU": 1.0}), Claim("teacher", 9, {})], {"worker": GB, "teacher": GB // 2}
    # 1 + 9 * 0.5 = 5.5 GB
    assert check_holds(claims, Machine(1, 7 * GB), each) == []  # 80 % of 7 are 5.6
    (warning,) = check_holds(claims, Machine(1, 6 * GB), each)
    assert "memory: 1 worker x 1.0 GB + 9 teachers x 500.0 MB = 5.5 GB at least" in warning
    with pytest.raises(ConfigError, match=r"= 5\.5 GB at least, .*; 5\.0 GB are free: the system would kill some"):
        check_holds(claims, Machine(1, 5 * GB), each)


def container(root: Path, **files: str) -> Path:
    for name, content in files.items():
        for end in ("max", "current", "stat"):
            name = name.replace(f"_{end}", f".{end}")
        for end in ("max", "current", "stat"):
            name = name.replace(f"_{end}", f".{end}")
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


def test_a_container_s_quota_counts(tmp_path: Path):
    root = container(tmp_path, sys__fs__cgroup__cpu_max="100000 100000\n", proc__meminfo="MemAvailable: 8000 kB\n")
    assert cores(root) == 1
    assert this_machine(root) == Machine(1, 8000 * 1024)
    container(root, sys__fs__cgroup__memory_max="5000000", sys__fs__cgroup__memory_current="1000000")
    assert this_machine(root).free_bytes == 4_000_000
    # Of the million, 600,000 are files that were read: they make room.
    container(root, sys__fs__cgroup__memory_stat="anon 400000\ninactive_file 600000\n")
    assert this_machine(root).free_bytes == 4_600_000
    container(root, sys__fs__cgroup__memory_max="max", sys__fs__cgroup__cpu_max="max 100000")
    assert this_machine(root) == Machine(len(os.sched_getaffinity(0)), 8000 * 1024)


def test_where_the_system_says_nothing_nothing_is_known(tmp_path: Path):
    assert this_machine(tmp_path).free_bytes is None
    assert own_bytes(tmp_path) == 0


def test_no_process_has_more_threads_than_cores(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    before = torch.get_num_threads()
    try:
        launch(tiny_config(tmp_path / "run", cluster__cpus_per_worker=64, optim__steps=4))
        assert torch.get_num_threads() == cores()
    finally:
        torch.set_num_threads(before)
    said = capsys.readouterr().out
    assert f"warning: CPU: 64 for 1 process, together 64; this machine has {cores()} core" in said
    assert (threads_for(0.5), threads_for(1), threads_for(10_000)) == (1, 1, cores())


def crowd() -> int:
    """Return how many processes like this one are more than this machine can hold."""
    free = this_machine().free_bytes
    assert free
    return 10 + free // own_bytes()


def test_a_pool_that_memory_cannot_hold_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # the session's Ray would be joined
    settings = {"cluster__backend": "ray", "labels__source": "pool", "labels__lookahead": 2}
    config = tiny_config(tmp_path / "run", **settings, pool__actors=crowd())
    with pytest.raises(ConfigError, match=r"memory: 1 worker x .* teachers x .*the system would kill some of them"):
        launch(config)
    assert not (tmp_path / "run" / "config.json").exists()
    finding = judge_capacity(config, this_machine())
    assert (finding.level, finding.topic) == ("fail", "capacity")
    assert judge_capacity(tiny_config(tmp_path / "run"), this_machine()).level == "ok"


def test_labellers_that_memory_cannot_hold_are_refused(tmp_path: Path):
    run = launch(tiny_config(tmp_path / "run", optim__steps=4)).path
    folder = tmp_path / "pictures"
    folder.mkdir()
    first = next((run / "data" / "generated").rglob("*.png"))
    for number in range(16 * crowd()):  # an actor for each sixteen
        (folder / f"{number}.png").symlink_to(first)
    with pytest.raises(ConfigError, match=r"memory: \d+ actors x .*the system would kill some of them"):
        label(LabelOptions(checkpoint=run, images=str(folder), out=tmp_path / "labels", actors=10_000))


def test_a_search_that_memory_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from raydet.sweep import run as searching

    monkeypatch.setattr(searching, "this_machine", lambda: Machine(1, 1000))
    config = tiny_config(tmp_path / "run")
    with pytest.raises(ConfigError, match="memory: 3 trials x"):
        searching._crowded(config, config, at_once=3)


def test_doctor_says_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "config.yaml").write_text(dump_file(tiny_config(tmp_path / "run", cluster__cpus_per_worker=64)))
    assert main(["doctor", str(tmp_path / "config.yaml")]) == 0
    assert "CPU: 64 for 1 process, together 64" in capsys.readouterr().out
