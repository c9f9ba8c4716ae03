from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from raydet.config.box_data import DataConfig
from raydet.data.boxes.source import Table
from raydet.data.boxes.splits import choose_rows, stratified
from raydet.errors import DataError
from raydet.families.detection.data import BOXES
from raydet.randomness import derive_seed
from tests.helpers import data_folder
from tests.tiny_data import read_table, write_coco, write_image


def make_table(classes_of: list[list[int]], crowd_of: dict[int, list[bool]] | None = None, **other: Any) -> Table:
    """Image n has id str(n) and a box of each class in `classes_of[n]`."""
    counts = [len(classes) for classes in classes_of]
    total = sum(counts)
    crowd = [flag for n, classes in enumerate(classes_of) for flag in (crowd_of or {}).get(n, [False] * len(classes))]
    columns: dict[str, Any] = {
        "root": Path("/"),
        "class_names": ("a", "b", "c"),
        "ids": [str(n) for n in range(len(classes_of))],
        "files": [f"{n}.jpg" for n in range(len(classes_of))],
        "sizes": np.full((len(classes_of), 2), 100),
        "first": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "boxes": np.tile([0.0, 0, 10, 10], (total, 1)),
        "classes": np.array([c for classes in classes_of for c in classes], dtype=np.int64),
        "crowd": np.array(crowd, dtype=np.bool_),
        "areas": np.full(total, 100.0),
    }
    return Table(**{**columns, **other})


def make_config(**settings: Any) -> DataConfig:
    return DataConfig.model_validate({"labeled": "x.json", **settings})


def draw(table: Table, seed: int, count: int) -> NDArray[np.int64]:
    return stratified(table.ids, table.box_rows(), table.classes, seed, count)


tables = st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=30).map(make_table)


@given(table=tables, seed=st.integers(0, 1000), data=st.data())
@settings(max_examples=150)
def test_a_split_has_the_right_size_and_every_class_where_one_image_each_suffices(
    table: Table, seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(table)))
    rows = draw(table, seed, count)
    assert rows.tolist() == sorted(set(rows.tolist())) and len(rows) == count
    assert np.array_equal(rows, draw(table, seed, count))
    chosen = set(table.classes[np.isin(table.box_rows(), rows)].tolist())
    if count >= len(set(table.classes.tolist())):
        assert chosen == set(table.classes.tolist())


def drawn_anew_at_every_step(table: Table, seed: int, count: int) -> list[int]:
    """The same draw, with nothing remembered from one swap to the next."""
    shuffle = sorted(range(len(table)), key=lambda row: derive_seed(seed, "split", table.ids[row]))
    kinds = [set(table.classes[table.box_rows() == row].tolist()) for row in shuffle]  # by the place in the shuffle
    everything = set[int]().union(*kinds)
    extra: list[int] = []
    while True:
        others = [place for place in range(len(shuffle)) if place not in extra]
        chosen = extra + others[: count - len(extra)]
        missing = everything - set[int]().union(*(kinds[place] for place in chosen))
        if not missing or len(extra) == count:
            return sorted(shuffle[place] for place in chosen)
        rarest = min(missing, key=lambda one: (sum(one in has for has in kinds), one))
        candidates = [place for place in range(len(shuffle)) if rarest in kinds[place]]
        extra.append(max(candidates, key=lambda place: (len(kinds[place] & missing), -place)))


long_tails = st.lists(st.lists(st.integers(0, 19).map(lambda n: n * n // 20), max_size=6), min_size=1, max_size=40)


@given(classes_of=st.one_of(long_tails, st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=40)),
       seed=st.integers(0, 1000), data=st.data())  # fmt: skip
@settings(max_examples=300)
def test_counts_that_are_kept_up_to_date_draw_what_counting_anew_draws(
    classes_of: list[list[int]], seed: int, data: st.DataObject
) -> None:
    table = make_table(classes_of, class_names=tuple(f"c{n}" for n in range(31)))
    count = data.draw(st.integers(1, len(table)))
    assert draw(table, seed, count).tolist() == drawn_anew_at_every_step(table, seed, count)


def test_one_image_with_all_classes_is_found_when_it_is_the_only_way() -> None:
    table = make_table([[0]] * 20 + [[0, 1, 2]] + [[1]] * 20)
    for seed in range(20):
        assert 20 in draw(table, seed, 1)


def test_a_larger_split_contains_the_smaller_one_where_no_class_is_rare() -> None:
    table = make_table([[0, 1, 2]] * 50)
    for seed in range(5):
        assert set(draw(table, seed, 5)) < set(draw(table, seed, 20)) < set(draw(table, seed, 49))


def test_seeds_draw_differently_and_evenly() -> None:
    table = make_table([[0]] * 40)
    counts = np.bincount(np.concatenate([draw(table, seed, 10) for seed in range(800)]), minlength=40)
    # Each image: binomial(800, 1/4), standard deviation 12.2; 5 of them are 61.
    assert np.abs(counts - 200).max() < 61


def test_the_order_of_the_images_does_not_matter() -> None:
    table = make_table([[n % 3] for n in range(30)])
    backwards = table.take(np.arange(30)[::-1])
    first = {table.ids[row] for row in draw(table, 1, 7)}
    assert first == {backwards.ids[row] for row in draw(backwards, 1, 7)}


def test_crowd_boxes_do_not_stand_for_their_class() -> None:
    table = make_table([[1]] + [[0]] * 30 + [[1]], crowd_of={0: [True]})
    for seed in range(10):
        assert 31 in choose_rows(make_config(labeled_count=2, split_seed=seed), table)


def test_real_data_keep_all_classes_in_few_images() -> None:
    table, _ = read_table(data_folder("cards") / "annotations" / "train.json")
    for seed in range(10):
        rows = choose_rows(make_config(labeled_count=6, split_seed=seed), table)
        assert (table.take(rows).usable_per_class() > 0).all()


@pytest.mark.parametrize(
    ("settings", "count"),
    [({"labeled_count": 7}, 7), ({"labeled_fraction": 0.1}, 2), ({"labeled_fraction": 0.001}, 1), ({}, 20),
     ({"labeled_fraction": 1.0}, 20)],
)  # fmt: skip
def test_how_many_are_labelled(settings: dict[str, Any], count: int) -> None:
    assert len(choose_rows(make_config(**settings), make_table([[0]] * 20))) == count


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match="labeled_count is 21, but the labelled set has 20 images"):
        choose_rows(make_config(labeled_count=21), make_table([[0]] * 20))


# --- saved splits -----------------------------------------------------------------------------------------------------


def test_a_saved_split_is_used_again(tmp_path: Path) -> None:
    table, config, file = make_table([[0]] * 20), make_config(labeled_count=5), tmp_path / "split.json"
    rows = BOXES.labeled_rows(config, table, file)
    content = json.loads(file.read_text())
    assert content["labeled"] == [table.ids[row] for row in rows]
    content["labeled"] = ["0", "1"]
    file.write_text(json.dumps(content))
    assert BOXES.labeled_rows(config, table, file).tolist() == [0, 1]
    backwards = table.take(np.arange(20)[::-1])
    assert BOXES.labeled_rows(config, backwards, file).tolist() == [18, 19]  # ids decide, not positions


def test_a_split_made_for_other_settings_or_images_is_refused(tmp_path: Path) -> None:
    table, file = make_table([[0]] * 20), tmp_path / "split.json"
    BOXES.labeled_rows(make_config(labeled_count=5), table, file)
    with pytest.raises(
        DataError, match="made with labeled_count: 5, split_seed: 0, but the config says labeled_count: 6"
    ):
        BOXES.labeled_rows(make_config(labeled_count=6), table, file)
    with pytest.raises(DataError, match="split_seed: 1; delete the file"):
        BOXES.labeled_rows(make_config(labeled_count=5, split_seed=1), table, file)
    with pytest.raises(DataError, match="all images labelled"):
        BOXES.labeled_rows(make_config(), table, file)
    with pytest.raises(DataError, match="made for 20 images; since then"):
        BOXES.labeled_rows(make_config(labeled_count=5), make_table([[0]] * 19), file)
    with pytest.raises(DataError, match="since then images or classes"):
        BOXES.labeled_rows(make_config(labeled_count=5), make_table([[0]] * 20, class_names=("a", "b", "x")), file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rule": {}, "fingerprint": "", "labeled": 3}', "nonsense"])
def test_a_damaged_split_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "split.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"split\.json: not a readable split file.*delete the file"):
        BOXES.labeled_rows(make_config(), make_table([[0]]), file)


# --- labeled_ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["3\n 1 \n\n3\r\n", '["3", "1"]', "[3, 1]", "\ufeff1\n3", "\n [1, 3]"])
def test_ids_come_as_lines_or_json(tmp_path: Path, text: str) -> None:
    file = tmp_path / "ids.txt"
    file.write_text(text, encoding="utf-8")
    assert choose_rows(make_config(labeled_ids=str(file)), make_table([[0]] * 20)).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no image id"),
        ("[]", "lists no image id"),
        ("1\n99\n98", "2 ids are not in the labelled set .'99', '98'.; the labelled set's ids look like '0'"),
        ("[1.5]", "expected image ids"),
        ("[true]", "expected image ids"),
        ("[1, 2", "1 id is not in the labelled set"),
    ],
)
def test_bad_lists_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "ids.txt"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        choose_rows(make_config(labeled_ids=str(file)), make_table([[0]] * 20))


def test_a_missing_list_and_a_superfluous_part_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; correct data.labeled_ids"):
        choose_rows(make_config(labeled_ids=str(tmp_path / "none.txt")), make_table([[0]]))
    (tmp_path / "ids.txt").write_text("0")
    with pytest.raises(DataError, match="'#1/1' is for seed files"):
        choose_rows(make_config(labeled_ids=f"{tmp_path}/ids.txt#1/1"), make_table([[0]]))
    (tmp_path / "odd#1").write_text("0")
    assert choose_rows(make_config(labeled_ids=f"{tmp_path}/odd#1"), make_table([[0]])).tolist() == [0]


def test_unbiased_teacher_seed_files_count_images_with_boxes_by_id(tmp_path: Path) -> None:
    # Ids in file order: 100, 9, 80, 70; 80 has only a crowd box and 70 none, so number 0 is id 9 and number 1 id 100.
    table = make_table([[0], [1], [0], []], crowd_of={2: [True]}, ids=["100", "9", "80", "70"])
    file = tmp_path / "seeds.txt"
    file.write_text(json.dumps({"50.0": {"1": [1], "2": [0]}, "100": {"1": [1, 0]}}))
    for part, rows in (("50/1", [0]), ("50.0/2", [1]), ("100/1", [0, 1])):
        assert choose_rows(make_config(labeled_ids=f"{file}#{part}"), table).tolist() == rows


def test_boxes_that_are_dropped_still_count_for_the_numbers_of_a_seed_file(tmp_path: Path) -> None:
    # Ids 1 to 5: image 1 has only a box without area, 3 only a crowd, 4 nothing. Numbers 0, 1 and 2 are ids 1, 2 and 5;
    # counted after the bad box is gone, 1 would be id 5.
    sides = {1: [2, 2, 5, 0], 2: [2, 2, 5, 5], 3: [2, 2, 5, 5], 5: [2, 2, 5, 5]}
    annotations = [
        {"id": n, "image_id": n, "category_id": 3, "bbox": box, "iscrowd": int(n == 3)} for n, box in sides.items()
    ]
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 80} for n in range(1, 6)]
    content = {"images": images, "categories": [{"id": 3, "name": "cat"}], "annotations": annotations}
    for n in range(1, 6):
        write_image(tmp_path / "data" / f"{n}.jpg", value=n)
    table, _ = read_table(write_coco(tmp_path / "data", content), on_bad_box="drop")
    file = tmp_path / "seeds.txt"
    file.write_text(json.dumps({"34": {"1": [1]}, "67": {"1": [0, 2]}}))  # int(.34 * 3) = 1, int(.67 * 3) = 2
    for part, ids in (("34/1", ["2"]), ("67/1", ["1", "5"])):
        rows = choose_rows(make_config(labeled_ids=f"{file}#{part}"), table)
        assert [table.ids[row] for row in rows] == ids, part
    assert table.take(np.array([1, 4])).annotated_rows().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("", "say which split as 'seeds.txt#percent/seed', e.g. #10/1 .percents: 50, 10, 1."),
        ("#50", "say which split"),
        ("#20/1", "no percent '20' .there are: 50, 10, 1"),
        ("#50/7", "no seed '7' for 50 percent .there are: 1"),
        (
            "#10/1",
            "lists 1 image up to number 0, but the labelled set has 2 images with an annotation that is not crowd "
            ".10 percent: 0.*another",
        ),
        ("#1/1", "no seed '1'"),
    ],
)
def test_seed_files_that_do_not_fit_are_refused(tmp_path: Path, part: str, message: str) -> None:
    file = tmp_path / "seeds.txt"
    file.write_text(json.dumps({"50": {"1": [5]}, "10": {"1": [0]}, "1": {"1": ["x"]}}))
    with pytest.raises(DataError, match=message):
        choose_rows(make_config(labeled_ids=f"{file}{part}"), make_table([[0], [1]]))
