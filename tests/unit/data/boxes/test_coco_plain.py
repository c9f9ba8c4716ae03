"""A batch of annotations gives what they give one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raydet.data.boxes.formats.coco_columns import CocoColumns
from raydet.data.boxes.formats.coco_plain import plain_annotations
from raydet.data.problems import ProblemLog

GOOD: dict[str, Any] = {
    "id": 4,
    "image_id": 1,
    "category_id": 3,
    "bbox": [10, 20.5, 30, 40],
    "area": 7.5,
    "iscrowd": 0,
}
numbers = (
    st.integers(-3, 99) | st.floats(-3, 99) | st.sampled_from([math.nan, math.inf, True, None, "7", 10**400, 2**64])
)
odd: dict[str, st.SearchStrategy[Any]] = {
    "id": numbers,
    "image_id": st.sampled_from([1, 2, "1", "a", 2**63, True, None]),
    "category_id": st.sampled_from([3, 4, 3.0, False, 2**63]),
    "bbox": st.lists(numbers, min_size=3, max_size=5) | st.sampled_from([(1, 2, 3, 4), None, "1234"]),
    "area": numbers,
    "iscrowd": st.sampled_from([0, 1, True, False, None, 2, 1.0, "1", []]),
    "rotation": st.sampled_from([0, 30.0]),
    "angle": st.just(30),
    "attributes": st.sampled_from([{"rotation": 30}, {"rotation": 180}, {}, 5]),
}
entries = st.fixed_dictionaries({}, optional=odd).map(lambda changed: {**GOOD, **changed})
lists = st.lists(st.just(GOOD) | entries | st.sampled_from([None, {}, [1]]), min_size=1, max_size=5)


def columns_of(batches: list[list[Any]]) -> tuple[list[str], list[list[Any]], frozenset[int]]:
    """The messages and the boxes of annotations that come in these batches."""
    log = ProblemLog()
    columns = CocoColumns(Path("x.json"), log)
    columns.categories(0, [{"id": 3, "name": "cat"}])
    columns.images(0, [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}])
    first = 0
    for batch in batches:
        columns.annotations(first, batch)
        first += len(batch)
    found = columns.source(Path("/"))
    rows = [found.rows, found.classes, found.boxes, found.crowd, found.areas, found.tags]
    return [str(problem) for problem in log.problems], [each.tolist() for each in rows], found.spoilt


@given(given_entries=lists)
@example([GOOD, {**GOOD, "id": -1}])
@example([GOOD, {**GOOD, "category_id": 2**63}])
@example([GOOD, {**GOOD, "bbox": [10**400, 1, 1, 1]}])
@settings(max_examples=300)
def test_a_batch_gives_what_its_annotations_give_one_by_one(given_entries: list[Any]) -> None:
    together = columns_of([given_entries])
    # A number behind that cannot be read sends its whole batch the careful way, entry by entry.
    carefully = columns_of([[each, "malformed"] for each in given_entries])
    numbered = [text for text in carefully[0] if "annotation-malformed" not in text]
    if not any("annotations[" in text for text in together[0] + numbered):  # places of entries without an id differ
        assert together[0] == numbered
    np.testing.assert_equal(together[1][:5], carefully[1][:5])
    assert together[2] == carefully[2]


def test_plain_annotations_become_columns() -> None:
    found = plain_annotations([GOOD, {**GOOD, "id": 5, "bbox": [0, 0, 1, 2], "iscrowd": 1, "area": 2}])
    assert found is not None
    assert found.tags.tolist() == [4, 5] and found.image_ids == [1, 1] and found.categories.tolist() == [3, 3]
    assert found.boxes.tolist() == [[10, 20.5, 40, 60.5], [0, 0, 1, 2]]  # x + width, y + height
    assert found.crowd.tolist() == [False, True] and found.areas.tolist() == [7.5, 2]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", -1),
        ("id", True),
        ("image_id", "1"),
        ("image_id", 2**63),
        ("category_id", 3.0),
        ("bbox", [1, 2, 3]),
        ("bbox", [1, 2, 3, True]),
        ("bbox", [10**400, 2, 3, 4]),
        ("area", -1),
        ("area", math.nan),
        ("area", None),  # beside one that is given
        ("iscrowd", 2),
        ("iscrowd", "1"),
        ("rotation", 30),
        ("attributes", {"rotation": 30}),
    ],
)
def test_what_needs_a_closer_look_is_not_plain(key: str, value: Any) -> None:
    assert plain_annotations([GOOD, {**GOOD, "id": 5}]) is not None
    assert plain_annotations([GOOD, {**GOOD, "id": 5, key: value}]) is None
