"""Labelled images withheld for evaluation where no validation set was given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.data.withheld import withheld
from raydet.errors import ConfigError, DataError
from raydet.registry import family_of
from tests.helpers import tiny_classes, tiny_config


def draw(classes_of: list[list[int]], count: int, seed: int = 0) -> list[int]:
    """Image n has id str(n) and shows each class in `classes_of[n]`."""
    rows = np.array([n for n, classes in enumerate(classes_of) for _ in classes], dtype=np.int64)
    classes = np.array([c for classes in classes_of for c in classes], dtype=np.int64)
    return withheld([str(n) for n in range(len(classes_of))], rows, classes, seed, count).tolist()


def test_the_only_image_of_a_class_is_never_withheld():
    # class 1 is in image 2 alone; of the three images of class 0 one has to stay, and image 2 shows it too
    assert {tuple(draw([[0], [0], [0, 1]], 2, seed)) for seed in range(20)} == {(0, 1)}


def test_an_image_that_shows_nothing_stays():
    assert draw([[], [0, 0], [0]], 1) in ([1], [2])


def test_more_than_the_classes_can_spare_is_refused():
    with pytest.raises(
        DataError, match=r"val_count is 2, but only 1 of 2 labelled images .* lower it, or give data.val"
    ):
        draw([[0], [0]], 2)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sets(st.integers(0, 4)), min_size=1, max_size=20), st.integers(1, 6), st.integers(0, 9))
def test_every_class_that_was_there_is_left(classes_of: list[set[int]], count: int, seed: int):
    try:
        rows = draw([sorted(classes) for classes in classes_of], count, seed)
    except DataError:
        return
    left = set().union(*(classes for n, classes in enumerate(classes_of) if n not in rows))
    assert len(rows) == count and left == set().union(*classes_of)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 8), st.integers(0, 9))
def test_a_larger_number_contains_the_smaller_one(count: int, seed: int):
    classes_of = [[n % 2] for n in range(12)]
    assert set(draw(classes_of, count, seed)) <= set(draw(classes_of, count + 1, seed))


def test_a_run_evaluates_on_what_it_withholds_and_never_trains_on_it(tmp_path: Path):
    config = tiny_config(tmp_path, data__val=None, data__val_count=4, data__labeled_count=8)
    data = family_of(config).prepare(config, tmp_path / "data")
    assert data.val is not None and data.unlabeled is not None
    sets = [{one.id_at(row) for row in range(len(one))} for one in (data.labeled, data.unlabeled, data.val)]
    assert [len(ids) for ids in sets] == [8, 12, 4] and len(set().union(*sets)) == 24  # 24 generated images in all


def test_classes_are_withheld_too_and_check_data_counts_the_same(tmp_path: Path):
    config = tiny_classes(tmp_path, data__val=None, data__val_count=6)
    data = family_of(config).prepare(config, tmp_path / "data")
    assert data.val is not None and data.unlabeled is not None
    assert (len(data.labeled), len(data.unlabeled), len(data.val)) == (12, 36, 6)  # 54 = 3 x 4 + 36 + 6
    report = family_of(config).check_data(config, decode_images=False)
    assert (report.num_errors, report.num_labeled, report.num_unlabeled) == (0, 12, 36)


def test_another_number_is_another_split(tmp_path: Path):
    def prepare(count: int) -> None:
        config = tiny_config(tmp_path, data__val=None, data__val_count=count)
        family_of(config).prepare(config, tmp_path / "data")

    prepare(4)
    with pytest.raises(DataError, match=r"val_count: 4.*but the config says.*val_count: 5"):
        prepare(5)


def test_val_and_val_count_are_one_too_many(tmp_path: Path):
    with pytest.raises(ConfigError, match="val and val_count both"):
        tiny_config(tmp_path, data__val_count=4)


def test_withholding_leaves_nothing_unlabelled_by_itself(tmp_path: Path):
    with pytest.raises(ConfigError, match="needs unlabelled images"):
        tiny_config(tmp_path, data__val=None, data__val_count=4, data__labeled_count=None)
