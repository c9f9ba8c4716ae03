"""K boxes of every class, and the novel classes of few-shot detection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.config.box_data import DataConfig
from raydet.config.paper_splits import NOVEL_CLASSES
from raydet.data.boxes.source import Table
from raydet.data.boxes.splits import choose_rows, thinned
from raydet.errors import ConfigError, DataError
from raydet.families.detection.data import BOXES
from raydet.settings import resolve
from tests.helpers import data_folder
from tests.tiny_data import coco_content, read_table, write_coco

NAMES = ("bird", "bus", "cow")


def table_of(images: list[list[int]], crowd: tuple[int, ...] = ()) -> Table:
    """A table of images that hold a box of each class given; `crowd` numbers boxes that are crowd."""
    counts = [len(each) for each in images]
    classes = np.array([label for each in images for label in each], dtype=np.int64)
    numbers = np.arange(len(classes))
    return Table(
        root=Path("/"),
        class_names=NAMES,
        ids=[f"i{row}" for row in range(len(images))],
        files=[f"{row}.jpg" for row in range(len(images))],
        sizes=np.full((len(images), 2), 10_000, dtype=np.int64),
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=np.stack([numbers, numbers, numbers + 5.0, numbers + 5.0], axis=1),  # each says which one it is
        classes=classes,
        crowd=np.isin(numbers, crowd),
        areas=np.full(len(classes), 25.0),
    )


def config(**data: Any) -> DataConfig:
    return DataConfig.model_validate({"labeled": "x", **data})


def shot(table: Table, shots: int, seed: int = 0) -> Table:
    """What is labelled of a table."""
    chosen = config(shots_per_class=shots, split_seed=seed)
    return thinned(chosen, table.take(choose_rows(chosen, table)))


def picked(table: Table) -> set[int]:
    """The numbers of the boxes of a table."""
    return set(table.boxes[:, 0].astype(int).tolist())


IMAGES = st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=15).filter(
    lambda images: all(sum(each.count(label) for each in images) >= 3 for label in range(3))
)


@given(images=IMAGES, shots=st.integers(1, 3), seed=st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_exactly_so_many_boxes_of_each_class_are_labelled_and_no_image_is_without(
    images: list[list[int]], shots: int, seed: int
):
    whole = table_of(images)
    found = shot(whole, shots, seed)
    assert np.bincount(found.classes, minlength=3).tolist() == [shots] * 3
    assert (np.diff(found.first) > 0).all()
    assert len(picked(found)) == 3 * shots  # none twice
    assert picked(found) == picked(shot(whole, shots, seed))  # the same every time
    if shots > 1:
        assert picked(shot(whole, shots - 1, seed)) < picked(found)


def test_other_objects_of_the_images_that_were_picked_are_not_labelled():
    # One image holds all: of its three birds and two buses one each stays, beside the only cow.
    found = shot(table_of([[0, 0, 0, 1, 1, 2]]), 1)
    assert found.classes.tolist() == [0, 1, 2] and len(found) == 1


def test_seeds_choose_differently_and_evenly_and_the_order_of_the_images_does_not_matter():
    whole = table_of([[0]] * 10 + [[1, 2]])
    times = np.zeros(10)
    for seed in range(500):
        times[min(picked(shot(whole, 1, seed)))] += 1
    # Each of ten birds: binomial(500, 1/10), standard deviation 6.7; 5 of them are 34.
    assert np.abs(times - 50).max() < 34
    backwards = whole.take(np.arange(11)[::-1])
    assert picked(shot(whole, 1, 3)) == picked(shot(backwards, 1, 3))


def test_within_an_image_the_same_boxes_are_chosen_whatever_other_images_there_are():
    whole = table_of([[1], [2], [0] * 6])
    for seed in range(8):
        alone = whole.take(np.array([2, 0, 1]))
        assert picked(shot(whole, 1, seed)) == picked(shot(alone, 1, seed))


def test_the_shots_of_one_class_do_not_depend_on_another_one():
    # Without the images of cows alone the birds that are chosen stay the same.
    whole = table_of([[0]] * 8 + [[1], [2], [2], [2]])
    for seed in range(5):
        birds = {box for box in picked(shot(whole, 1, seed)) if box < 8}
        assert birds == {box for box in picked(shot(whole.take(np.arange(10)), 1, seed)) if box < 8}


def test_crowd_boxes_are_no_shots_and_do_not_stay():
    # Box 0 is a crowd of birds in the image of the only other bird, box 1.
    for seed in range(8):
        found = shot(table_of([[0, 0], [1], [2]], crowd=(0,)), 1, seed)
        assert picked(found) == {1, 2, 3} and not found.crowd.any()


def test_classes_with_fewer_boxes_are_named_with_their_number():
    with pytest.raises(DataError) as error:
        shot(table_of([[0, 0, 0], [1, 1], [1]], crowd=(3,)), 3)
    assert str(error.value) == (
        "data.shots_per_class is 3, but of the boxes to train on class 'bus' has 2, 'cow' has 0; lower it, add boxes, "
        "or leave such classes out (data.labeled.class_map: {NAME: null})"
    )


def test_a_run_saves_the_split_labels_the_chosen_boxes_and_leaves_the_rest_unlabelled(tmp_path: Path):
    # Image 1 shows a cat and the only dog, image 2 a cat: either both shots lie in image 1, or its cat is not labelled.
    labeled = str(write_coco(tmp_path, coco_content()))
    seen = set()
    for seed in range(12):
        folder, chosen = tmp_path / f"run{seed}", config(labeled=labeled, shots_per_class=1, split_seed=seed)
        for _ in range(2):  # drawn, then read
            sets = BOXES.prepare(chosen, folder)
            ids = [sets.labeled.id_at(row) for row in range(len(sets.labeled))]
            assert sets.labeled.boxes_per_class().tolist() == [1, 1]
        split = json.loads((folder / "split.json").read_text())
        assert (split["rule"], split["labeled"]) == ({"shots_per_class": 1, "split_seed": seed}, ids)
        assert ids == (["1"] if sets.unlabeled is not None else ["1", "2"])
        assert len(sets.labeled.target_at(0).classes) == (1 if ids == ["1", "2"] else 2)
        seen.add(len(ids))
    assert seen == {1, 2}
    with pytest.raises(DataError, match="made with shots_per_class: 1, split_seed: 0, but the config says"):
        BOXES.prepare(config(labeled=labeled, shots_per_class=2), tmp_path / "run0")


def test_images_that_were_withheld_lend_no_shots():
    # Of four birds alone in their images three can be withheld; the other images show the last bus and cow.
    whole = table_of([[0], [0], [0], [0], [1, 2]])
    assert len(BOXES.trained_on(config(shots_per_class=1, val_count=3), whole)) == 2
    with pytest.raises(DataError, match="'bird' has 1, 'bus' has 1, 'cow' has 1; lower it"):
        BOXES.trained_on(config(shots_per_class=2, val_count=3), whole)


def test_real_data_give_five_shots_and_refuse_more_than_there_are():
    table, _ = read_table(data_folder("foda_lt") / "annotations" / "train.json")
    assert (shot(table, 5).usable_per_class() == 5).all()
    with pytest.raises(DataError, match="'Wood' has 7, 'Screw' has 7, 'Tape' has 6"):
        shot(table, 8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"shots_per_class": 0}, "data.shots_per_class=0: .*greater than or equal to 1"),
        ({"shots_per_class": "many"}, "data.shots_per_class"),
        ({"shots_per_class": 1.5}, "data.shots_per_class"),
        ({"shots_per_class": 1, "labeled_count": 5}, "shots_per_class and labeled_count both choose"),
        ({"shots_per_class": 1, "labeled_fraction": 0.1}, "shots_per_class and labeled_fraction both choose"),
        ({"shots_per_class": 1, "labeled_ids": "x.txt"}, "shots_per_class and labeled_ids both choose"),
        (
            {"shots_per_class": 1, "split": {"minority_classes": ["cow"], "keep_images_per_minority": 1}},
            "shots_per_class and split.keep_images_per_minority both choose the boxes",
        ),
        ({"split": {"novel_classes": ["cow"], "minority_classes": ["bus"]}}, "both divide the classes in two"),
        ({"split": {"novel_classes": "voc_split4"}}, "data.split.novel_classes"),
        ({"shots_per_klass": 1}, "data.shots_per_klass: unknown key.*shots_per_class"),
    ],
)
def test_what_cannot_be_meant_is_refused(data: dict[str, Any], message: str):
    given = {"run": {"dir": "x"}, "method": {"name": "supervised"}, "model": {"backbone": "small_gn"}}
    with pytest.raises(ConfigError, match=message):
        resolve({**given, "data": {"labeled": "x.json", **data}}, {})


def test_shots_are_for_boxes_alone():
    given = {"run": {"dir": "x"}, "method": {"name": "supervised_classifier"}}
    with pytest.raises(ConfigError, match="data.shots_per_class: unknown key: for detectors"):
        resolve({**given, "data": {"labeled": "x", "shots_per_class": 1}}, {})


def test_novel_classes_that_do_not_exist_are_refused_and_the_lists_are_the_published_ones():
    with pytest.raises(DataError, match=r"data.split.novel_classes: 'aeroplane' is no class of the labelled set"):
        thinned(config(split={"novel_classes": "voc_split2"}), table_of([[0, 1, 2]]))
    assert NOVEL_CLASSES == {
        "voc_split1": ("bird", "bus", "cow", "motorbike", "sofa"),
        "voc_split2": ("aeroplane", "bottle", "cow", "horse", "sofa"),
        "voc_split3": ("boat", "cat", "motorbike", "sheep", "sofa"),
    }
