"""jobs/merge_coco.py: one labelled set of two COCO files."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from raydet.cli import main as raydet
from raydet.errors import DataError

JOB = Path(__file__).parents[4] / "jobs" / "merge_coco.py"


@pytest.fixture(scope="module")
def job() -> ModuleType:
    spec = importlib.util.spec_from_file_location("merge_coco", JOB)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def coco(names: dict[int, str], images: dict[int, str], boxes: list[tuple[int, int]]) -> dict[str, Any]:
    """Return a file of `boxes`, each an image's and a class's id."""
    return {
        "categories": [{"id": number, "name": name} for number, name in names.items()],
        "images": [{"id": number, "file_name": file, "width": 40, "height": 30} for number, file in images.items()],
        "annotations": [
            {"id": 7 + place, "image_id": image, "category_id": kind, "bbox": [4, 5, 20, 10], "area": 200, "iscrowd": 0}
            for place, (image, kind) in enumerate(boxes)
        ],
    }


FEW = coco({3: "Person", 9: "Monitor/TV", 11: "Lamp"}, {1: "a.png"}, [(1, 11), (1, 3)])
MORE = coco({1: "person", 2: "tv", 3: "hair drier", 4: "unused"}, {1: "a.png", 5: "b.png"}, [(5, 2), (1, 1), (5, 3)])
MAP = {"person": "Person", "tv": "Monitor/TV", "hair drier": None}


def test_classes_are_those_of_the_first_file_and_nothing_is_mixed_up(job: ModuleType):
    found = job.merged(FEW, MORE, MAP, ("few", "more"))
    assert found["categories"] == FEW["categories"]
    files = {image["id"]: image["file_name"] for image in found["images"]}
    assert files == {1: "few/a.png", 2: "more/a.png", 3: "more/b.png"}
    kinds = {kind["id"]: kind["name"] for kind in found["categories"]}
    said = [(box["id"], files[box["image_id"]], kinds[box["category_id"]]) for box in found["annotations"]]
    # the hair drier's box is left out; "unused" is no class of the first file, but has no box
    assert said == [
        (1, "few/a.png", "Lamp"),
        (2, "few/a.png", "Person"),
        (3, "more/b.png", "Monitor/TV"),
        (4, "more/a.png", "Person"),
    ]


def test_a_class_that_the_first_file_has_not_is_named(job: ModuleType):
    with pytest.raises(DataError, match=r"that the first has not: hair drier; give them .* --class-map"):
        job.merged(FEW, MORE, {"person": "Person", "tv": "Monitor/TV"}, ("few", "more"))


def test_what_would_be_mixed_up_is_refused(job: ModuleType):
    with pytest.raises(DataError, match=r"all/a\.png is there 2 times, in both files together"):
        job.merged(FEW, MORE, MAP, ("all", "all"))
    with pytest.raises(DataError, match="--class-map names sofa, which the second file has not"):
        job.merged(FEW, MORE, {**MAP, "sofa": "Lamp"}, ("few", "more"))
    twice = {**MORE, "categories": [*MORE["categories"], {"id": 2, "name": "car"}]}
    with pytest.raises(DataError, match="category id 2 is there 2 times in one file"):
        job.merged(FEW, twice, MAP, ("few", "more"))
    lvis = {**MORE, "categories": [{**kind, "frequency": "r"} for kind in MORE["categories"]]}
    with pytest.raises(DataError, match="LVIS files, whose categories have a frequency"):
        job.merged(FEW, lvis, MAP, ("few", "more"))


def test_the_command_writes_a_set_that_raydet_reads(
    job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name, content in (("few", FEW), ("more", MORE), ("map", MAP)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    for number, file in enumerate(("few/a.png", "more/a.png", "more/b.png")):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (number * 90, 10, 200)).save(tmp_path / file)
    words = ["merge_coco.py", *(str(tmp_path / f"{name}.json") for name in ("few", "more")), "--images"]
    words += [str(tmp_path / "few"), str(tmp_path / "more"), "--class-map", str(tmp_path / "map.json")]
    out = tmp_path / "labeled.json"
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(out)])
    assert job.main() == 0
    assert (
        f"3 images, 4 annotations, 3 categories\ndata.labeled: {{path: {out}, images: {tmp_path}}}"
        in capsys.readouterr().out
    )
    assert raydet(["check-data", str(out), "--images", str(tmp_path)]) == 0
    with pytest.raises(DataError, match="exists already and is not overwritten"):
        job.main()
    out.unlink()
    (tmp_path / "more").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"--images .*/more: no such folder"):
        job.main()
    (tmp_path / "elsewhere").rename(tmp_path / "more")
    (tmp_path / "few.json").write_text(json.dumps({"images": []}))
    with pytest.raises(DataError, match=r"few\.json: not a COCO file: 'annotations' is not a list"):
        job.main()
    assert not out.exists()
