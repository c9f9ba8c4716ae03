"""An evaluation looks at each sound image once, whatever the family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydet.config.run import EvalConfig
from raydet.data.mapped import write_damaged
from raydet.group import Group
from raydet.registry import NAMES, build_method, family_of
from raydet.train.launch import describe
from tests.helpers import tiny_classes, tiny_config, tiny_places, tiny_views

TINY = {
    "detection": tiny_config,
    "classification": tiny_classes,
    "localization": tiny_places,
    "pretraining": tiny_views,
}
PROPOSE = ("detection", "pretraining")


def number_judged(config: Any, folder: Path, *, max_images: int | None) -> set[int]:
    """Return how many images an untrained network is judged on: in all that is measured, of any kind."""
    family, method = family_of(config), build_method(config)
    data = family.open(folder)
    model = method.build_model(len(data.class_names)).eval()
    kinds = [family.evaluate, *([family.evaluate_proposals] if config.family in PROPOSE else [])]
    found: list[Any] = [each(method, model, data.val, Group(), max_images=max_images) for each in kinds]
    return {each.images for each in found}


@pytest.mark.parametrize("name", NAMES)
def test_the_stand_in_of_a_damaged_image_is_not_judged_a_second_time(name: str, tmp_path: Path):
    four = {"data__val": TINY[name](tmp_path).data.val.model_dump()}
    key = "patterns" if name == "classification" else "shapes"
    four["data__val"][key]["num_images"] = 4
    config = TINY[name](tmp_path / "run", **four)
    family_of(config).prepare(config, tmp_path / "data")
    assert number_judged(config, tmp_path / "data", max_images=None) == {4}
    write_damaged(tmp_path / "data" / "val.arrow", [0, 2])  # of four: 1 and 3 are left
    assert number_judged(config, tmp_path / "data", max_images=None) == {2}
    assert number_judged(config, tmp_path / "data", max_images=3) == {2}
    val = family_of(config).open(tmp_path / "data").val
    assert val.rows_to_judge(None) == [1, 3] and val.rows_to_judge(1) == [1]


def test_a_part_of_a_set_that_is_sorted_by_class_is_of_all_classes(tmp_path: Path):
    config = tiny_classes(tmp_path / "run", data__val__patterns__num_images=6)
    family_of(config).prepare(config, tmp_path / "data")
    val = family_of(config).open(tmp_path / "data").val
    assert val.rows_to_judge(3) == [0, 2, 5]  # 0, 2.5 and 5, halves to the even one
    write_damaged(tmp_path / "data" / "val.arrow", [0])
    val = family_of(config).open(tmp_path / "data").val
    assert val.rows_to_judge(3) == [1, 3, 5] and val.rows_to_judge(9) == [1, 2, 3, 4, 5]
    said = describe(
        config.model_copy(update={"eval": EvalConfig(max_images=3)}), family_of(config).open(tmp_path / "data")
    )
    assert "6 for validation, 3 of which are looked at" in said


def test_ranks_share_rows_and_each_is_looked_at_once():
    shares = [Group(rank, 2).share_of([1, 3, 4]) for rank in (0, 1)]
    assert shares == [[1, 4], [3]]
    assert [Group(rank, 4).share_of([5]) for rank in range(4)] == [[5], [], [], []]
