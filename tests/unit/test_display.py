from __future__ import annotations

import io
import itertools
import time
from collections.abc import Iterator

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from raydet.display import LiveDisplay


class Counter(LiveDisplay):
    """Every look at it is an event."""

    def __init__(self, *, terminal: bool, interval_s: float = 1000.0) -> None:
        self.stream = io.StringIO()
        super().__init__(
            interval_s=interval_s, console=Console(file=self.stream, force_terminal=terminal, width=40, height=7)
        )
        self.looks = 0

    def poll(self) -> Iterator[str]:
        self.looks += 1
        yield f"look {self.looks}"

    def line(self) -> str | None:
        return f"line after look {self.looks}"

    def render(self, height: int) -> RenderableType:
        return Text(f"picture {self.looks} in {height} lines")


def wait_for(view: Counter, looks: int) -> None:
    until = time.monotonic() + 30
    while view.looks < looks:
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydet.display.POLL_S", 0.005)


def test_without_a_terminal_events_are_printed_and_a_line_at_the_beginning_and_the_end():
    view = Counter(terminal=False)
    with view:
        wait_for(view, 4)
    lines = view.stream.getvalue().splitlines()
    last = view.looks
    assert lines[:3] == ["look 2", "line after look 2", "look 3"]  # the first look was at what was there before
    assert lines[-2:] == [f"look {last}", f"line after look {last}"]
    assert sum(line.startswith("line") for line in lines) == 2  # the interval is not over in between


def test_lines_come_when_the_interval_is_over():
    view = Counter(terminal=False, interval_s=0.0)
    with view:
        wait_for(view, 5)
    pairs = ((f"look {n}", f"line after look {n}") for n in range(2, view.looks + 1))
    assert view.stream.getvalue().splitlines() == list(itertools.chain(*pairs))


def test_on_a_terminal_the_last_picture_stays_and_no_event_is_printed():
    view = Counter(terminal=True)
    with view:
        wait_for(view, 3)
    text = view.stream.getvalue()
    assert f"picture {view.looks} in 7 lines" in text
    assert "look" not in text


def test_a_display_that_breaks_says_so_and_the_work_goes_on(capsys: pytest.CaptureFixture[str]):
    view = Counter(terminal=False)
    view.line = lambda: 1 // 0  # type: ignore[method-assign, assignment, return-value]
    with view:
        view._thread.join(30)
    assert capsys.readouterr().err.startswith("raydet: the progress display stopped: ZeroDivisionError")


def test_errors_of_the_work_pass_through():
    view = Counter(terminal=False)
    with pytest.raises(RuntimeError, match="of the work"), view:
        raise RuntimeError("of the work")
    assert not view._thread.is_alive()
