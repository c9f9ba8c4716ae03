"""The index of images with classes and boxes: what it says of a row whose image is another one's stand-in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raydet.data.classes.table import files_table
from raydet.data.located.index import LocatedIndex, write_located
from raydet.data.located.table import located
from raydet.data.mapped import write_damaged
from tests.tiny_data import write_image


def test_a_stand_in_is_called_by_its_own_name(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg", "c.jpg"]
    for number, name in enumerate(names):
        write_image(tmp_path / name, width=10 + number, height=20, value=number)
    table = located(
        files_table(tmp_path, names, np.array([0, 1, 0]), ("cat", "dog")), [[], [[0, 0, 5, 5]], [[1, 2, 3, 4]]]
    )
    write_located(tmp_path / "a.arrow", table)
    write_damaged(tmp_path / "a.arrow", [1])
    index = LocatedIndex.open(tmp_path / "a.arrow")
    assert index.id_at(1) == "c.jpg" and index.name_at(1) == str(tmp_path / "c.jpg")
    assert index.label_at(1) == 0 and index.labels().tolist() == [0, 0, 0]
    assert index.boxes_at(1).tolist() == [[1, 2, 3, 4]] and index.size_at(1) == (20, 12)
    assert index.images_per_class().tolist() == [2, 1] and index.num_boxes == 2
