"""Pictures that cannot be read: found when the data is prepared, left out where that is wanted, replaced in mid-run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raydet.config.box_data import DataConfig, DatasetConfig
from raydet.data.decode import decode
from raydet.data.glance import complaint, glance
from raydet.data.order import BatchOrder
from raydet.errors import ConfigError, DataError
from raydet.families.classification.data import IMAGES
from raydet.families.detection.data import BOXES
from raydet.settings import resolve
from tests.tiny_data import coco_content, write_coco, write_image
from tests.tiny_images import data_config, encoded, noise, write_class_folders, write_parquet


def spoil(file: Path) -> None:
    """Damage a PNG in the middle: both its ends stay as they are."""
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + bytes(40) + whole[140:])


def more_images(folder: Path, count: int = 6) -> Path:
    for number in range(count):
        write_image(folder / f"{number}.png", value=30 + number)
    return folder


def config(tmp_path: Path, **other: Any) -> DataConfig:
    labeled = write_coco(tmp_path / "data")
    return DataConfig.model_validate({"labeled": str(labeled), "unlabeled": str(tmp_path / "more"), **other})


# --- a glance ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp"])
def test_a_glance_sees_that_the_end_is_missing(tmp_path: Path, name: str) -> None:
    file = write_image(tmp_path / name)
    seen = glance(file, name)
    assert seen.is_whole and seen.upright == (80, 100) and not seen.is_wide
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 3 // 5])
    assert complaint(file, name, decode_all=False)[1]
    if name != "a.webp":  # whose header cannot be read then
        assert not glance(file, name).is_whole
    assert glance(memoryview(whole), name) == seen
    file.write_bytes(whole + bytes(20) * (name != "a.png"))  # padding, as some cameras write it
    assert glance(file, name).is_whole


def test_what_follows_a_sound_picture_costs_a_decode_and_nothing_else(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "data")
    for name in ("a.jpg", "b.jpg"):
        with (tmp_path / "data" / name).open("ab") as stream:
            stream.write(b"some camera's own words" * 9)
    data = BOXES.prepare(DataConfig(labeled=DatasetConfig(path=str(file))), tmp_path / "run")
    assert data.warnings == () and len(data.labeled) == 2


# --- before a run -----------------------------------------------------------------------------------------------------


def test_a_cut_off_picture_is_found_before_the_run_and_the_advice_works(tmp_path: Path) -> None:
    file = more_images(tmp_path / "more") / "3.png"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"3\.png: truncated or damaged .*or leave out .*data.on_bad_image: skip"):
        BOXES.prepare(config(tmp_path), tmp_path / "run")
    data = BOXES.prepare(config(tmp_path, on_bad_image="skip"), tmp_path / "run")
    assert data.unlabeled is not None and data.unlabeled.ids() == ["0.png", "1.png", "2.png", "4.png", "5.png"]
    (line,) = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert {**json.loads(line), "reason": ""} == {"set": "unlabeled", "id": "3.png", "reason": ""}
    assert "truncated" in json.loads(line)["reason"]
    assert any("skipped.jsonl" in warning and "lists 1 image that" in warning for warning in data.warnings)


def test_skipping_decodes_everything_and_takes_boxes_along(tmp_path: Path) -> None:
    more_images(tmp_path / "more")
    spoil(tmp_path / "more" / "0.png")
    content = coco_content()
    content["images"][0]["file_name"] = "a.png"
    content["images"].append({"id": 3, "file_name": "gone.jpg"})
    settings = config(tmp_path, on_bad_image="skip")
    write_coco(tmp_path / "data", content)
    spoil(write_image(tmp_path / "data" / "a.png", value=4))
    data = BOXES.prepare(settings, tmp_path / "run")
    assert data.labeled.ids() == ["2"] and data.labeled.num_boxes == 1  # two boxes were on a.png
    assert data.unlabeled is not None and len(data.unlabeled) == 5
    skipped = [json.loads(line)["id"] for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert skipped == ["1", "3", "0.png"]
    report = BOXES.check(settings, decode_images=False)  # the same rule, and the same verdict
    assert report.num_errors == 0 and [one.images for one in report.sets] == [1, 5]
    assert (report.counts["warning", "image-unreadable"], report.counts["warning", "image-missing"]) == (2, 1)
    assert BOXES.check(config(tmp_path)).num_errors > 0
    write_image(tmp_path / "more" / "0.png", value=30)
    write_coco(tmp_path / "data")
    assert BOXES.prepare(settings, tmp_path / "again").unlabeled is not None
    assert not (tmp_path / "again" / "skipped.jsonl").exists()


def test_a_set_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    for file in more_images(tmp_path / "more", 2).iterdir():
        spoil(file)
    with pytest.raises(DataError, match="no image can be read, all were left out"):
        BOXES.prepare(config(tmp_path, on_bad_image="skip"), tmp_path / "run")
    folder = write_class_folders(tmp_path / "classes", {"cat": 1, "dog": 1})
    for file in folder.rglob("*.png"):
        spoil(file)
    with pytest.raises(DataError, match="no image can be read, all were left out"):
        IMAGES.prepare(data_config(folder, on_bad_image="skip"), tmp_path / "run2")


def test_sets_with_classes_have_the_same_rule(tmp_path: Path) -> None:
    whole = encoded(noise(0, 1))
    images = [encoded(noise(0, 0)), whole[:60] + bytes(40) + whole[100:], encoded(noise(1, 2)), whole[:70]]
    file = write_parquet(tmp_path / "a.parquet", [0, 0, 1, 1], names=("a", "b"), images=images)
    with pytest.raises(DataError, match=r"row 3, .*truncated.*data.on_bad_image: skip"):
        IMAGES.prepare(data_config(file), tmp_path / "run")
    data = IMAGES.prepare(data_config(file, on_bad_image="skip"), tmp_path / "run")
    assert data.labeled.ids() == ["0", "2"]
    skipped = [json.loads(line)["id"] for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert skipped == ["1", "3"]


def test_the_order_is_that_of_a_set_without_the_damaged_pictures(tmp_path: Path) -> None:
    more_images(tmp_path / "more")
    spoil(tmp_path / "more" / "2.png")
    skipping = BOXES.prepare(config(tmp_path, on_bad_image="skip"), tmp_path / "run")
    (tmp_path / "more" / "2.png").unlink()
    without = BOXES.prepare(config(tmp_path), tmp_path / "run2")
    assert skipping.unlabeled is not None and without.unlabeled is not None
    assert skipping.unlabeled.ids() == without.unlabeled.ids()
    assert skipping.unlabeled.content == without.unlabeled.content


def test_a_set_given_to_a_model_is_read_by_the_rules_of_its_run(tmp_path: Path) -> None:
    content = coco_content()
    content["images"][1]["file_name"] = "b.png"
    file = write_coco(tmp_path / "data", content)
    spoil(write_image(tmp_path / "data" / "b.png"))
    given, names = DatasetConfig(path=str(file)), ("cat", "dog")
    assert len(BOXES.prepare_one(given, tmp_path / "one", class_names=names)) == 2  # not noticed from outside
    settings = config(tmp_path / "other", on_bad_image="skip")
    index = BOXES.prepare_one(given, tmp_path / "two", class_names=names, settings=settings)
    assert index.ids() == ["1"] and (tmp_path / "two" / "skipped.jsonl").exists()


# --- in mid-run -------------------------------------------------------------------------------------------------------


def test_what_goes_unnoticed_says_how_the_run_goes_on(tmp_path: Path) -> None:
    more_images(tmp_path / "more")
    data = BOXES.prepare(config(tmp_path), tmp_path / "run")
    spoil(tmp_path / "more" / "1.png")
    assert data.unlabeled is not None
    with pytest.raises(
        DataError, match=r"1\.png: truncated.*or go on without such pictures: --resume data.on_bad_image"
    ):
        data.unlabeled.pixels_at(1)


def test_a_run_goes_on_with_a_sound_picture_in_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    more_images(tmp_path / "more")
    settings = config(tmp_path)
    before = BOXES.prepare(settings, tmp_path / "run")
    for name in ("1.png", "2.png", "5.png"):
        spoil(tmp_path / "more" / name)
    write_image(tmp_path / "data" / "a.jpg", width=50)  # another size: not the picture of its boxes
    assert BOXES.leave_out_damaged(tmp_path / "run") == 4
    assert BOXES.leave_out_damaged(tmp_path / "run") == 0  # they are known now
    lines = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert [(line["set"], line["id"]) for line in lines] == [
        ("labeled", "1"), ("unlabeled", "1.png"), ("unlabeled", "2.png"), ("unlabeled", "5.png")
    ]  # fmt: skip
    data = BOXES.open(tmp_path / "run")
    assert before.unlabeled is not None and data.unlabeled is not None
    # the next sound one, in a circle
    assert [data.unlabeled.id_at(row) for row in range(6)] == ["0.png", "3.png", "3.png", "3.png", "4.png", "0.png"]
    assert np.array_equal(data.unlabeled.pixels_at(2), decode(tmp_path / "more" / "3.png"))
    assert data.unlabeled.sound_rows().tolist() == [0, 3, 4]
    assert data.labeled.id_at(0) == "2" and data.labeled.target_at(0).boxes.tolist() == [[5.5, 6.5, 15.5, 16.5]]
    # rows, and with them the order of steps and the digest that checkpoints know, are what they were
    assert len(data.unlabeled) == 6 and data.unlabeled.content == before.unlabeled.content
    order = BatchOrder(6, 4, 0, "unlabeled")
    for step in range(5):
        for row in order.positions(step).tolist():
            if row in (0, 3, 4):
                assert data.unlabeled.id_at(row) == before.unlabeled.id_at(row)
    write_coco(tmp_path / "data")
    BOXES.prepare(settings.model_copy(update={"on_bad_image": "skip"}), tmp_path / "run")  # begun again: forgotten
    assert BOXES.open(tmp_path / "run").unlabeled.sound_rows().tolist() == [0, 1, 2]  # type: ignore[union-attr]


def test_classes_and_hidden_labels_follow_the_picture_that_is_seen(tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "set", {"cat": 3, "dog": 3})
    data = IMAGES.prepare(data_config(folder, labeled_per_class=1), tmp_path / "run")
    assert data.unlabeled is not None
    own = data.unlabeled.ids()
    spoil(folder / own[1])
    assert IMAGES.leave_out_damaged(tmp_path / "run") == 1
    now, hidden = IMAGES.open(tmp_path / "run").unlabeled, IMAGES.open_hidden(tmp_path / "run")
    assert now is not None and hidden is not None
    assert now.id_at(1) == hidden.id_at(1) == own[2] and now.name_at(1) == str(folder / own[2])
    assert hidden.label_at(1) == hidden.label_at(2) and hidden.labels()[1] == hidden.labels()[2]
    assert np.array_equal(now.pixels_at(1), now.pixels_at(2))


@pytest.mark.parametrize("text", ["[", "{}", "[9]", "[-1]", "[true]", "[0, 1]"])
def test_an_odd_list_of_damaged_rows_is_refused(tmp_path: Path, text: str) -> None:
    BOXES.prepare(DataConfig(labeled=DatasetConfig(path=str(write_coco(tmp_path / "data")))), tmp_path / "run")
    (tmp_path / "run" / "labeled.damaged.json").write_text(text)
    with pytest.raises(DataError, match=r"labeled\.damaged\.json: "):
        BOXES.open(tmp_path / "run")


# --- 16 bits ----------------------------------------------------------------------------------------------------------


def write_wide(file: Path, largest: int, smallest: int = 200) -> Path:
    """A 16-bit gray PNG of 100 x 80 pixels whose values rise from `smallest` to `largest`."""
    values = np.linspace(smallest, largest, 8000).round().astype(np.uint16).reshape(80, 100)
    Image.fromarray(values).save(file)
    return file


def wide_set(folder: Path, largest: int) -> DatasetConfig:
    content = coco_content()
    for entry, name in zip(content["images"], ("a.png", "b.png"), strict=True):
        entry["file_name"] = name
    file = write_coco(folder, content)
    for number, name in enumerate(("a.png", "b.png")):
        write_wide(folder / name, largest, 200 + number)
    return DatasetConfig(path=str(file))


def test_wide_pictures_that_end_nearly_black_are_told_and_the_advice_works(tmp_path: Path) -> None:
    dark = wide_set(tmp_path / "dark", 1500)
    report = BOXES.check_one(dark)
    assert report.counts == {("warning", "images-dark"): 1}
    # 1500 / 257 = 5.8
    assert "the largest value is 1,500, which becomes 6 of 255" in str(report.problems[0])
    assert "set data.views.gray16_range: [0, 4095]" in str(report.problems[0])
    data = BOXES.prepare(DataConfig(labeled=dark), tmp_path / "run")
    assert any("images-dark" in warning for warning in data.warnings) and int(data.labeled.pixels_at(0).max()) == 6
    settings = DataConfig.model_validate({"labeled": dark.path, "views": {"gray16_range": [0, 4095]}})
    data = BOXES.prepare(settings, tmp_path / "run2")
    assert data.warnings == () and int(data.labeled.pixels_at(0).max()) == 93  # 1500 * 255 / 4095 = 93.4
    index = BOXES.prepare_one(dark, tmp_path / "one", class_names=("cat", "dog"), settings=settings)
    assert int(index.pixels_at(0).max()) == 93  # what a model is evaluated on looks as in its training
    assert BOXES.check_one(wide_set(tmp_path / "bright", 60_000)).counts == {}


def test_classifiers_have_the_same_check_and_the_same_range(tmp_path: Path) -> None:
    for name, largest in (("cat", 1000), ("dog", 1400)):
        (tmp_path / "set" / name).mkdir(parents=True)
        write_wide(tmp_path / "set" / name / "x.png", largest)
    data = IMAGES.prepare(data_config(tmp_path / "set"), tmp_path / "run")
    assert any("images-dark" in warning and "1,400" in warning for warning in data.warnings)
    data = IMAGES.prepare(data_config(tmp_path / "set", views={"gray16_range": [200, 1400]}), tmp_path / "run2")
    assert data.warnings == ()
    assert [int(data.labeled.pixels_at(1).min()), int(data.labeled.pixels_at(1).max())] == [0, 255]


def test_the_range_of_values_is_clipped_and_must_have_a_width(tmp_path: Path) -> None:
    file = write_wide(tmp_path / "a.png", 65535, 0)
    pixels = decode(file, (1000, 2000))[0].flatten().tolist()
    assert pixels[0] == 0 and pixels[-1] == 255
    middle = int(np.abs(np.linspace(0, 65535, 8000).round() - 1500).argmin())
    assert abs(pixels[middle] - 127.5) <= 2  # half way
    assert np.array_equal(decode(file), decode(file, (0, 65535)))
    with pytest.raises(ConfigError, match="the lower first"):
        tree = {"run": {"dir": "x"}, "method": {"name": "supervised"}, "model": {"weights": "none"}}
        resolve({**tree, "data": {"labeled": "x", "views": {"gray16_range": [5, 5]}}}, {})
