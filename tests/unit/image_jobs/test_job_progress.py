"""What is shown of a labelling while it goes on."""

from __future__ import annotations

import io
import sys
import time

import pyarrow as pa
import pytest
from rich.console import Console

from raydet.image_jobs.progress import Progress
from raydet.label_files.labeller import SCHEMA

TABLE = pa.Table.from_pylist([{"image": "a.jpg"}, {"image": "b.jpg", "error": "truncated"}, {"image": "c.jpg"}], SCHEMA)


def test_progress_counts_from_the_first_start_and_rates_each_actor_by_itself():
    now = [0.0]
    progress = Progress(100, 40, now=lambda: now[0])
    assert progress.line() is None
    progress.starting = 2
    assert progress.line() == "waiting for 2 actors to start"
    now[0] = 10.0
    progress.started("actor-0", "pid 1 on here")
    now[0] = 12.0
    progress.started("actor-1", "pid 2 on here")
    progress.answered("actor-0", TABLE)
    progress.answered("actor-0", TABLE)
    now[0] = 14.0
    progress.answered("actor-1", TABLE)
    # 9 images in 4 s; (100 - 49) / 2.25 = 22.7 s to go
    assert progress.line() == "49/100 images (49.0 %)  2.25 images/s  ETA 0:00:23  skipped 3"
    # 6 images from second 10 to 12, 3 images from 12 to 14
    assert progress.summary() == [
        "actor-0 (pid 1 on here): 6 images, 3 images/s",
        "actor-1 (pid 2 on here): 3 images, 1.5 images/s",
    ]


def shown(progress: Progress) -> str:
    """Count for a moment, and return what was written meanwhile."""
    with progress:
        progress.started("actor-0", "pid 1 on here")
        progress.answered("actor-0", TABLE)
        progress.say("actor-1 was lost (it is [red]tired)")
    return progress._console.file.getvalue()


def test_without_a_terminal_messages_and_the_last_counts_are_lines():
    now = iter(range(100))
    text = shown(Progress(3, 0, now=lambda: next(now), console=Console(file=io.StringIO(), force_terminal=False)))
    # clock: 0 at the start, 1 at the answer, 2 when the line is made; 3 images in 2 s
    assert text.splitlines() == [
        "actor-1 was lost (it is [red]tired)",
        "3/3 images (100.0 %)  1.5 images/s  ETA 0:00:00  skipped 1",
    ]


def test_on_a_terminal_there_is_a_bar_with_counts_and_messages():
    text = shown(Progress(3, 0, console=Console(file=io.StringIO(), force_terminal=True, width=90)))
    assert "3/3 images (100.0 %)" in text
    assert "━━━" in text
    assert "actor-1 was lost (it is [red]tired)" in text


def test_counting_goes_on_while_it_is_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("raydet.display.POLL_S", 0.0)
    monkeypatch.setattr("raydet.image_jobs.progress.INTERVAL_S", 0.0)
    progress = Progress(10_000, 0, console=Console(file=io.StringIO(), force_terminal=False))
    between = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # the threads take turns in the middle of everything
    with progress:
        until = time.monotonic() + 0.5
        number = 0
        while time.monotonic() < until:
            progress.started(f"actor-{number}", "here")
            progress.answered(f"actor-{number}", TABLE)
            number += 1
    sys.setswitchinterval(between)
    assert capsys.readouterr().err == ""  # the display would say there that it stopped
    assert progress.images == 3 * number
