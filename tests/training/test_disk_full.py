"""Disks that are full, read-only or out of quota: one message, nothing half-written, and a way to go on."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch

from raydet import files
from raydet.cli import main
from raydet.errors import RunError, StorageError
from raydet.faults import errno_of, writing
from raydet.files import replacing, write_text
from raydet.label_files.run import LabelOptions, label
from raydet.metrics import MetricsWriter, read_metrics
from raydet.settings import dump_file
from raydet.train import checkpoint
from raydet.train.checkpoint import latest_checkpoint, steps_of
from raydet.train.launch import launch
from tests.disks import disk, enlarge, fill, make_read_only
from tests.helpers import tiny_config

DEEP = {"log__every": 1, "checkpoint__every": 1, "checkpoint__keep": 20, "optim__steps": 30}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a disk with room."""
    return launch(tiny_config(tmp_path_factory.mktemp("disk") / "run")).path


def test_training_on_a_disk_that_fills_up_goes_on_when_there_is_room(tmp_path: Path):
    with disk(tmp_path / "small", 2500) as small:
        with pytest.raises(
            StorageError, match=r"checkpoints/step_\d+: the disk is full \(.* were to be written, .* are free in "
        ) as caught:
            launch(tiny_config(small / "run", **DEEP))
        steps = steps_of(small / "run" / "checkpoints")
        assert f"The checkpoint of step {steps[-1]} is whole: after that go on with --resume" in str(caught.value)
        assert latest_checkpoint(small / "run" / "checkpoints").passed_over == ()
        assert not list((small / "run" / "checkpoints").glob(".writing-*"))
        end = read_metrics(small / "run" / "metrics.jsonl")[-1]
        assert (end["kind"], end["reason"]) == ("end", "failed")
        enlarge(small, 30_000)
        launch(tiny_config(small / "run", **{**DEEP, "optim__steps": 12}), resume=True)
        assert latest_checkpoint(small / "run" / "checkpoints").step == 12


def test_the_command_says_it_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with disk(tmp_path / "small", 700) as small:
        (tmp_path / "config.yaml").write_text(dump_file(tiny_config(small / "run")))
        assert main(["train", str(tmp_path / "config.yaml")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("raydet: failed: ")
    assert said.count("\n") == 1
    assert "the disk is full" in said


def test_a_line_of_the_log_is_there_as_a_whole_or_not_at_all(tmp_path: Path):
    with disk(tmp_path / "small", 64) as small:
        writer = MetricsWriter(small, tensorboard=False)
        fill(small, but=8192)  # two pages are left
        with pytest.raises(StorageError, match=r"metrics\.jsonl: the disk is full \(1\.0 kB were to be written"):
            for step in range(1000):
                writer.write({"kind": "step", "step": step, "text": "x" * 950})
        text = (small / "metrics.jsonl").read_text()
        assert text.endswith("}\n")
        assert [record["step"] for record in read_metrics(small / "metrics.jsonl")] == list(range(text.count("\n")))
        writer.write({"kind": "end", "step": 0})  # there is room for a short line
        writer.close()
        assert read_metrics(small / "metrics.jsonl")[-1]["kind"] == "end"


def test_labels_on_a_disk_that_fills_up_go_on_when_there_is_room(run: Path, tmp_path: Path):
    pictures = str(run / "data" / "generated" / "*" / "*" / "images" / "*.png")
    with disk(tmp_path / "small", 80) as small:
        options = LabelOptions(checkpoint=run, images=pictures, out=small / "labels", actors=0, shard_images=4)
        with pytest.raises(StorageError, match=r"part-\d+\.parquet: the disk is full .*the same command goes on"):
            label(options)
        shards = list((small / "labels" / "shards").iterdir())
        assert shards
        assert all(shard.suffix == ".parquet" and not shard.name.startswith(".") for shard in shards)
        enlarge(small, 4000)
        assert label(options).images == 30
        assert json.loads((small / "labels" / "coco.json").read_text())["images"]


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx"])
def test_an_export_that_does_not_fit_leaves_nothing(run: Path, tmp_path: Path, name: str):
    with disk(tmp_path / "small", 64) as small:
        assert main(["export", str(run), "--out", str(small / name)]) == 1
        assert list(small.iterdir()) == []


def test_no_command_writes_to_a_read_only_disk_and_all_say_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("matplotlib")
    with disk(tmp_path / "small", 8000) as small:
        shutil.copytree(run, small / "run")
        make_read_only(small)
        config = tmp_path / "config.yaml"
        config.write_text(dump_file(tiny_config(small / "new")))
        pictures = str(run / "data" / "generated" / "val")
        for words in (
            ["train", str(config)],
            ["train", str(config), "--resume", f"run.dir={small / 'run'}"],
            ["report", str(small / "run")],
            ["thresholds", str(small / "run")],
            ["export", str(run), "--out", str(small / "m.safetensors")],
            ["export", str(run), "--out", str(small / "new" / "m.safetensors")],
            ["label", str(run), pictures, "--out", str(small / "labels"), "--actors", "0"],
        ):
            assert main(words) in (1, 2), words
            said = capsys.readouterr().err
            assert "the file system is read-only" in said, words
            assert "Traceback" not in said, words
        truth = next((run / "data" / "generated" / "val").glob("*/annotations.json"))
        assert main(["evaluate", str(small / "run"), "--data", str(truth)]) == 0  # which needs no room of the run's
        assert main(["thresholds", str(small / "run"), "--data", str(truth)]) in (1, 2)  # and this only for its page
        said = capsys.readouterr()
        assert "run now on 6 images" in said.out and "the file system is read-only" in said.err


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "no permission to write there"),
        (errno.EIO, "the disk reports a fault"),
    ],
)
def test_what_the_system_says_while_a_file_is_synced(
    number: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = write_text(tmp_path / "file", "old")

    def refuses(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", refuses)
    with pytest.raises(StorageError, match=f"{file}: {said}"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_safetensors_says_of_the_disk_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words = "Error while serializing: I/O error: No space left on device (os error 28)"

    def refuses(*_: object) -> None:
        raise safetensors.SafetensorError(words)

    monkeypatch.setattr(checkpoint, "save_file", refuses)
    with pytest.raises(StorageError, match="step_00000005: the disk is full .0.0 MB were to be written"):
        checkpoint.write_checkpoint(tmp_path, 5, {"student": {}}, {})
    assert list(tmp_path.iterdir()) == []


def test_errors_that_are_not_the_disk_s_stay_what_they_are(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file"):
        _ = 1 / 0
    with pytest.raises(PermissionError), writing(tmp_path / "out" / "file"):  # of a file that was to be read
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/input.csv")
    with pytest.raises(RunError, match="^a message that mentions"), writing(tmp_path / "file"):
        raise RunError("a message that mentions [Errno 28]")
    assert errno_of(ValueError("nothing of the kind")) is None


def test_a_failure_to_end_well_does_not_hide_why_the_run_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from raydet.train import worker
    from raydet.train.journal import Journal

    def refuses(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Journal, "end", refuses)
    monkeypatch.setattr(worker.Trainer, "run", lambda self, asked: (_ for _ in ()).throw(RunError("the first error")))
    with pytest.raises(RunError, match="^the first error$"):
        launch(tiny_config(tmp_path / "run"))
