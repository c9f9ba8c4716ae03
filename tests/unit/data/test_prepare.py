from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet.config.box_data import DataConfig
from raydet.data.boxes.index import DatasetIndex
from raydet.errors import DataError
from raydet.families.detection.data import BOXES
from tests.helpers import data_folder
from tests.tiny_data import coco_content, write_coco, write_image


def make_config(labeled: Path | str, **other: Any) -> DataConfig:
    return DataConfig.model_validate({"labeled": str(labeled), **other})


def real_config(name: str, **other: Any) -> DataConfig:
    folder = data_folder(name) / "annotations"
    return make_config(folder / "train.json", val=str(folder / "val.json"), **other)


def ids(index: DatasetIndex | None) -> set[str]:
    assert index is not None
    return set(index.ids())


def test_a_count_splits_real_data_into_labelled_and_unlabelled(tmp_path: Path) -> None:
    data = BOXES.prepare(real_config("bccd", labeled_count=20), tmp_path)
    assert data.class_names == ("RBC", "WBC", "Platelets")
    assert (len(data.labeled), data.val and len(data.val), data.test) == (20, 87, None)
    assert data.unlabeled is not None and len(data.unlabeled) == 185
    assert ids(data.labeled).isdisjoint(ids(data.unlabeled))
    assert (data.labeled.boxes_per_class() > 0).all()
    assert data.warnings == ()
    assert sorted(os.listdir(tmp_path)) == [
        "hidden.arrow", "labeled.arrow", "prepared.json", "sources.json", "split.json", "unlabeled.arrow", "val.arrow"
    ]  # fmt: skip


def test_boxes_of_unlabelled_images_are_only_in_the_hidden_file(tmp_path: Path) -> None:
    data = BOXES.prepare(real_config("bccd", labeled_count=20), tmp_path)
    hidden = BOXES.open_hidden(tmp_path)
    assert data.unlabeled is not None and hidden is not None
    assert data.unlabeled.num_boxes == 0
    assert all(len(data.unlabeled.truth_at(row).boxes) == 0 for row in range(len(data.unlabeled)))
    assert hidden.num_boxes + data.labeled.num_boxes == 2804
    assert hidden.ids() == data.unlabeled.ids()
    # 2522 boxes of 32 bytes would make the file larger than these names and sizes do
    assert (tmp_path / "unlabeled.arrow").stat().st_size < 2522 * 32
    assert not hasattr(data, "hidden")


def test_the_second_call_and_open_prepared_give_the_same(tmp_path: Path) -> None:
    config = real_config("cards", labeled_fraction=0.05)
    first = BOXES.prepare(config, tmp_path)
    for again in (BOXES.prepare(config, tmp_path), BOXES.open(tmp_path)):
        assert again.labeled.ids() == first.labeled.ids()
        assert again.class_names == first.class_names
    with pytest.raises(DataError, match=r"split\.json: made with labeled_fraction: 0\.05.*delete the file"):
        BOXES.prepare(real_config("cards", labeled_fraction=0.1), tmp_path)


def test_all_labelled_leaves_no_unlabelled_set(tmp_path: Path) -> None:
    data = BOXES.prepare(make_config(write_coco(tmp_path / "data")), tmp_path / "run")
    assert data.unlabeled is None and BOXES.open_hidden(tmp_path / "run") is None and len(data.labeled) == 2


def test_a_plain_folder_or_glob_is_unlabelled_data(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "data")
    for number, name in enumerate(("x.png", "sub/y.JPG", "sub/z.webp")):
        write_image(tmp_path / "more" / name, value=10 + number)
    (tmp_path / "more" / "notes.txt").write_text("")
    (tmp_path / "more" / ".hidden.jpg").write_text("")
    data = BOXES.prepare(make_config(file, unlabeled=str(tmp_path / "more")), tmp_path / "run")
    assert data.unlabeled is not None and data.unlabeled.ids() == ["sub/y.JPG", "sub/z.webp", "x.png"]
    assert data.unlabeled.class_names == data.class_names
    assert BOXES.open_hidden(tmp_path / "run") is None
    assert len(data.warnings) == 1 and "1 file with another ending was passed over" in data.warnings[0]
    glob = str(tmp_path / "more" / "**" / "*.webp")
    data = BOXES.prepare(make_config(file, unlabeled=glob), tmp_path / "run2")
    assert data.unlabeled is not None and data.unlabeled.ids() == ["sub/z.webp"]
    with pytest.raises(DataError, match="no images there"):
        BOXES.prepare(make_config(file, unlabeled=str(tmp_path / "more" / "*.bmp")), tmp_path / "run3")


def test_generated_shapes_are_prepared_like_files(tmp_path: Path) -> None:
    shapes = {"path": "shapes", "shapes": {"num_images": 6, "seed": 1}}
    data = BOXES.prepare(DataConfig.model_validate({"labeled": shapes, "labeled_count": 2}), tmp_path)
    assert len(data.labeled) == 2 and data.unlabeled is not None and len(data.unlabeled) == 4


# --- classes ----------------------------------------------------------------------------------------------------------


def renamed(names: dict[int, str]) -> dict[str, Any]:
    """The valid content with other category names, for ids 3 and 7."""
    content = coco_content()
    content["categories"] = [{"id": key, "name": name} for key, name in names.items()]
    return content


def other_set(folder: Path, content: dict[str, Any]) -> Path:
    file = write_coco(folder, content)
    for number, name in enumerate("ab"):
        write_image(folder / f"{name}.jpg", value=50 + number)
    return file


def test_classes_of_further_sets_are_matched_by_name(tmp_path: Path) -> None:
    labeled = write_coco(tmp_path / "data")  # cat 0, dog 1
    val = other_set(tmp_path / "val", renamed({3: "dog", 7: "cat", 9: "never used"}))
    data = BOXES.prepare(make_config(labeled, val=str(val)), tmp_path / "run")
    assert data.val is not None and data.val.class_names == ("cat", "dog")
    assert data.labeled.truth_at(0).classes.tolist() == [0, 1]
    assert data.val.truth_at(0).classes.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("Dog ", "did you mean 'dog'"), ("d o g", "did you mean 'dog'"), ("horse", "its classes: cat, dog")],
)
def test_unknown_classes_with_boxes_are_refused_with_a_suggestion(tmp_path: Path, name: str, hint: str) -> None:
    val = other_set(tmp_path / "val", renamed({3: "cat", 7: name}))
    for role in ("val", "test", "unlabeled"):
        config = make_config(write_coco(tmp_path / "data"), **{role: str(val)})
        with pytest.raises(DataError, match=f"class '{name}' .1 box. is not a class of the labelled set.*{hint}"):
            BOXES.prepare(config, tmp_path / "run")


def test_a_set_without_usable_boxes_is_refused(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"] = [{**content["annotations"][0], "iscrowd": 1}]
    crowd = other_set(tmp_path / "crowd", content)
    with pytest.raises(DataError, match="the labeled set has no usable box"):
        BOXES.prepare(make_config(crowd), tmp_path / "run")
    with pytest.raises(DataError, match="the val set has no usable box"):
        BOXES.prepare(make_config(write_coco(tmp_path / "data"), val=str(crowd)), tmp_path / "run2")


def test_a_class_without_boxes_is_a_warning(tmp_path: Path) -> None:
    content = coco_content()
    content["categories"].append({"id": 8, "name": "unicorn"})
    data = BOXES.prepare(make_config(write_coco(tmp_path / "data", content)), tmp_path / "run")
    assert len(data.warnings) == 1
    assert "the labeled set has no box of: unicorn; cannot be learnt" in data.warnings[0]


# --- errors and warnings ----------------------------------------------------------------------------------------------


def test_errors_of_all_sets_are_listed_together_and_nothing_is_written(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"][0]["bbox"] = [10, 10, 0, 0]
    content["annotations"][1]["category_id"] = 99
    labeled = write_coco(tmp_path / "data", content)
    val = other_set(tmp_path / "val", content)
    with pytest.raises(DataError) as caught:
        BOXES.prepare(make_config(labeled, val=str(val)), tmp_path / "run")
    lines = str(caught.value).splitlines()
    assert lines[0] == "the data cannot be used (`raydet check-data` lists everything): 4 errors"
    assert len(lines) == 5 and sum(str(val) in line for line in lines) == 2
    assert os.listdir(tmp_path / "run") == []


def test_of_many_errors_twenty_are_listed(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"] = [{**content["annotations"][0], "id": n, "bbox": [1, 1, 0, 1]} for n in range(500)]
    with pytest.raises(DataError, match="500 errors") as caught:
        BOXES.prepare(make_config(write_coco(tmp_path / "data", content)), tmp_path / "run")
    lines = str(caught.value).splitlines()
    assert len(lines) == 22 and lines[-1].strip() == "[box-degenerate] ... and 480 more"


@pytest.mark.parametrize(("policy", "boxes"), [("drop", 2), ("clip", 3)])
def test_bad_boxes_are_handled_as_configured_and_mentioned(tmp_path: Path, policy: str, boxes: int) -> None:
    content = coco_content()
    content["annotations"][0]["bbox"] = [90, 70, 30, 30]
    data = BOXES.prepare(make_config(write_coco(tmp_path / "data", content), on_bad_box=policy), tmp_path / "run")
    assert data.labeled.num_boxes == boxes
    assert len(data.warnings) == 1 and "annotation id 1 (image id 1)" in data.warnings[0]


def test_a_picture_in_labelled_and_val_is_a_warning(tmp_path: Path) -> None:
    labeled = write_coco(tmp_path / "data")
    val = write_coco(tmp_path / "val")  # the same two pictures, in other files
    data = BOXES.prepare(make_config(labeled, val=str(val)), tmp_path / "run")
    assert len(data.warnings) == 2
    assert "image id 1 of the val set: the same picture is image id 1 of the labeled set" in data.warnings[0]


def test_real_train_and_val_share_a_picture_that_is_found(tmp_path: Path) -> None:
    data = BOXES.prepare(real_config("coco_cc"), tmp_path)
    assert sum("image id 397133 of the val set" in warning for warning in data.warnings) == 1


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_set_taken_out_of_the_config_disappears(tmp_path: Path) -> None:
    labeled = write_coco(tmp_path / "data")
    val = other_set(tmp_path / "val", coco_content())
    BOXES.prepare(make_config(labeled, val=str(val)), tmp_path / "run")
    data = BOXES.prepare(make_config(labeled), tmp_path / "run")
    assert data.val is None and not (tmp_path / "run" / "val.arrow").exists()


def test_incomplete_and_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prepared data there"):
        BOXES.open(tmp_path)
    BOXES.prepare(make_config(write_coco(tmp_path / "data")), tmp_path / "run")
    (tmp_path / "run" / "prepared.json").write_text("{")
    with pytest.raises(DataError, match=r"prepared\.json: damaged"):
        BOXES.open(tmp_path / "run")
    (tmp_path / "run" / "prepared.json").write_text('{"kind": "detection", "sets": ["labeled"]}')
    (tmp_path / "run" / "labeled.arrow").unlink()
    with pytest.raises(DataError, match=r"labeled\.arrow: no such index"):
        BOXES.open(tmp_path / "run")


def test_a_crash_while_writing_leaves_nothing_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(write_coco(tmp_path / "data"), labeled_count=1)
    BOXES.prepare(config, tmp_path / "run")

    def crash(path: Path, table: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(BOXES), "write", staticmethod(crash))
        BOXES.prepare(config, tmp_path / "run")
    with pytest.raises(DataError, match="prepare the data first"):
        BOXES.open(tmp_path / "run")
    assert len(BOXES.prepare(config, tmp_path / "run").labeled) == 1


def test_boxes_of_the_labelled_part_are_those_of_the_file(tmp_path: Path) -> None:
    data = BOXES.prepare(make_config(write_coco(tmp_path / "data"), labeled_count=1), tmp_path / "run")
    row_of = {"1": [[10, 20, 40, 60], [0, 0, 50, 60]], "2": [[5.5, 6.5, 15.5, 16.5]]}
    assert data.labeled.target_at(0).boxes.tolist() == row_of[data.labeled.id_at(0)]
    assert np.array_equal(data.labeled.size_at(0), (80, 100))


@pytest.mark.parametrize("name", ["nothing.json", "nothing", "data.txt"])
def test_a_path_that_is_no_data_set_is_one_message(tmp_path: Path, name: str) -> None:
    (tmp_path / "data.txt").write_text("x")
    with pytest.raises(DataError, match=f"^data.labeled: .*{name}: (no such file or folder|format unknown)"):
        BOXES.prepare(make_config(tmp_path / name), tmp_path / "run")


def test_an_empty_or_ambiguous_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no data set found there; looked for a data.yaml or images/"):
        BOXES.prepare(make_config(tmp_path / "empty"), tmp_path / "run")
    write_coco(tmp_path / "two", name="one.json")
    write_coco(tmp_path / "two", name="two.json")
    with pytest.raises(DataError, match=r"several COCO files \(one.json, two.json\); name one of them"):
        BOXES.prepare(make_config(tmp_path / "two"), tmp_path / "run")
