"""Tiny data sets on disk, valid unless a test breaks them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raydet.config.box_data import DatasetConfig
from raydet.data.boxes.box_rules import OnBadBox
from raydet.data.boxes.formats.detect import read_source
from raydet.data.boxes.rules import usable
from raydet.data.boxes.source import Table
from raydet.data.problems import ProblemLog

Entry = dict[str, Any]


def write_image(path: Path, width: int = 100, height: int = 80, value: int = 0, **save: Any) -> Path:
    """A noise image (JPEG, PNG, ... by suffix); another `value` gives other content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **save)
    return path


def coco_content() -> Entry:
    """Two images of 100 x 80 pixels, two classes (ids 3 and 7), three boxes."""
    return {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80},
            {"id": 2, "file_name": "b.jpg", "width": 100, "height": 80},
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 20, 30, 40], "area": 900.0, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 7, "bbox": [0, 0, 50, 60], "area": 3000.0, "iscrowd": 0},
            {"id": 3, "image_id": 2, "category_id": 3, "bbox": [5.5, 6.5, 10, 10], "area": 100.0, "iscrowd": 0},
        ],
    }


def write_coco(folder: Path, content: Any = None, name: str = "data.json") -> Path:
    """Write a COCO JSON (default: `coco_content`) with the images it names."""
    content = coco_content() if content is None else content
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        write_image(folder / f"{'ab'[number]}.jpg", value=number)
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def read_table(path: Path | str, on_bad_box: OnBadBox = "error", **config: Any) -> tuple[Table, ProblemLog]:
    """Read and check a data set as training does, without raising what was only reported."""
    log = ProblemLog()
    source = read_source(DatasetConfig(path=str(path), **config), log)
    return usable(source, on_bad_box, log), log


def codes(log: ProblemLog, severity: str = "error") -> list[str]:
    """The codes of what was reported, in order."""
    return [problem.code for problem in log.problems if problem.severity == severity]


def text_of(log: Any, code: str) -> str:
    """The first message with that code."""
    return str(next(problem for problem in log.problems if problem.code == code))


def changed(section: str, number: int, **values: Any) -> dict[str, Any]:
    """The valid content with one entry changed; None removes the key."""
    content = coco_content()
    entry = content[section][number]
    entry.update(values)
    content[section][number] = {key: value for key, value in entry.items() if value is not None}
    return content
