from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.data.classes.splits import choose_rows
from raydet.data.classes.table import ImageTable, raw_table
from raydet.errors import DataError
from raydet.families.classification.data import IMAGES
from tests.tiny_images import data_config


def table_of(counts: list[int], prefix: str = "i") -> ImageTable:
    """A table with so many images of each class, mixed."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    pixels = np.zeros((len(labels), 1, 1, 1), dtype=np.uint8)
    names = tuple(f"class {number}" for number in range(len(counts)))
    ids = [f"{prefix}{row}" for row in range(len(labels))]
    return raw_table(ids, pixels, labels, names, [("f", len(labels))])


def per_class(table: ImageTable, **rule: Any) -> list[int]:
    return table.take(choose_rows(data_config("x", **rule), table)).images_per_class().tolist()


def test_per_class_takes_exactly_so_many_of_each() -> None:
    assert per_class(table_of([9, 4, 30]), labeled_per_class=4) == [4, 4, 4]


def test_a_class_that_has_fewer_is_named_with_its_count() -> None:
    with pytest.raises(DataError, match="labeled_per_class is 5, but class 'class 1' has 4, 'class 3' has 1;"):
        per_class(table_of([9, 4, 30, 1]), labeled_per_class=5)


def test_a_count_is_drawn_in_proportion_with_one_of_each_class() -> None:
    table = table_of([60, 30, 9, 1])
    # 20 of 100 would be 12, 6, 1.8 and 0.2: after one image of each, the next turns are at (r + 1/2) / n
    assert per_class(table, labeled_count=20) == [11, 6, 2, 1]
    assert per_class(table, labeled_count=4) == [1, 1, 1, 1]
    assert per_class(table, labeled_count=100) == [60, 30, 9, 1]


def test_a_fraction_is_a_count_and_keeps_every_class() -> None:
    table = table_of([60, 30, 9, 1])
    assert per_class(table, labeled_fraction=0.2) == per_class(table, labeled_count=20)
    assert per_class(table, labeled_fraction=0.001) == [1, 1, 1, 1]


def test_impossible_counts_are_refused() -> None:
    table = table_of([3, 3, 3])
    with pytest.raises(DataError, match="labeled_count is 10, but the labelled set has 9 images; lower it"):
        per_class(table, labeled_count=10)
    with pytest.raises(DataError, match="labeled_count is 2, but there are 3 classes: at least one image of each"):
        per_class(table, labeled_count=2)


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    seed=st.integers(0, 3),
    data=st.data(),
)
@settings(max_examples=60)
def test_more_labels_contain_fewer(counts: list[int], seed: int, data: st.DataObject) -> None:
    table = table_of(counts)
    for key, low, high in (("labeled_count", len(counts), sum(counts)), ("labeled_per_class", 1, min(counts))):
        few = data.draw(st.integers(low, high))
        many = data.draw(st.integers(few, high))
        rows = [set(choose_rows(data_config("x", **{key: k, "split_seed": seed}), table)) for k in (few, many)]
        assert rows[0] <= rows[1]
        assert len(rows[0]) == (few if key == "labeled_count" else few * len(counts))


def test_the_split_depends_on_seed_and_ids_and_not_on_the_order_of_the_images() -> None:
    table = table_of([20, 20])
    turned = table.take(np.arange(40)[::-1])

    def ids(of: ImageTable, seed: int) -> set[str]:
        rows = choose_rows(data_config("x", labeled_per_class=3, split_seed=seed), of)
        return set(of.take(rows).ids.to_pylist())

    assert ids(table, 0) == ids(turned, 0) != ids(table, 1)


def test_every_image_is_drawn_equally_often() -> None:
    table = table_of([10, 10])
    drawn = np.zeros(20)
    for seed in range(300):
        drawn[choose_rows(data_config("x", labeled_per_class=3, split_seed=seed), table)] += 1
    assert np.abs(drawn - 90).max() < 48  # 6 standard deviations of binomial(300, 0.3)


@pytest.mark.parametrize("text", ['["i3", "i0"]', "i3\n\n i0 \ni3\n"])
def test_ids_may_be_listed_in_a_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "ids").write_text(text)
    assert choose_rows(data_config("x", labeled_ids=str(tmp_path / "ids")), table_of([5])).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["i3", "j1"]', r"1 id is not in the labelled set \('j1'\); the labelled set's ids look like 'i0'"),
        ("[]", "lists no image id"),
        ("", "lists no image id"),
        ('{"a": 1}', "expected image ids"),
        ("[1.5]", "expected image ids"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "ids").write_text(text)
    with pytest.raises(DataError, match=message):
        choose_rows(data_config("x", labeled_ids=str(tmp_path / "ids")), table_of([5]))


def test_a_saved_split_is_used_again_and_refused_after_a_change(tmp_path: Path) -> None:
    file, config = tmp_path / "split.json", data_config("x", labeled_per_class=2)
    table = table_of([6, 6])
    rows = IMAGES.labeled_rows(config, table, file)
    again = IMAGES.labeled_rows(config, table.take(np.arange(12)[::-1]), file)
    assert rows.tolist() == sorted((11 - again).tolist())
    with pytest.raises(DataError, match="made with labeled_per_class: 2, split_seed: 0, but the config says .*: 3"):
        IMAGES.labeled_rows(data_config("x", labeled_per_class=3), table, file)
    relabelled = table.with_labels(np.roll(table.labels, 1), table.class_names)
    for other in (relabelled, table.take(np.arange(11)), table_of([6, 6], prefix="j")):
        with pytest.raises(DataError, match="made for 12 images; since then images or classes .* changed"):
            IMAGES.labeled_rows(config, other, file)
    file.write_text("{")
    with pytest.raises(DataError, match="not a readable split file"):
        IMAGES.labeled_rows(config, table, file)
