"""Runs and data that are moved or copied: paths that go along, and data that must be the same wherever it lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydet.cli import main
from raydet.errors import DataError, UserError
from raydet.families.detection.data import BOXES
from raydet.settings import dump_file
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.launch import launch
from raydet.train.saved import evaluate_saved
from tests.helpers import tiny_config


def write_set(folder: Path, number: int, seed: int) -> Path:
    """Write pictures of 96 x 64 with one bright box each, and their COCO file."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    images, boxes = [], []
    for n in range(1, number + 1):
        pixels = rng.integers(0, 90, (64, 96, 3), dtype=np.uint8)
        x, y = (int(v) for v in rng.integers(4, 30, 2))
        pixels[y : y + 24, x : x + 30] += 120
        Image.fromarray(pixels).save(folder / f"{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "width": 96, "height": 64})
        boxes.append({"id": n, "image_id": n, "category_id": 1, "bbox": [x, y, 30, 24], "area": 720, "iscrowd": 0})
    file = folder / "data.json"
    file.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "box"}]}))
    return file


def config_for(run: Path, data: Path, **changes: object):
    sets = {"data__labeled": str(data / "train/data.json"), "data__val": str(data / "val/data.json")}
    return tiny_config(run, **sets, data__labeled_count=5, **changes)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, and a run that was stopped at step 5."""
    home = tmp_path_factory.mktemp("home")
    write_set(home / "data" / "train", 12, seed=0)
    write_set(home / "data" / "val", 4, seed=1)
    launch(config_for(home / "run", home / "data", run__stop_at=5))
    return home


@pytest.fixture
def home(original: Path, tmp_path: Path) -> Path:
    """A copy of it, in which the run still names the data of the original."""
    shutil.copytree(original, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on generated pictures, which lie in its folder, stopped at step 5."""
    return launch(tiny_config(tmp_path_factory.mktemp("generated") / "run", run__stop_at=5)).path


def test_a_run_that_was_moved_is_resumed_and_evaluated(generated: Path, tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(generated, first)
    first.rename(second)
    assert BOXES.open(second / "data").labeled.file_at(0).is_relative_to(second / "data" / "generated" / "labeled")
    evaluate_saved(second, data=None, split="val", role=None)
    launch(tiny_config(second), resume=True)
    assert latest_checkpoint(second / "checkpoints").step == 8


def test_a_copy_uses_its_own_pictures_while_the_original_lies_there(generated: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(generated, copy)
    index = BOXES.open(copy / "data").val
    assert index.file_at(0).is_relative_to(copy)


def test_an_older_run_with_absolute_paths_can_be_copied_too(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from raydet.data.boxes import index as boxes

    old, new = tmp_path / "old", tmp_path / "new"
    with monkeypatch.context() as patch:  # as it was written before
        patch.setattr(boxes, "stored_root", lambda root, file: str(root))
        launch(tiny_config(old, run__stop_at=4))
    (old / "data" / "sources.json").unlink()
    shutil.copytree(old, new)
    assert BOXES.open(new / "data").val.file_at(0).is_relative_to(new)
    shutil.rmtree(old)
    launch(tiny_config(new), resume=True)


def test_data_that_is_gone_is_named_with_the_way_to_go_on(home: Path, tmp_path: Path):
    data = tmp_path / "elsewhere"
    launch(config_for(tmp_path / "run", home / "data", run__stop_at=4))
    (home / "data").rename(data)
    with pytest.raises(DataError, match=r"data\.labeled: 5 of 5 .*is not there.*--resume data\.labeled\.path=NEW"):
        launch(config_for(tmp_path / "run", home / "data"), resume=True)
    with pytest.raises(DataError, match=r"data\.val: 4 of 4 images of the val set"):
        evaluate_saved(tmp_path / "run", data=None, split="val", role=None)
    launch(config_for(tmp_path / "run", data), resume=True)
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").step == 8
    assert BOXES.open(tmp_path / "run" / "data").val.file_at(0).is_relative_to(data)
    evaluate_saved(tmp_path / "run", data=None, split="val", role=None)


def test_data_that_moved_leads_to_the_bits_of_data_that_did_not(original: Path, home: Path, tmp_path: Path):
    straight = launch(config_for(tmp_path / "straight", original / "data")).path
    moved = launch(config_for(home / "run", home / "data"), resume=True).path
    one, other = (latest_checkpoint(run / "checkpoints").tensors("teacher") for run in (straight, moved))
    assert all((one[name] == other[name]).all() for name in one)


def test_other_data_is_refused_with_the_difference(home: Path):
    file = home / "data" / "train" / "data.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] += 1
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"its (labeled|hidden) set: 1 image changed .1: boxes"):
        launch(config_for(home / "run", home / "data"), resume=True)


def test_a_picture_more_is_refused_with_its_name(home: Path):
    file = home / "data" / "train" / "data.json"
    content = json.loads(file.read_text())
    shutil.copy(file.with_name("1.png"), file.with_name("13.png"))
    content["images"].append({"id": 13, "file_name": "13.png", "width": 96, "height": 64})
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"not the data that the run began with; .*images? (new|missing)"):
        launch(config_for(home / "run", home / "data"), resume=True)


def test_a_picture_that_was_written_anew_is_noticed_by_its_size(home: Path):
    for picture in (home / "data" / "train").glob("*.png"):
        Image.open(picture).save(picture, compress_level=0)
    with pytest.raises(DataError, match="image files have another size in bytes"):
        launch(config_for(home / "run", home / "data"), resume=True)


def test_what_was_refused_leaves_the_run_as_it_was(home: Path, original: Path):
    before = (home / "run" / "data" / "labeled.arrow").read_bytes()
    (home / "data" / "train" / "1.png").unlink()
    with pytest.raises(UserError):
        launch(config_for(home / "run", home / "data"), resume=True)
    assert (home / "run" / "data" / "labeled.arrow").read_bytes() == before
    assert not list((home / "run" / "data").glob(".moved-*"))
    launch(config_for(home / "run", original / "data"), resume=True)


def test_the_file_of_a_moved_run_says_what_to_add(generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    copy = tmp_path / "copy"
    shutil.copytree(generated, copy)
    (copy / "config.yaml").write_text(dump_file(tiny_config(tmp_path / "gone")))
    assert main(["train", str(copy / "config.yaml"), "--resume"]) == 2
    assert f"add run.dir={copy}" in capsys.readouterr().err
    assert main(["train", str(copy / "config.yaml"), "--resume", f"run.dir={copy}"]) == 0
