"""Small copies of published layouts."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tiny_data import write_image


def cub(folder: Path) -> Path:
    """Two classes, three images: the second and third train."""
    names = ("001.Black_footed_Albatross/a.jpg", "001.Black_footed_Albatross/b.jpg", "002.Crow/c.jpg")
    for number, name in enumerate(names):
        write_image(folder / "images" / name, value=number)
    lists = {
        "images.txt": [f"{i} {name}" for i, name in enumerate(names, 1)],
        "image_class_labels.txt": ["1 1", "2 1", "3 2"],
        "classes.txt": ["1 001.Black_footed_Albatross", "2 002.Crow"],
        "bounding_boxes.txt": ["1 60.0 27.0 30.0 40.0", "2 1.0 2.0 3.0 4.0", "3 0.0 0.0 100.0 80.0"],
        "train_test_split.txt": ["1 0", "2 1", "3 1"],
    }
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def coco(folder: Path, *boxes: tuple[int, int, list[float]], crowd: int = 0) -> Path:
    """Two images of 100 x 80; boxes are (image, category, xywh); categories 1 cat, 2 dog."""
    for number in (1, 2):
        write_image(folder / f"{number}.jpg", value=number)
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 80} for n in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd if i == 0 else 0}
            for i, (image, category, box) in enumerate(boxes)
        ],
    }
    file = folder / "boxes.json"
    file.write_text(json.dumps(content))
    return file


ONE_EACH = ((1, 1, [10.0, 20, 30, 40]), (2, 2, [0.0, 0, 50, 60]))
