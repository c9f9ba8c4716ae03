"""LVIS files: which classes were looked for in an image, from the JSON to the index and to a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet.data.boxes.class_names import renumbered
from raydet.data.boxes.federated import Federated
from raydet.data.boxes.index import DatasetIndex, write_index
from raydet.data.problems import ProblemLog
from raydet.families.detection.data import BOXES
from raydet.families.detection.method import DetectionMethod
from raydet.families.detection.report.history import pair_of
from raydet.families.detection.run import DetectionRun
from raydet.families.detection.thresholds.inputs import true_label
from raydet.group import Group
from raydet.records import PseudoBoxes, TeacherRef
from raydet.registry import build_method
from tests.helpers import tiny_config
from tests.tiny_data import coco_content, codes, read_table, write_coco


def lvis_content() -> dict[str, Any]:
    """`coco_content`, with a third class, as LVIS writes it: image 1 has boxes of cat and dog, image 2 of cat.

    In image 1 dogs are not all annotated; in image 2 there is no bird, and nobody looked for dogs.
    """
    content = coco_content()
    content["categories"] = [
        {"id": 7, "name": "dog", "frequency": "c"},
        {"id": 3, "name": "cat", "frequency": "f"},
        {"id": 9, "name": "bird", "frequency": "r"},
    ]
    content["images"][0] |= {"neg_category_ids": [], "not_exhaustive_category_ids": [7]}
    content["images"][1] |= {"neg_category_ids": [9], "not_exhaustive_category_ids": []}
    return content


def test_lists_and_frequencies_get_the_class_numbers_of_the_set(tmp_path: Path):
    table, log = read_table(write_coco(tmp_path, lvis_content()))
    assert codes(log) == [] and table.class_names == ("cat", "dog", "bird") and table.federated is not None
    assert table.federated.frequency == ("f", "c", "r")
    assert [each.tolist() for each in table.federated.negative] == [[], [2]]
    assert [each.tolist() for each in table.federated.partial] == [[1], []]


def test_the_index_says_which_classes_are_nowhere_without_a_box(tmp_path: Path):
    table, _ = read_table(write_coco(tmp_path, lvis_content()))
    write_index(tmp_path / "data.arrow", table)
    index = DatasetIndex.open(tmp_path / "data.arrow")
    # Image 1: cats, all of them with boxes; not dogs; birds nobody looked for. Image 2: cats, and birds: there is none.
    assert [index.verified_at(row).tolist() for row in (0, 1)] == [[0], [0, 2]]
    assert index.target_at(1).verified.tolist() == [0, 2]
    assert index.target_at(1).where(np.array([False])).verified.tolist() == [0, 2]
    said = PseudoBoxes(
        index.id_at(1), TeacherRef(0, ""), torch.zeros(1, 4), torch.tensor([1]), torch.ones(1), torch.ones(1), 0.05
    )
    for beside in (true_label(said, index), pair_of(said, index)):
        assert beside.verified is not None and beside.verified.tolist() == [0, 2]
    index.seen_as = np.array([1, 1])  # image 1 turned out to be damaged: what is known is that of the one seen instead
    assert index.verified_at(0).tolist() == [0, 2]
    turned = table.take(np.array([1, 0]))
    assert [each.tolist() for each in turned.federated.negative] == [[2], []]
    assert table.without_boxes().federated is None


@pytest.mark.parametrize(("federated", "expected"), [(True, {"1": [0], "2": [0, 2]}), (False, {"1": None, "2": None})])
def test_a_batch_says_which_classes_were_looked_for_unless_told_not_to(
    tmp_path: Path, federated: bool, expected: dict[str, list[int] | None]
):
    # The cat of image 2, 10 pixels in 80, has 4 in 32: it is dropped, and cats were looked for there all the same.
    config = tiny_config(
        tmp_path / "run",
        method={"name": "supervised"},
        data__labeled=str(write_coco(tmp_path, lvis_content())),
        data__federated=federated,
        data__views={"short_side": [32], "max_long_side": 40, "min_box_px": 5.0},
        data__labeled_count=None,
        data__val=None,
        optim__labeled_batch=2,
    )
    data, method = BOXES.prepare(config.data, tmp_path / "data"), build_method(config)
    assert isinstance(method, DetectionMethod)
    loader = DetectionRun(data, method, Group()).build_loader()
    taken = loader.take(0)
    loader.close()
    found = {view.image_id: view.target for view in taken.labeled}  # a weak and a strong view share it
    assert {key: None if each.verified is None else each.verified.tolist() for key, each in found.items()} == expected
    assert {key: len(each) for key, each in found.items()} == {"1": 2, "2": 0} and taken.dropped_boxes == 1


def test_usual_data_sets_say_nothing_of_it(tmp_path: Path):
    table, _ = read_table(write_coco(tmp_path))
    write_index(tmp_path / "data.arrow", table)
    index = DatasetIndex.open(tmp_path / "data.arrow")
    assert table.federated is None and index.federated is None and index.target_at(0).verified is None


def test_class_numbers_of_another_set_reach_the_lists(tmp_path: Path):
    table, _ = read_table(write_coco(tmp_path, lvis_content()))
    log = ProblemLog()
    found = renumbered(table, ("bird", "dog", "cat"), "x", log)
    assert found.federated is not None and found.federated.frequency == ("r", "c", "f")
    assert [each.tolist() for each in found.federated.negative] == [[], [0]]
    assert [each.tolist() for each in found.federated.partial] == [[1], []]


def test_lvis_names_files_by_their_address(tmp_path: Path):
    content = lvis_content()
    for image, name in zip(content["images"], "ab", strict=True):
        del image["file_name"]
        image["coco_url"] = f"http://images.example.org/{tmp_path.name}/{name}.jpg"
    file = write_coco(tmp_path, content)
    table, log = read_table(file, images=str(tmp_path.parent))
    assert codes(log) == [] and [Path(name).name for name in table.files] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda c: c["images"][1].pop("neg_category_ids"), "lvis-negative-missing", "no neg_category_ids"),
        (lambda c: c["images"][0].update(neg_category_ids=[4]), "lvis-category-ids", "names the category 4, which"),
        (lambda c: c["images"][0].update(not_exhaustive_category_ids="7"), "lvis-category-ids", "got '7'"),
        (lambda c: c["categories"][0].update(frequency="often"), "category-frequency", "got 'often'"),
    ],
)
def test_lists_that_are_missing_or_wrong_are_reported(tmp_path: Path, spoil: Any, code: str, said: str):
    content = lvis_content()
    spoil(content)
    _, log = read_table(write_coco(tmp_path, content))
    assert codes(log) == [code]
    assert said in str(log.problems[0])


def test_an_lvis_file_without_any_negative_list_is_refused(tmp_path: Path):
    content = lvis_content()
    for image in content["images"]:
        del image["neg_category_ids"]
    _, log = read_table(write_coco(tmp_path, content))
    assert codes(log) == ["lvis-negative-missing"] * 2


def test_a_class_of_several_is_absent_where_all_of_them_are_and_as_frequent_as_the_most_frequent():
    # cat (0) and dog (1) become pet (0), bird (2) becomes 1; `rows` and `classes` are image and class of every box.
    numbers = np.array([0, 0, 1])
    absent = [np.array([0]), np.array([0, 1]), np.array([0]), np.array([2]), np.array([], int)]
    partial = [np.array([], int)] * 4 + [np.array([1])]
    one = Federated(absent, partial, ("f", "r", "c"))
    rows, classes = np.array([4, 2, 3]), np.array([1, 1, 0])
    merged = one.merged(numbers, rows, classes)
    assert merged.frequency == ("f", "c")  # pet is in at least as many images as cat
    # No cat, but who looked for dogs? Neither cat nor dog. A dog. A cat. A dog.
    assert [each.tolist() for each in merged.negative] == [[], [0], [], [1], []]
    # With a dog and no cat all pets have a box; with a cat, dogs may lack theirs; in the last image dogs lack some.
    assert [each.tolist() for each in merged.partial] == [[], [], [], [0], [0]]


def test_a_map_of_classes_merges_what_was_looked_for(tmp_path: Path):
    table, _ = read_table(write_coco(tmp_path, lvis_content()), class_map={"cat": "pet", "dog": "pet", "bird": "bird"})
    assert sorted(table.class_names) == ["bird", "pet"]
    pet = table.class_names.index("pet")
    assert table.federated.frequency[pet] == "f" and table.federated.frequency[1 - pet] == "r"
    # Image 1: dogs are not all annotated. Image 2: a cat, no bird, and nobody looked for dogs.
    assert [each.tolist() for each in table.federated.partial] == [[pet], [pet]]
    assert [each.tolist() for each in table.federated.negative] == [[], [1 - pet]]
