"""`raydet label` from end to end; processes are really killed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from raydet.cli import main
from raydet.families.detection.evaluate import predict
from raydet.image_jobs.worker import Worker
from raydet.metrics import read_metrics
from raydet.train.launch import launch
from raydet.train.saved import load_saved
from tests.helpers import tiny_config
from tests.integration.labelling import ABOVE, assert_same, label, put_photos, rows

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps of IL-net."""
    return launch(tiny_config(tmp_path_factory.mktemp("label") / "run")).path


@pytest.fixture(scope="module")
def photos(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_photos(run, tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def labelled(run: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos, labelled in this process: 40 images in 10 shards."""
    out = tmp_path_factory.mktemp("labelled") / "out"
    assert label(run, photos, out) == 0
    return out


# what is written


def test_every_image_is_labelled_or_skipped_with_a_reason(labelled: Path, photos: Path):
    found = {row["image"]: row for row in rows(labelled)}
    assert sorted(found) == sorted(path.name for path in photos.iterdir())
    with (labelled / "skipped.csv").open(newline="") as file:
        reasons = dict(list(csv.reader(file))[1:])
    assert sorted(reasons) == ["bad.jpg", "cut.png"]
    assert "a web page saved under an image name" in reasons["bad.jpg"]
    content = json.loads((labelled / "coco.json").read_text())
    assert len(content["images"]) == 38
    above = sum(score > float(ABOVE) for row in found.values() for score in row["scores"] or ())
    assert len(content["annotations"]) == above > 0


def test_labels_are_the_detections_that_evaluation_judges(run: Path, tmp_path: Path):
    saved = load_saved(run)
    from raydet.families.detection.data import BOXES

    index = BOXES.open(run / "data").val
    names = [Path(index.file_at(position)) for position in range(len(index))]
    assert label(run, names[0].parent, tmp_path / "out") == 0
    found = {row["image"]: row for row in rows(tmp_path / "out")}
    judged = predict(saved.method, saved.model, index, range(len(index)))
    for name, said in zip(names, judged, strict=True):
        row = found[name.name]
        # Evaluation takes four images per forward: equal to rounding.
        np.testing.assert_allclose(np.reshape(row["boxes"], (-1, 4)), said.boxes.numpy(), atol=1e-2)
        np.testing.assert_allclose(row["scores"], said.scores.numpy(), atol=1e-4)
        assert row["classes"] == said.classes.tolist()


def test_labels_can_be_trained_on(labelled: Path, photos: Path, tmp_path: Path):
    data = {"path": str(labelled / "coco.json"), "images": str(photos)}
    config = tiny_config(tmp_path / "run", data__labeled=data, method__burn_in_steps=1, optim__steps=2)
    folder = launch(config)
    steps = [line for line in read_metrics(folder.metrics) if line["kind"] == "step"]
    assert [line["step"] for line in steps] == [1, 2]
    assert steps[0]["loss/sup/roi_reg/raw"] > 0  # there were boxes


# going on


def test_what_is_finished_is_not_labelled_again(
    run: Path, photos: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    shutil.copytree(labelled, out)
    begun: list[str] = []
    begin = Worker.begin
    monkeypatch.setattr(Worker, "begin", lambda self, names: begun.extend(names) or begin(self, names))
    assert label(run, photos, out) == 0
    assert begun == []
    first, second = sorted((out / "shards").iterdir())[:2]
    second.write_bytes(first.read_bytes()[:900])  # half a shard
    (out / "shards" / ".writing-a1b2c3d4-part-00000002.parquet").write_bytes(b"left by a killed call")
    assert label(run, photos, out) == 0
    assert sorted(begun) == [f"image_{number:03d}.png" for number in (2, 3, 4, 5)]  # behind bad.jpg and cut.png
    assert_same(out, labelled)
    begun.clear()
    assert label(run, photos, out, "--retry-skipped") == 0
    assert sorted(begun) == ["bad.jpg", "cut.png", "image_000.png", "image_001.png"]


def test_another_threshold_needs_no_labelling(run: Path, photos: Path, labelled: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(labelled, out)
    boxes = [json.loads((out / "coco.json").read_text())["annotations"]]
    assert label(run, photos, out, "--score-threshold", "0.99") == 0
    boxes.append(json.loads((out / "coco.json").read_text())["annotations"])
    assert len(boxes[0]) > len(boxes[1]) == 0


def test_a_killed_driver_is_followed_by_the_same_command(run: Path, photos: Path, labelled: Path, tmp_path: Path):
    out = tmp_path / "out"
    words = ["label", str(run), str(photos), "--out", str(out), "--shard-images", "4", "--score-threshold", ABOVE]
    driver = subprocess.Popen(
        [sys.executable, "-m", "raydet", *words, "--actors", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "RAY_ADDRESS": ""},
    )
    first = out / "shards" / "part-00000000.parquet"
    try:
        deadline = time.monotonic() + 150
        while not first.exists() and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        assert driver.poll() is None, driver.stderr.read().decode()
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert not (out / "coco.json").exists()
    made = first.stat().st_mtime_ns
    assert label(run, photos, out) == 0
    assert first.stat().st_mtime_ns == made
    assert_same(out, labelled)


# mistakes


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ("nowhere", [], "nowhere: no such folder"),
        ("{photos}/*.webp", [], "no images there (looked for .jpg"),
        ("{photos}", ["--root", "{photos}"], "only for a list file"),
        ("strange://x/y", [], "strange://x/y: cannot be reached"),
        ("{photos}", ["--actors", "-1"], "--actors must be 0 or more"),
        ("{photos}", ["--score-threshold", "1"], "--score-threshold 1: expected a number in [0, 1)"),
        ("{photos}", ["--out", "{photos}/bad.jpg"], "is a file, or lies below one"),
        ("{photos}", ["--out", "s3://bucket/out"], "not a URI"),
        ("{photos}", ["--out", "{labelled}", "--precision", "bf16"], "precision: 'fp32' -> 'bf16'"),
        ("{photos}", ["--out", "{labelled}", "--model", "student"], "model.role: 'teacher' -> 'student'"),
        ("{photos}/*_00*", ["--out", "{labelled}"], "30 removed ('bad.jpg', 'cut.png', 'image_010.png', ...)"),
    ],
)
def test_mistakes_are_one_message(
    images: str,
    options: list[str],
    message: str,
    run: Path,
    photos: Path,
    labelled: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    places = {"photos": photos, "labelled": labelled}
    words = [word.format(**places) for word in options]
    assert label(run, images.format(**places), tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert said.startswith("raydet: error: ")
    assert message in said
    assert "Traceback" not in said


def test_a_damaged_checkpoint_is_named(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    copy = shutil.copytree(run, tmp_path / "run")
    file = copy / "checkpoints" / "step_00000008" / "teacher.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert label(file.parent, photos, tmp_path / "out") == 2
    assert "teacher.safetensors" in capsys.readouterr().err


def test_a_method_without_pseudo_labels_needs_a_threshold(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    method = {"name": "supervised", "burn_in_steps": 1}
    run = launch(tiny_config(tmp_path / "run", method=method, optim__steps=2)).path
    assert main(["label", str(run), str(photos), "--out", str(tmp_path / "out"), "--actors", "0"]) == 2
    assert "--score-threshold is missing: the model was trained with method.name=supervised" in capsys.readouterr().err


def test_paths_that_cannot_be_labelled_are_skipped_and_nothing_at_all_is_a_failure(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "list.txt"
    file.write_text("gone.png\n../secret.png\n/etc/x.png\n")
    assert label(run, file, tmp_path / "out", "--root", str(photos)) == 1
    assert "none of 3 images could be labelled" in capsys.readouterr().err
    file.write_text(file.read_text() + "image_000.png\n")
    assert label(run, file, tmp_path / "other", "--root", str(photos)) == 0
    with (tmp_path / "other" / "skipped.csv").open(newline="") as stream:
        reasons = dict(list(csv.reader(stream))[1:])
    assert "contains '..'" in reasons["../secret.png"]
    assert "is absolute; names are relative to the image root" in reasons["/etc/x.png"]
    assert "no such image file" in reasons["gone.png"]
