"""`raydet proposals` with actors; one is really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from raydet.cli import main
from raydet.image_jobs.image_stores import LocalStore, Picture
from raydet.image_jobs.listing import Images
from tests.unit.proposals.pictures import picture

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@dataclass(frozen=True, slots=True)
class DeadlyStore(LocalStore):
    """One image kills the process that opens it, once."""

    deadly: str = ""
    killed: Path = Path()

    def picture(self, name: str) -> Picture:
        if name == self.deadly and not self.killed.exists():
            self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return LocalStore.picture(self, name)


@pytest.mark.usefixtures("local_ray")
def test_actors_propose_the_same_boxes_though_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("cv2")
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(10):
        picture(photos / f"{number}.png", thing=(3 * number, 20, 3 * number + 50, 60))
    (photos / "bad.jpg").write_text("<html>")
    words = ["proposals", str(photos), "--shard-images", "4"]
    assert main([*words, "--out", str(tmp_path / "here"), "--actors", "0"]) == 0
    store = DeadlyStore(photos.resolve(), deadly="7.png", killed=tmp_path / "killed")
    monkeypatch.setattr("raydet.proposals.run.open_images", lambda given, _: Images(given, store))
    assert main([*words, "--out", str(tmp_path / "there"), "--actors", "2", "--cpus-per-actor", "0.5"]) == 0
    assert store.killed.exists()
    assert "was lost" in capsys.readouterr().out
    for file in ("proposals.arrow", "skipped.csv", "proposals.json"):
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes()


def test_opencv_is_imported_only_when_it_is_asked_for(tmp_path: Path):
    photos = tmp_path / "photos"
    photos.mkdir()
    picture(photos / "one.png", thing=(3, 20, 53, 60))
    words = ["proposals", str(photos), "--out", str(tmp_path / "out"), "--actors", "0", "--source", "grid"]
    script = f"import sys; from raydet.cli import main; assert main({words!r}) == 0; print('cv2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
