"""Boxes beside their pictures: drawn at another size, before the picture was turned, or in fractions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raydet.config.located_data import LocatedDataConfig, LocatedSetConfig
from raydet.data.check import CheckReport
from raydet.families.localization.data import LOCATED
from tests.tiny_data import write_image
from tests.unit.data.located.layouts import ONE_EACH, coco


def found(report: CheckReport, severity: str = "error") -> list[str]:
    return [problem.code for problem in report.problems if problem.severity == severity]


def declared(file: Path, width: int, height: int) -> Path:
    """Say another size of the first image of a COCO file."""
    content = json.loads(file.read_text())
    content["images"][0].update(width=width, height=height)
    file.write_text(json.dumps(content))
    return file


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_boxes_drawn_at_another_size_of_the_picture_are_an_error(tmp_path: Path):
    report = LOCATED.check_one(LocatedSetConfig(path=str(declared(coco(tmp_path, *ONE_EACH), 200, 160))))
    assert found(report) == ["image-size"]
    assert str(report.problems[0]) == (
        f"{tmp_path / 'boxes.json'}, image id 1: annotated as 200 x 160 (width x height), but {tmp_path / '1.jpg'} is "
        "100 x 80: the boxes belong to another size of the picture; use the original image, or correct the size and "
        "the boxes"
    )
    assert report.sets[0].boxes == 1  # those of the other picture


@pytest.mark.parametrize(
    ("size", "orientation", "errors", "warnings"),
    [
        ((100, 80), 6, ["exif-rotated"], []),  # drawn before the picture was turned
        ((80, 100), 6, [], []),  # drawn in the turned picture
        ((100, 80), 3, [], ["exif-ambiguous"]),  # upside down, which the size cannot tell
    ],
)
def test_boxes_drawn_before_exif_rotation_are_noticed(
    size: tuple[int, int], orientation: int, errors: list[str], warnings: list[str], tmp_path: Path
):
    file = declared(coco(tmp_path, *ONE_EACH), *size)
    write_image(tmp_path / "1.jpg", exif=turned(orientation))
    report = LOCATED.check_one(LocatedSetConfig(path=str(file)))
    assert (found(report), found(report, "warning")) == (errors, warnings)


def test_sizes_stay_with_their_images_where_others_are_left_out(tmp_path: Path):
    file = coco(tmp_path, (1, 1, [0.0, 0, 9, 9]), (1, 2, [0.0, 0, 5, 5]), (2, 2, [0.0, 0, 50, 60]))
    content = json.loads(file.read_text())
    content["images"][1].update(width=200, height=160)
    file.write_text(json.dumps(content))
    report = LOCATED.check_one(LocatedSetConfig(path=str(file)))
    assert found(report) == ["several-classes", "image-size"]
    assert "image id 2: annotated as 200 x 160" in str(report.problems[1])


def test_a_size_that_is_not_declared_is_the_files_own(tmp_path: Path):
    report = LOCATED.check_one(LocatedSetConfig(path=str(declared(coco(tmp_path, *ONE_EACH), 0, 0))))
    assert found(report) == [] and report.sets[0].boxes == 2


def test_sizes_of_training_images_are_not_compared(tmp_path: Path):
    train = declared(coco(tmp_path / "train", *ONE_EACH), 200, 160)
    val = coco(tmp_path / "val", *ONE_EACH)
    data = LOCATED.prepare(LocatedDataConfig(labeled=str(train), val=str(val)), tmp_path / "prepared")
    assert len(data.labeled) == 2 and not any("another size" in warning for warning in data.warnings)


def imagenet_val(root: Path, size: str) -> LocatedSetConfig:
    """One image of 100 x 80."""
    (root / "Data" / "CLS-LOC" / "train" / "n01").mkdir(parents=True)
    write_image(root / "Data" / "CLS-LOC" / "val" / "n01" / "val_1.JPEG")
    file = root / "Annotations" / "CLS-LOC" / "val" / "n01" / "val_1.xml"
    file.parent.mkdir(parents=True)
    corners = "<xmin>10</xmin><ymin>10</ymin><xmax>40</xmax><ymax>40</ymax>"
    file.write_text(f"<annotation>{size}<object><name>n01</name><bndbox>{corners}</bndbox></object></annotation>")
    return LocatedSetConfig(path=str(root), subset="val")


def side(width: str, height: str) -> str:
    return f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"


def test_the_size_in_an_xml_file_of_imagenet_is_compared(tmp_path: Path):
    report = LOCATED.check_one(imagenet_val(tmp_path / "off", side("500", "400")))
    assert found(report) == ["image-size"]
    assert "annotated as 500 x 400 (width x height), but" in str(report.problems[0])
    assert found(LOCATED.check_one(imagenet_val(tmp_path / "right", side("100", "80")))) == []
    assert found(LOCATED.check_one(imagenet_val(tmp_path / "none", ""))) == []
    report = LOCATED.check_one(imagenet_val(tmp_path / "odd", side("wide", "80")))
    assert (found(report), found(report, "warning")) == ([], ["image-size-field"])
    assert "size/width must be a whole number of pixels, got 'wide'" in str(report.problems[0])


def parquet(folder: Path, boxes: list[Any]) -> LocatedSetConfig:
    """Pictures of 64 x 48 in a file, one a row."""
    images = [write_image(folder / f"{row}.png", 64, 48, row).read_bytes() for row in range(len(boxes))]
    columns = {"image": images, "label": [row % 2 for row in range(len(boxes))], "boxes": boxes}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return LocatedSetConfig(path=str(folder / "a.parquet"))


def test_boxes_in_parquet_are_compared_with_their_pictures(tmp_path: Path):
    report = LOCATED.check_one(parquet(tmp_path, [[10.0, 10, 500, 500], [0.0, 0, 65, 49]]), decode_images=False)
    assert found(report) == ["box"]
    assert str(report.problems[0]) == (
        f"{tmp_path / 'a.parquet'}, row 0: a box of image id 0 leaves its image: 10, 10, 500, 500 (xyxy, pixels); "
        "correct the box or remove it"
    )


def test_boxes_that_are_fractions_of_their_images_are_one_error_in_parquet_and_in_files(tmp_path: Path):
    fractions = [0.1, 0.1, 0.5, 0.5]
    in_files = coco(tmp_path / "coco", (1, 1, fractions), (2, 2, fractions))
    for one in (parquet(tmp_path / "parquet", [fractions, fractions]), LocatedSetConfig(path=str(in_files))):
        report = LOCATED.check_one(one)
        assert found(report) == ["boxes-normalised"]
        assert str(report.problems[0]) == (
            f"{one.path}: every box (2) lies between 0 and 1: these look like fractions of the image; boxes are in "
            "pixels: multiply by the image size"
        )


def test_fractions_that_training_never_sees_are_mentioned_and_not_used(tmp_path: Path):
    train = parquet(tmp_path / "train", [[0.1, 0.1, 0.5, 0.5]] * 4)
    val = parquet(tmp_path / "val", [[1.0, 2, 30, 40]] * 2)
    data = LOCATED.prepare(LocatedDataConfig(labeled=train, val=val), tmp_path / "prepared")
    assert any("every box (4) lies between 0 and 1" in warning for warning in data.warnings)
    assert LOCATED.open_hidden(tmp_path / "prepared") is None
