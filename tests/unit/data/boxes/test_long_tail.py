"""Minority classes that are made rare, and classes under other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.config.box_data import DataConfig
from raydet.config.paper_splits import MINORITY_CLASSES
from raydet.data.boxes.source import Table
from raydet.data.boxes.splits import thinned
from raydet.errors import DataError
from raydet.families.detection.data import BOXES
from tests.tiny_data import coco_content, codes, read_table, write_coco, write_image

NAMES = ("car", "sheep", "cow")


def table_of(images: list[list[int]]) -> Table:
    """A table of images that hold a box of each class given."""
    counts = [len(each) for each in images]
    classes = np.array([label for each in images for label in each], dtype=np.int64)
    boxes = np.tile([[0.0, 0.0, 5.0, 5.0]], (len(classes), 1))
    return Table(
        root=Path("/"),
        class_names=NAMES,
        ids=[f"i{row}" for row in range(len(images))],
        files=[f"{row}.jpg" for row in range(len(images))],
        sizes=np.full((len(images), 2), 10, dtype=np.int64),
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        classes=classes,
        crowd=np.zeros(len(classes), dtype=np.bool_),
        areas=np.full(len(classes), 25.0),
    )


def config(**split: Any) -> DataConfig:
    return DataConfig.model_validate({"labeled": "x", "split": split})


def classes_of(table: Table) -> list[list[int]]:
    return [table.classes[a:b].tolist() for a, b in zip(table.first, table.first[1:], strict=False)]


IMAGES = st.lists(st.lists(st.integers(0, 2), max_size=4), min_size=1, max_size=20)


@given(images=IMAGES, keep=st.integers(0, 4), seed=st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_minority_classes_are_left_in_a_few_images_and_become_background_in_the_others(
    images: list[list[int]], keep: int, seed: int
):
    settings_ = config(minority_classes=("sheep", "cow"), keep_images_per_minority=keep)
    settings_ = settings_.model_copy(update={"split_seed": seed})
    table = table_of(images)
    found = classes_of(thinned(settings_, table))
    whole = [before == after for before, after in zip(images, found, strict=True)]
    for before, after, is_whole in zip(images, found, whole, strict=True):
        assert after == before or after == [label for label in before if label == 0], is_whole
    for label in (1, 2):
        there = sum(label in each for each in images)
        assert sum(label in each for each in found) >= min(keep, there)
    kept = {row for row, (before, after) in enumerate(zip(images, found, strict=True)) if {1, 2} & set(after)}
    assert len(kept) <= 2 * keep
    assert classes_of(thinned(settings_, table)) == found  # the same every time


def test_every_image_of_a_minority_class_may_keep_its_boxes():
    table = table_of([[0, 1], [1], [2]])
    assert thinned(config(minority_classes=("sheep",)), table) is table
    assert classes_of(thinned(config(minority_classes=("sheep",), keep_images_per_minority=0), table)) == [[0], [], [2]]


def cat_and_dog(folder: Path, count: int, first: int = 0) -> str:
    """A COCO JSON of so many images, each of a cat and a dog; another `first` gives other pictures."""
    numbers = range(first, first + count)
    for n in numbers:
        write_image(folder / f"{n}.jpg", value=n)
    content = coco_content()
    content["images"] = [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 80} for n in numbers]
    content["annotations"] = [
        {"id": 2 * n + k, "image_id": n, "category_id": (3, 7)[k], "bbox": [8 * k, 9, 30, 40], "iscrowd": 0}
        for n in numbers
        for k in (0, 1)
    ]
    (folder / "boxes.json").write_text(json.dumps(content))
    return str(folder / "boxes.json")


@pytest.mark.parametrize("layout", ["one set", "sets of their own"])
def test_unlabelled_images_and_evaluation_keep_what_is_known_of_them(tmp_path: Path, layout: str):
    if layout == "one set":  # 10 = 3 labelled + 5 unlabelled + 2 to evaluate on
        sets: dict[str, Any] = {"labeled": cat_and_dog(tmp_path / "a", 10), "labeled_count": 3, "val_count": 2}
    else:
        names = {"labeled": (3, 0), "unlabeled": (5, 10), "val": (2, 20)}
        sets = {name: cat_and_dog(tmp_path / name, count, first) for name, (count, first) in names.items()}
    rare = {"minority_classes": ["dog"], "keep_images_per_minority": 1}
    found = BOXES.prepare(DataConfig.model_validate({**sets, "split": rare}), tmp_path / "data")
    hidden = BOXES.open_hidden(tmp_path / "data")
    assert found.class_names == ("cat", "dog")
    assert found.labeled.boxes_per_class().tolist() == [3, 1]
    assert hidden is not None and hidden.boxes_per_class().tolist() == [5, 5]
    assert found.val is not None and found.val.boxes_per_class().tolist() == [2, 2]
    assert found.unlabeled is not None and found.unlabeled.boxes_per_class().tolist() == [0, 0]
    rows = range(len(hidden))
    assert [hidden.id_at(row) for row in rows] == [found.unlabeled.id_at(row) for row in rows]


def test_rare_classes_that_leave_no_box_at_all_are_refused(tmp_path: Path):
    data = DataConfig.model_validate(
        {
            "labeled": str(write_coco(tmp_path)),
            "labeled_count": 1,
            "split_seed": 3,
            "split": {"minority_classes": ["dog", "cat"], "keep_images_per_minority": 0},
        }
    )
    with pytest.raises(DataError, match="keep_images_per_minority=0 leaves no box in 1 labelled image"):
        BOXES.prepare(data, tmp_path / "data")


def test_a_minority_class_that_does_not_exist_is_refused():
    with pytest.raises(DataError, match="data.split.minority_classes: 'shep' is no class.*sheep"):
        thinned(config(minority_classes=("shep",), keep_images_per_minority=1), table_of([[0]]))


def test_a_number_of_images_needs_classes():
    with pytest.raises(ValueError, match="keep_images_per_minority needs minority_classes"):
        config(keep_images_per_minority=3)


def test_the_published_lists_have_their_sizes():
    assert [len(MINORITY_CLASSES[name]) for name in ("coco_split1", "coco_split2")] == [20, 40]
    assert all(len(set(names)) == len(names) for names in MINORITY_CLASSES.values())
    assert config(minority_classes="coco_split1").split.minority[0] == "person"


# --- class maps ------------------------------------------------------------------------------------------------------


def three_classes() -> dict[str, Any]:
    content = coco_content()  # image 1: cat, dog; image 2: cat
    content["categories"].append({"id": 9, "name": "bird"})
    content["annotations"][2]["category_id"] = 9
    return content


def test_classes_get_other_names_become_one_or_are_left_out(tmp_path: Path):
    file = write_coco(tmp_path, three_classes())
    table, log = read_table(file, class_map={"cat": "pet", "dog": "pet", "bird": None})
    assert codes(log) == [] and table.class_names == ("pet",)
    assert classes_of(table) == [[0, 0], []]
    table, _ = read_table(file, class_map={"dog": "hound"})
    assert table.class_names == ("cat", "hound", "bird")


def test_a_map_may_be_a_file(tmp_path: Path):
    (tmp_path / "map.json").write_text(json.dumps({"cat": "pet"}))
    table, _ = read_table(write_coco(tmp_path / "set", three_classes()), class_map=str(tmp_path / "map.json"))
    assert table.class_names == ("pet", "dog", "bird")


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), ("[1]", "expected an object"), ('{"a": 3}', "expected an object"), ("{", "not readable")],
)
def test_a_file_that_is_no_map_is_refused(tmp_path: Path, content: str | None, said: str):
    if content is not None:
        (tmp_path / "map.json").write_text(content)
    with pytest.raises(DataError, match=said):
        read_table(write_coco(tmp_path / "set"), class_map=str(tmp_path / "map.json"))


def test_a_class_that_is_not_there_is_reported(tmp_path: Path):
    _, log = read_table(write_coco(tmp_path), class_map={"cta": "pet"})
    assert codes(log) == ["class-map-unknown"] and "its classes: cat, dog" in str(log.problems[0])


def test_coco_maps_onto_eighty_classes_of_objects365():
    file = Path(__file__).parents[4] / "jobs" / "class_maps" / "coco_to_objects365.json"
    found = json.loads(file.read_text())
    assert len(found) == len(set(found.values())) == 80
    assert set(MINORITY_CLASSES["coco_split1"]) | set(MINORITY_CLASSES["coco_split2"]) <= set(found)
