"""Signals to whole runs: a checkpoint where there is time for one, a clear end, and nothing left running."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from raydet.metrics import Record, read_metrics
from raydet.settings import dump
from raydet.train.launch import launch
from tests.helpers import tiny_config
from tests.integration.processes import steps_done
from tests.integration.test_training import ASYNC, assert_same_bits, label_keys

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

NO_CHECKPOINTS = {"checkpoint__every": 10_000}  # but that of the burn-in's end, at step 3


@contextmanager
def started(run: Path, *words: str, **config: object) -> Iterator[subprocess.Popen[str]]:
    """`raydet train` as a process of its own."""
    file = run.with_suffix(".yaml")
    file.write_text(dump(tiny_config(run, **config)))
    process = subprocess.Popen(
        [sys.executable, "-m", "raydet", "train", str(file), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background run ignores it
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 150
    while not holds() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert holds(), "the process ended, or took too long"


def ends(run: Path) -> list[Record]:
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "end"]


def test_a_run_stopped_by_sigterm_and_resumed_equals_the_straight_one(tmp_path: Path):
    run = tmp_path / "run"
    with started(run, **{**ASYNC, **NO_CHECKPOINTS, "optim__steps": 3000}) as process:
        wait_until(lambda: steps_done(run) >= 5, process)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    (end,) = ends(run)
    assert end["reason"] == "stopped"
    assert f"stopped as asked, with a checkpoint at step {end['step']} of 3000; go on with --resume" in said
    assert "Traceback" not in said

    steps = end["step"] + 4
    launch(tiny_config(run, **{**ASYNC, **NO_CHECKPOINTS, "optim__steps": steps}), resume=True)
    starts = [line["resumed_from"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "start"]
    assert starts == [None, end["step"]]
    straight = launch(tiny_config(tmp_path / "straight", **{**ASYNC, **NO_CHECKPOINTS, "optim__steps": steps})).path
    assert_same_bits(run, straight)
    assert label_keys(run) == label_keys(straight)


def descendants(pid: int) -> set[int]:
    """All processes below this one."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found, front = set(), {pid}
    while front:
        front = {child for child, parent in parents.items() if parent in front}
        found |= front
    return found


def is_running(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("phase", ["while Ray starts", "in training"])
def test_ctrl_c_leaves_no_process_of_a_run_on_ray(phase: str, tmp_path: Path):
    run = tmp_path / "run"
    with started(run, **{**ASYNC, "optim__steps": 3000, "cluster__backend": "ray"}) as process:
        if phase == "in training":
            wait_until(lambda: steps_done(run) >= 2, process)
        else:
            wait_until(lambda: len(descendants(process.pid)) >= 2, process)
        children = descendants(process.pid)
        assert len(children) >= 2
        process.send_signal(signal.SIGINT)
        try:
            said = process.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:  # Python drops a Ctrl-C that arrives in a hook of fork(): press it again
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1]
        deadline = time.monotonic() + 30
        while any(map(is_running, children)) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = sorted(filter(is_running, children))
    assert process.returncode == 130, said
    assert "raydet: interrupted; go on with --resume" in said
    assert left == []
