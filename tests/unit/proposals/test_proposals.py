"""`raydet proposals` in this process, on small pictures with things in them."""

from __future__ import annotations

import csv
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raydet.cli import main
from raydet.data.proposals import Fallback, Proposals
from raydet.errors import ConfigError, DataError
from raydet.image_jobs.image_stores import LocalStore
from raydet.image_jobs.worker import Worker
from raydet.proposals import sources
from raydet.proposals.sources import Grid, SelectiveSearch, read_file
from tests.unit.proposals.pictures import THING, picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures, the last in a folder and empty; a file that is none."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(4):
        left = 5 * number
        picture(folder / f"{number}.png", thing=(left, 20, left + 50, 60))
    picture(folder / "more" / "plain.png", (40, 30), None)
    (folder / "bad.jpg").write_text("<html>")
    return folder


def propose(photos: Path | str, out: Path, *options: str) -> int:
    return main(["proposals", str(photos), "--out", str(out), "--actors", "0", "--shard-images", "2", *options])


def test_a_thing_is_proposed_where_it_is_and_bad_images_are_listed(photos: Path, tmp_path: Path, capsys):
    pytest.importorskip("cv2")
    assert propose(photos, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "5 images" in said and "1 image skipped" in said
    assert "in 1 image no box passed all filters: the whole image is the one box" in said
    found = Proposals.open(tmp_path / "out")
    assert found.ids() == ["0.png", "1.png", "2.png", "3.png", "more/plain.png"]
    for number in range(4):
        row = found.position(f"{number}.png")
        boxes = found.boxes_at(row)
        assert (boxes.dtype, boxes.shape[1], found.size_at(row)) == (np.float32, 4, (90, 120))
        # the blur before the segmentation (sigma 0.9) moves an edge by up to two pixels
        assert np.abs(boxes - (5 * number, 20, 5 * number + 50, 60)).max(axis=1).min() <= 2
        assert found.fallback_at(row) == Fallback.NONE
    plain = found.position("more/plain.png")
    assert found.boxes_at(plain).tolist() == [[0, 0, 40, 30]]
    assert found.fallback_at(plain) == Fallback.IMAGE
    with (tmp_path / "out" / "skipped.csv").open(newline="") as file:
        (_, (name, reason)) = list(csv.reader(file))
    assert name == "bad.jpg" and "a web page saved under an image name" in reason


def test_the_boxes_of_an_image_are_the_same_each_time_and_scale_with_it(tmp_path: Path):
    pytest.importorskip("cv2")
    pixels = LocalStore(tmp_path).picture(picture(tmp_path / "a.png").name).pixels
    first, again = (np.unique(SelectiveSearch().finder()(pixels, "a.png"), axis=0) for _ in range(2))
    assert np.array_equal(first, again)
    small = SelectiveSearch(max_side=60).finder()(pixels, "a.png")  # searched at 60 x 45, said at 120 x 90
    assert np.abs(small - THING).max(axis=1).min() <= 4
    assert small.max(axis=0)[2:].tolist() == [120, 90]


def test_what_is_finished_is_not_searched_again(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    begun: list[str] = []
    begin = Worker.begin
    stop = {"after": 1}

    def interrupted(self: Worker, names: list[str], loading: list[object]) -> object:
        if stop["after"] == 0:
            raise KeyboardInterrupt
        stop["after"] -= 1
        return finish(self, names, loading)

    finish = Worker.finish
    monkeypatch.setattr(Worker, "begin", lambda self, names: begun.extend(names) or begin(self, names))
    monkeypatch.setattr(Worker, "finish", interrupted)
    assert propose(photos, out, "--source", "grid") == 130
    assert [path.name for path in (out / "shards").iterdir()] == ["part-00000000.parquet"]
    with pytest.raises(DataError, match="not finished; run the same raydet proposals command again"):
        Proposals.open(out)
    begun.clear()
    monkeypatch.setattr(Worker, "finish", finish)
    assert propose(photos, out, "--source", "grid") == 0
    assert sorted(begun) == ["2.png", "3.png", "bad.jpg", "more/plain.png"]  # but for 0.png and 1.png
    assert propose(photos, tmp_path / "whole", "--source", "grid") == 0
    assert (tmp_path / "whole" / "proposals.arrow").read_bytes() == (out / "proposals.arrow").read_bytes()
    assert pq.read_table(out / "shards").num_rows == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source", "grid", "--min-side", "9"], "filters.min_side: 0.0 -> 9.0"),
        (["--source", "file", "--boxes", "{boxes}"], "source.name: 'grid' -> 'file'"),
        (["--source", "grid", "--aspect-range", "3", "1"], "--aspect-range 3 1: expected 0 <= LOW <= HIGH"),
        (["--source", "file"], "--boxes FILE belongs to --source file, which needs it"),
        (["--source", "grid", "--boxes", "x.json"], "--boxes FILE belongs to --source file"),
        (["--source", "grid", "--actors", "-1"], "--actors must be 0 or more"),
        (["--source", "file", "--boxes", "nowhere.json"], "nowhere.json: cannot be read as JSON"),
    ],
)
def test_mistakes_are_one_message(photos: Path, tmp_path: Path, capsys, options: list[str], message: str):
    assert propose(photos, tmp_path / "out", "--source", "grid") == 0
    boxes = coco(tmp_path / "boxes.json", "0.png", 120, 90, [])
    capsys.readouterr()
    assert propose(photos, tmp_path / "out", *(word.format(boxes=boxes) for word in options)) == 2
    said = capsys.readouterr().err
    assert said.startswith("raydet: error: ") and message in said and "Traceback" not in said


def test_images_that_came_later_are_refused(photos: Path, tmp_path: Path, capsys):
    assert propose(photos, tmp_path / "out", "--source", "grid") == 0
    picture(photos / "new.png")
    assert propose(photos, tmp_path / "out", "--source", "grid") == 2
    said = capsys.readouterr().err
    assert "1 added ('new.png')" in said and "search it into another --out" in said


def test_a_folder_of_something_else_is_no_place_for_results_and_is_left_as_it_is(photos: Path, tmp_path: Path, capsys):
    before = sorted(photos.rglob("*"))
    assert propose(photos, photos, "--source", "grid") == 2
    assert capsys.readouterr().err == (
        f"raydet: error: --out {photos} holds 0.png and no proposals.json; choose another folder, or a new one in it\n"
    )
    assert sorted(photos.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    assert propose(tmp_path / "empty", tmp_path / "new" / "out", "--source", "grid") == 2
    assert "no images there" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


# the file


def test_the_file_travels_as_its_path_and_knows_its_settings(photos: Path, tmp_path: Path):
    assert propose(photos, tmp_path / "out", "--source", "grid") == 0
    found = pickle.loads(pickle.dumps(Proposals.open(tmp_path / "out")))
    assert found.settings["source.name"] == "grid" and found.settings["filters.sqrt_area_range"] == [0.3, 0.8]
    found.require({"source.name": "grid"})
    with pytest.raises(DataError, match=r"source\.name: 'grid' there, 'selective_search' wanted"):
        found.require({"source.name": "selective_search"})
    assert not found.boxes_at(0).flags.writeable


def test_proposals_of_other_images_or_sizes_are_refused_by_name(photos: Path, tmp_path: Path):
    assert propose(photos, tmp_path / "out", "--source", "grid") == 0
    found = Proposals.open(tmp_path / "out")
    assert found.rows_for(["3.png", "0.png"], [(90, 120), (90, 120)]).tolist() == [3, 0]
    with pytest.raises(DataError, match=r"no proposals of 1 of 2 images \('x\.png'\); it has 5 images .*'0\.png'"):
        found.rows_for(["0.png", "x.png"], [(90, 120), (90, 120)])
    with pytest.raises(DataError, match="'0.png': proposals for 120 x 90 pixels, the image is 90 x 120"):
        found.rows_for(["0.png"], [(120, 90)])


def as_of_an_older_version(out: Path, shards: int) -> None:
    """Take the lengths of files and the numbers of dropped boxes from some shards, and proposals.arrow away."""
    for shard in sorted((out / "shards").iterdir())[:shards]:
        pq.write_table(pq.read_table(shard).drop_columns(["num_bytes", "dropped"]), shard)
    (out / "proposals.arrow").unlink()


def test_a_picture_of_the_same_name_and_size_is_told_by_the_length_of_its_file(photos: Path, tmp_path: Path):
    assert propose(photos, tmp_path / "out", "--source", "grid") == 0
    found, files = Proposals.open(tmp_path / "out"), [photos / "0.png", photos / "3.png"]
    rows = [found.position(file.name) for file in files]
    found.require_files(rows, files.__getitem__)
    before = files[1].stat().st_size
    files[1].write_bytes(files[1].read_bytes() + b"!")
    with pytest.raises(
        DataError, match=rf"3\.png' has {before + 1:,} bytes, the file that was searched {before:,}\. Run"
    ):
        found.require_files(rows, files.__getitem__)
    found.require_files(rows[:1], files.__getitem__)
    files[0].unlink()  # told of by who reads it
    found.require_files(rows[:1], files.__getitem__)


@pytest.mark.parametrize("shards", [1, 3])  # of three
def test_searches_of_an_older_version_are_finished_and_read_without_lengths(photos: Path, tmp_path: Path, shards: int):
    out = tmp_path / "out"
    assert propose(photos, out, "--source", "grid") == 0
    boxes = Proposals.open(out).boxes_at(0).tolist()
    as_of_an_older_version(out, shards)
    assert propose(photos, out, "--source", "grid") == 0
    assert "num_bytes" not in pa.ipc.open_file(pa.memory_map(str(out / "proposals.arrow"))).schema.names
    found = Proposals.open(out)
    assert found.boxes_at(0).tolist() == boxes
    (photos / "0.png").write_bytes(b"another")
    found.require_files([0], lambda place: photos / "0.png")


def test_a_changed_byte_and_a_file_that_is_not_there_are_named(photos: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"no such proposals file; make it with raydet proposals IMAGES --out DIR"):
        Proposals.open(tmp_path / "proposals.arrow")
    assert propose(photos, tmp_path / "out", "--source", "grid") == 0
    file = tmp_path / "out" / "proposals.arrow"
    content = bytearray(file.read_bytes())
    content[content.index(b"1.png")] ^= 4
    file.write_bytes(content)
    with pytest.raises(DataError, match="damaged .*run the same raydet proposals command again"):
        Proposals.open(file)


# other sources


def coco(file: Path, name: str, width: float, height: float, boxes: list[list[float]]) -> Path:
    images = [{"id": 7, "file_name": name, "width": width, "height": height}]
    file.write_text(json.dumps({"images": images, "annotations": [{"image_id": 7, "bbox": box} for box in boxes]}))
    return file


def test_boxes_of_a_file_pass_the_same_filters(tmp_path: Path):
    picture(tmp_path / "a.png")
    boxes = coco(tmp_path / "boxes.json", "a.png", 120, 90, [[10, 10, 50.5, 40], [0, 0, 9, 9]])
    assert propose(tmp_path / "*.png", tmp_path / "out", "--source", "file", "--boxes", str(boxes)) == 0
    found = Proposals.open(tmp_path / "out")
    # sqrt(120 * 90) = 103.9; sqrt(50.5 * 40) = 44.9 is 0.43 of it, 9 is 0.09
    assert found.boxes_at(0).tolist() == [[10, 10, 60.5, 50]]


def test_how_many_boxes_are_dropped_and_why_is_said(tmp_path: Path, capsys):
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    given = {
        "a": [[10, 10, 50, 40], [10, 10, 50, 40], [0, 0, 9, 9], [0, 0, 120, 30], [200, 0, 50, 40]],
        "b": [[0, 0, 8, 8]],
    }
    contents = [
        json.loads(coco(tmp_path / "boxes.json", f"{name}.png", 120, 90, boxes).read_text())
        for name, boxes in given.items()
    ]
    contents[1]["images"][0]["id"] = contents[1]["annotations"][0]["image_id"] = 8
    both = {key: contents[0][key] + contents[1][key] for key in ("images", "annotations")}
    (tmp_path / "boxes.json").write_text(json.dumps(both))
    words = ("--source", "file", "--boxes", str(tmp_path / "boxes.json"), "--shard-images", "1")
    assert propose(tmp_path / "*.png", tmp_path / "out", *words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-4:-1] == [
        "2 images, 2 boxes (1.0 an image), 0 images skipped",
        "note: 5 of 6 boxes were dropped: 1 without an area inside the image, 1 equal to another, "
        "1 too long or too high (--aspect-range), 2 too small or too large (--sqrt-area-range)",
        "note: in 1 image no box passed all filters: the whole image is the one box",
    ]
    as_of_an_older_version(tmp_path / "out", 1)  # a.png
    assert propose(tmp_path / "*.png", tmp_path / "out", *words) == 0
    assert (
        "note: 1 of 1 boxes were dropped (in 1 image; an older raydet searched the others): 1 too small or too large"
    ) in capsys.readouterr().out


def test_a_file_of_other_images_or_sizes_serves_none(tmp_path: Path, capsys):
    picture(tmp_path / "a.png")
    boxes = coco(tmp_path / "boxes.json", "b.png", 120, 90, [])
    assert propose(tmp_path / "*.png", tmp_path / "b", "--source", "file", "--boxes", str(boxes)) == 1
    assert "has no image 'a.png'; its first: 'b.png'" in (tmp_path / "b" / "skipped.csv").read_text()
    boxes = coco(tmp_path / "boxes.json", "a.png", 90, 120, [])
    assert propose(tmp_path / "*.png", tmp_path / "a", "--source", "file", "--boxes", str(boxes)) == 1
    assert "has boxes for 90 x 120 pixels, the image is 120 x 90" in (tmp_path / "a" / "skipped.csv").read_text()


def test_what_is_wrong_in_a_file_of_boxes_is_named(tmp_path: Path):
    file = coco(tmp_path / "boxes.json", "a.png", 9, 9, [[0, 0, 1, 1], [0, 0, 1]])
    with pytest.raises(DataError, match=r"boxes.json: not a COCO instance file: annotations\[1\]: ValueError"):
        read_file(file)
    file.write_text("[]")
    with pytest.raises(DataError, match="not a COCO instance file"):
        read_file(file)


def test_a_grid_lies_inside_of_every_image_and_fits_its_size():
    for width, height in ((120, 90), (9, 300), (1, 1)):
        boxes = Grid().finder()(torch.zeros(3, height, width, dtype=torch.uint8), "a.png")
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= np.array([width, height]) + 1e-9).all()
    # 100 x 100, size 0.5, ratio 1: sides 50, 1 + 50 / 25 = 3 places along each axis
    boxes = Grid(sizes=(0.5,), ratios=(1.0,)).finder()(torch.zeros(3, 100, 100, dtype=torch.uint8), "a.png")
    assert sorted({box[0] for box in boxes.tolist()}) == [0, 25, 50] and len(boxes) == 9


# OpenCV


def test_without_opencv_there_is_one_message(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"pip install 'raydet\[proposals\]'.*--source grid or file"):
        SelectiveSearch().check()


def test_opencv_without_contributed_modules_gives_the_same_message(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources.importlib, "import_module", lambda name: object())
    with pytest.raises(ConfigError, match=r"opencv-python beside it must go"):
        SelectiveSearch().check()
