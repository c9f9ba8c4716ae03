from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydet.data.check import format_report
from raydet.errors import DataError
from raydet.families.classification.data import IMAGES
from tests.helpers import data_folder
from tests.tiny_images import data_config, encoded, noise, set_config, write_class_folders, write_parquet


def test_a_sound_set_is_described(tmp_path: Path) -> None:
    report = IMAGES.check_one(set_config(write_parquet(tmp_path / "a.parquet")))
    text = format_report(report)
    assert (report.num_errors, report.num_warnings) == (0, 0)
    assert "a.parquet (read as parquet)" in text and "6 images, 0.0 MiB in the index; 0 without a label" in text
    assert "images: cat 2, dog 2, owl 2" in text and "sides 8 to 8 pixels" in text
    assert text.endswith("no errors: this data can be used")


def test_mean_and_deviation_of_the_colours_are_measured(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path, {"a": 0, "b": 0})
    for name, red in (("a", 0), ("b", 255)):
        pixels = noise(0, 0) * 0
        pixels[..., 0] = red
        pixels[:4, :, 1] = 51  # half of the rows at 1/5: mean 0.1, deviation 0.1
        (root / name / "x.png").write_bytes(encoded(pixels))
    text = format_report(IMAGES.check_one(set_config(root)))
    assert "mean [0.500, 0.100, 0.000], std [0.500, 0.100, 0.000]" in text
    assert "2 images, in files of their own" in text


def test_real_data_has_no_problem() -> None:
    folder = data_folder("clothing")
    sets = {name: folder / f"{name}.parquet" for name in ("val", "test")}
    report = IMAGES.check(data_config(folder / "train.parquet", labeled_per_class=4, **sets), decode_images=False)
    assert report.counts == {} and [one.images for one in report.sets] == [3260, 610, 1226]


def test_images_that_cannot_be_decoded_are_found(tmp_path: Path) -> None:
    png = encoded(noise(0, 7))
    images = [png, b"junk", encoded(noise(1, 8))[:70], encoded(noise(2, 9))]
    file = write_parquet(tmp_path / "a.parquet", [0, 1, 1, 2], names=("a", "b", "c"), images=images)
    report = IMAGES.check_one(set_config(file))
    assert report.counts == {("error", "image-unreadable"): 2, ("warning", "class-missing"): 1}
    text = format_report(report)
    assert "a.parquet, row 1, image id 1: not an image that can be read" in text
    assert "row 2, image id 2: truncated or damaged image" in text
    whole = encoded(noise(0, 1))
    images[1:3] = [whole, whole[:60] + bytes(40) + whole[100:]]  # damaged in the middle: nobody sees it from outside
    file = write_parquet(tmp_path / "b.parquet", [0, 1, 1, 2], names=("a", "b", "c"), images=images)
    assert IMAGES.check_one(set_config(file), decode_images=False).num_errors == 0
    assert IMAGES.check_one(set_config(file)).counts == {("error", "image-unreadable"): 1}


def test_a_picture_that_a_set_holds_twice_is_a_warning(tmp_path: Path) -> None:
    png = encoded(noise(0, 7))
    file = write_parquet(tmp_path / "a.parquet", [0, 1, 2, 0], images=[png, encoded(noise(1, 1)), png, png])
    report = IMAGES.check_one(set_config(file))
    assert report.counts == {("warning", "image-twice"): 2}
    assert "row 2, image id 2: the same picture is image id 0" in format_report(report)


def test_everything_is_listed_at_once(tmp_path: Path) -> None:
    config = data_config(
        write_parquet(tmp_path / "a.parquet", [0, 1, 2, 7, None]),
        val=write_parquet(tmp_path / "val.parquet", [0, 1], names=("cat", "Dogg"), first=20),
        test=tmp_path / "missing.parquet",
        labeled_per_class=3,
    )
    report = IMAGES.check(config)
    assert {code for severity, code in report.counts if severity == "error"} == {
        "label-range", "label-missing", "class-unknown", "data-set", "split"
    }  # fmt: skip
    assert "did you mean 'dog'" in format_report(report)


CASES: dict[str, dict[str, Any]] = {
    "sound": {},
    "null label": {"labels": [0, 1, 2, None]},
    "label out of range": {"labels": [0, 1, 2, 3]},
    "class missing": {"labels": [0, 1, 1]},
    "ids twice": {"ids": ["a", "a", "b", "c", "d", "e"]},
    "no labels": {"labels": None},
    "names twice": {"names": ["a", "b", "a"]},
    "name empty": {"names": ["a", "b", ""]},
    "empty": {"labels": []},
}


@pytest.mark.parametrize("case", CASES)
def test_check_and_prepare_give_the_same_verdict(tmp_path: Path, case: str) -> None:
    config = data_config(write_parquet(tmp_path / "a.parquet", **CASES[case]))
    report = IMAGES.check(config, decode_images=False)
    assert (report.num_errors == 0) == (case == "sound")
    if case == "sound":
        IMAGES.prepare(config, tmp_path / "run")
        return
    with pytest.raises(DataError) as caught:
        IMAGES.prepare(config, tmp_path / "run")
    code = next(code for severity, code in report.counts if severity == "error")
    first = next(problem for problem in report.problems if problem.code == code)
    assert first.message in str(caught.value)


def test_one_set_alone_needs_no_labels_but_all_or_none(tmp_path: Path) -> None:
    plain = write_parquet(tmp_path / "a.parquet", labels=None, names=None)
    assert IMAGES.check_one(set_config(plain)).counts == {}
    some = write_parquet(tmp_path / "b.parquet", [0, 1, 2, None])
    assert IMAGES.check_one(set_config(some)).counts == {("error", "label-missing"): 1}
