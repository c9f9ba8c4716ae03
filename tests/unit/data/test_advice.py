"""What a message says to set is set, and works; more of it stands beside what it is about (`test_places.py`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raydet.config.class_data import ImageDataConfig, ImageSetConfig
from raydet.data.classes.formats.detect import read_images
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.families.classification.data import IMAGES
from tests.tiny_images import write_parquet


def folders(root: Path, count: int) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for each in range(count):
            pixels = np.full((8, 8, 3), 40 * number + each, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{each}.png")
    return root


def test_pictures_beside_parquet_are_read_with_the_format_that_the_warning_names(tmp_path: Path):
    write_parquet(tmp_path / "a.parquet")
    folders(tmp_path, 2)
    log = ProblemLog()
    read_images(ImageSetConfig(path=str(tmp_path)), log, role="labeled")
    (said,) = [problem for problem in log.problems if problem.code == "images-ignored"]
    assert "set `format: folder`" in said.fix
    log = ProblemLog()
    found = read_images(ImageSetConfig(path=str(tmp_path), format="folder"), log, role="labeled")
    assert found.class_names == ("cat", "dog") and len(found) == 4


def test_a_column_of_another_name_is_read_with_the_key_that_the_message_names(tmp_path: Path):
    file = write_parquet(tmp_path / "a.parquet")
    table = pq.read_table(file)
    pq.write_table(table.rename_columns(["photo" if name == "image" else name for name in table.schema.names]), file)
    with pytest.raises(DataError, match=r"there are: 'photo'.*; set image_column"):
        read_images(ImageSetConfig(path=str(file)), ProblemLog())
    assert len(read_images(ImageSetConfig(path=str(file), image_column="photo"), ProblemLog())) == 6


def test_more_withheld_images_than_there_are_become_a_set_of_their_own_as_the_message_says(tmp_path: Path):
    labeled, val = folders(tmp_path / "labeled", 2), folders(tmp_path / "val", 1)
    Image.fromarray(np.full((8, 8, 3), 200, dtype=np.uint8)).save(val / "cat" / "0.png")
    Image.fromarray(np.full((8, 8, 3), 210, dtype=np.uint8)).save(val / "dog" / "0.png")
    with pytest.raises(DataError, match=r"data.val_count is 3, but only 2 of 4 .*lower it, or give data.val"):
        IMAGES.prepare(ImageDataConfig.model_validate({"labeled": str(labeled), "val_count": 3}), tmp_path / "a")
    for given, number in ({"val_count": 2}, 2), ({"val": str(val)}, 2):
        config = ImageDataConfig.model_validate({"labeled": str(labeled), **given})
        prepared = IMAGES.prepare(config, tmp_path / f"data-{next(iter(given))}")
        assert prepared.val is not None and len(prepared.val) == number
