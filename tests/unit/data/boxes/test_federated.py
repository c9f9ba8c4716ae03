"""LVIS files: which classes were looked for in an image, from the JSON to the index and to a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet.config.box_data import DatasetConfig
from raydet.data.boxes.class_names import renumbered
from raydet.data.boxes.fix import fix_dataset
from raydet.data.boxes.index import DatasetIndex, write_index
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
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


def test_a_fixed_copy_knows_which_classes_were_looked_for(tmp_path: Path):
    content = lvis_content()
    del content["categories"][2]["frequency"]
    content["images"].insert(0, {"id": 5, "file_name": "none.jpg", "neg_category_ids": [3, 7]})  # is left out
    result = fix_dataset(DatasetConfig(path=str(write_coco(tmp_path, content))), "drop", tmp_path / "out" / "new.json")
    table, log = read_table(result.file, images=str(result.images))
    assert not log.problems and table.files == ["a.jpg", "b.jpg"] and table.class_names == ("cat", "dog", "bird")
    assert table.federated is not None and table.federated.as_json() == {
        "negative": [[], [2]],
        "partial": [[1], []],
        "frequency": ["f", "c", ""],
    }


@pytest.mark.parametrize("given", [None, [99], 7])
def test_a_file_that_does_not_say_what_was_looked_for_is_not_fixed(tmp_path: Path, given: Any):
    content = lvis_content()
    content["images"][0]["neg_category_ids"] = given
    with pytest.raises(DataError, match="image id 1: .*neg_category_ids"):
        fix_dataset(DatasetConfig(path=str(write_coco(tmp_path, content))), "drop", tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()


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


def pets(boxes: list[tuple[int, int]], **lists: list[int]) -> dict[str, Any]:
    """`lvis_content` with cat, dog and bird (3, 7, 9) in boxes of (image, category); `lists` are those of image 1."""
    content = lvis_content()
    content["images"][0] |= {"neg_category_ids": [], "not_exhaustive_category_ids": [], **lists}
    box = {"bbox": [10, 20, 30, 40], "area": 1200.0, "iscrowd": 0}
    content["annotations"] = [
        {"id": number, "image_id": image, "category_id": kind, **box} for number, (image, kind) in enumerate(boxes, 1)
    ]
    return content


@pytest.mark.parametrize(
    ("boxes", "lists", "negative", "partial", "verified"),
    [
        # pet is 0, bird is 1. No cat, nobody looked for dogs: a pet may be there.
        ([], {"neg_category_ids": [3]}, [], [], []),
        # neither cat nor dog: no pet
        ([], {"neg_category_ids": [3, 7]}, [0], [], [0]),
        # all cats have boxes and there is no dog: all pets have boxes
        ([(1, 3)], {"neg_category_ids": [7]}, [], [], [0]),
        # all cats have boxes, nobody looked for dogs: a pet without a box may be there
        ([(1, 3)], {}, [], [0], []),
        # all cats and all dogs have boxes
        ([(1, 3), (1, 7)], {}, [], [], [0]),
        # not all dogs have boxes
        ([(1, 3), (1, 7)], {"not_exhaustive_category_ids": [7]}, [], [0], []),
        # a class that is not merged: all birds have boxes
        ([(1, 9)], {"neg_category_ids": [3]}, [], [], [1]),
        ([], {"neg_category_ids": [9]}, [1], [], [1]),
    ],
)
def test_a_merged_class_was_looked_for_only_where_all_its_parts_were(
    tmp_path: Path,
    boxes: list[tuple[int, int]],
    lists: dict[str, list[int]],
    negative: list[int],
    partial: list[int],
    verified: list[int],
):
    file = write_coco(tmp_path, pets([*boxes, (2, 3)], **lists))
    table, log = read_table(file, class_map={"cat": "pet", "dog": "pet"})
    assert codes(log) == [] and table.class_names == ("pet", "bird") and table.federated is not None
    # Image 2 has a cat and no bird, and nobody looked for dogs: its pets are not all known.
    assert [each.tolist() for each in table.federated.negative] == [negative, [1]]
    assert [each.tolist() for each in table.federated.partial] == [partial, [0]]
    write_index(tmp_path / "data.arrow", table)
    index = DatasetIndex.open(tmp_path / "data.arrow")
    assert [index.verified_at(row).tolist() for row in (0, 1)] == [verified, [1]]


@pytest.mark.parametrize(
    ("class_map", "names", "frequency"),
    [
        # cat f, dog c, bird r: as frequent as the most frequent part, wherever it stands
        ({"cat": "pet", "dog": "pet"}, ("pet", "bird"), ("f", "r")),
        ({"bird": "dog"}, ("cat", "dog"), ("f", "c")),
        ({"cat": "pet", "dog": "pet", "bird": "pet"}, ("pet",), ("f",)),
        ({"cat": None, "bird": "dog"}, ("dog",), ("c",)),
        ({"cat": None, "dog": None, "bird": None}, (), ()),
    ],
)
def test_a_merged_class_is_as_frequent_as_its_most_frequent_part(
    tmp_path: Path, class_map: dict[str, str | None], names: tuple[str, ...], frequency: tuple[str, ...]
):
    table, _ = read_table(write_coco(tmp_path, lvis_content()), class_map=class_map)
    assert table.class_names == names and table.federated is not None and table.federated.frequency == frequency


def test_classes_with_other_names_and_without_any_keep_what_is_known_of_the_rest(tmp_path: Path):
    table, _ = read_table(write_coco(tmp_path, lvis_content()), class_map={"cat": None, "dog": "hound"})
    assert table.class_names == ("hound", "bird") and table.federated is not None
    # hound 0, bird 1: in image 1 not all hounds have boxes, in image 2 there is no bird
    assert table.federated.frequency == ("c", "r")
    assert [each.tolist() for each in table.federated.negative] == [[], [1]]
    assert [each.tolist() for each in table.federated.partial] == [[0], []]


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
