"""Commands whose reader goes away, as in `raydet check-data X | head`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_data import coco_content, write_coco

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("lines", [1, 200])
def test_a_closed_pipe_ends_a_command_without_a_traceback(tmp_path: Path, lines: int) -> None:
    content = coco_content()
    content["annotations"] += [
        {**content["annotations"][0], "id": n, "bbox": [1, 1, 0, 1]} for n in range(9, 9 + lines)
    ]
    command = [sys.executable, "-m", "raydet", "check-data", str(write_coco(tmp_path, content))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: S603
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # before anything is printed: what `head -0` does
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_a_broken_pipe_of_something_else_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    from raydet.cli import run_guarded

    def command() -> int:
        raise BrokenPipeError("a socket")

    assert run_guarded(command) == 1
    assert "BrokenPipeError: a socket" in capsys.readouterr().err
