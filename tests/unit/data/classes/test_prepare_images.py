from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet.config.class_data import ImageDataConfig
from raydet.data.classes.index import ImageIndex
from raydet.errors import DataError
from raydet.families.classification.data import IMAGES
from tests.helpers import data_folder
from tests.tiny_images import (
    LABELS,
    data_config,
    encoded,
    noise,
    write_cifar10,
    write_class_folders,
    write_idx,
    write_parquet,
)


def patterns(count: int, seed: int = 0) -> dict[str, Any]:
    return {"path": "patterns", "patterns": {"num_images": count, "seed": seed, "size": 8}}


def ids(index: ImageIndex | None) -> set[str]:
    assert index is not None
    return set(index.ids())


def real_config(name: str, **other: Any) -> ImageDataConfig:
    folder = data_folder(name)
    return data_config(folder / "train.parquet", val=folder / "val.parquet", test=folder / "test.parquet", **other)


def test_real_data_is_split_into_labelled_and_unlabelled(tmp_path: Path) -> None:
    data = IMAGES.prepare(real_config("signdigits", labeled_per_class=4), tmp_path)
    assert data.class_names == tuple("0123456789") and data.labeled.images_per_class().tolist() == [4] * 10
    assert data.unlabeled is not None and len(data.unlabeled) == 1320 - 40
    assert ids(data.labeled).isdisjoint(ids(data.unlabeled))
    assert data.val is not None and len(data.val) == 248 and data.test is not None and len(data.test) == 494
    assert data.warnings == ()
    assert sorted(os.listdir(tmp_path)) == [
        "hidden.arrow", "labeled.arrow", "prepared.json", "sources.json", "split.json",
        "test.arrow", "unlabeled.arrow", "val.arrow",
    ]  # fmt: skip


def test_a_long_tailed_real_set_keeps_every_class(tmp_path: Path) -> None:
    data = IMAGES.prepare(real_config("clothing", labeled_fraction=0.02), tmp_path)
    counts = data.labeled.images_per_class()
    assert counts.sum() == 65 and counts.min() == 1  # 2 % of 3,260; Blouse has 7 of them, 0.14 images
    assert counts[0] == 13  # T-Shirt: 645 of 3,260, 0.2 of 65


def test_labels_of_unlabelled_images_are_only_in_the_hidden_file(tmp_path: Path) -> None:
    config = data_config(write_parquet(tmp_path / "a.parquet", [0, 1, 2] * 10), labeled_count=3)
    data = IMAGES.prepare(config, tmp_path / "run")
    hidden = IMAGES.open_hidden(tmp_path / "run")
    assert data.unlabeled is not None and hidden is not None and not hasattr(data, "hidden")
    assert data.unlabeled.labels().tolist() == [-1] * 27 and data.unlabeled.images_per_class().tolist() == [0, 0, 0]
    assert hidden.ids() == data.unlabeled.ids() and hidden.images_per_class().tolist() == [9, 9, 9]
    truth = {str(row): row % 3 for row in range(30)}
    assert {one: hidden.label_at(row) for row, one in enumerate(hidden.ids())}.items() <= truth.items()
    with pytest.raises(DataError, match="no pixels are stored with this label"):
        hidden.pixels_at(0)
    assert np.array_equal(data.unlabeled.pixels_at(0)[0].numpy(), noise(*picture(data.unlabeled, 0))[..., 0])


def picture(index: ImageIndex, row: int) -> tuple[int, int]:
    """Label and number of a picture of `write_parquet`: what its noise was made from."""
    number = int(index.id_at(row))
    return number % 3, number


def test_the_second_call_and_open_images_give_the_same(tmp_path: Path) -> None:
    config = data_config(patterns(40), val=patterns(12, seed=1), labeled_per_class=2)
    first = IMAGES.prepare(config, tmp_path)
    for again in (IMAGES.prepare(config, tmp_path), IMAGES.open(tmp_path)):
        assert again.labeled.ids() == first.labeled.ids() and again.class_names == first.class_names
    with pytest.raises(DataError, match=r"split\.json: made with labeled_per_class: 2.*delete the file"):
        IMAGES.prepare(data_config(patterns(40), labeled_per_class=3), tmp_path)
    with pytest.raises(DataError, match="made for 40 images"):
        IMAGES.prepare(data_config(patterns(41), labeled_per_class=2), tmp_path)


def test_all_labelled_leaves_no_unlabelled_set(tmp_path: Path) -> None:
    data = IMAGES.prepare(data_config(write_parquet(tmp_path / "a.parquet")), tmp_path / "run")
    assert data.unlabeled is None and data.val is None and len(data.labeled) == 6
    assert IMAGES.open_hidden(tmp_path / "run") is None


@pytest.mark.parametrize("write", [write_parquet, write_idx, write_cifar10, "folder"])
def test_every_format_goes_all_the_way(tmp_path: Path, write: Any) -> None:
    labeled: Any = {"path": str(tmp_path / "data.parquet"), "subset": "train"}
    if write == "folder":
        write_class_folders(tmp_path / "data.parquet" / "train", {"cat": 2, "dog": 2, "owl": 2})
    else:
        write(tmp_path / "data.parquet" / "train.parquet" if write is write_parquet else tmp_path / "data.parquet")
    data = IMAGES.prepare(data_config(labeled, labeled_per_class=1), tmp_path / "run")
    assert data.labeled.images_per_class().tolist() == [1, 1, 1] and data.unlabeled is not None
    for index in (data.labeled, data.unlabeled):
        assert all(index.pixels_at(row).shape[0] == 3 for row in range(len(index)))


def test_a_set_that_cannot_be_read_is_named_by_its_key(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"^data\.val: /nowhere: no such file or folder$"):
        IMAGES.prepare(data_config(file, val="/nowhere"), tmp_path / "run")
    with pytest.raises(DataError, match=r"^data\.labeled: .*a\.parquet: subset 'train' is for folders of several"):
        IMAGES.prepare(data_config({"path": str(file), "subset": "train"}), tmp_path / "run")
    with pytest.raises(DataError, match=r"^data\.labeled: shapes: no such .*; the generated `shapes` have boxes"):
        IMAGES.prepare(data_config("shapes"), tmp_path / "run")


def test_small_images_are_in_the_index_and_files_stay_files(tmp_path: Path) -> None:
    kept = IMAGES.prepare(data_config(write_parquet(tmp_path / "a.parquet")), tmp_path / "run")
    (tmp_path / "a.parquet").unlink()
    assert kept.labeled.pixels_at(0).shape == (3, 8, 8)
    root = write_class_folders(tmp_path / "photos", {"cat": 1, "dog": 1})
    data = IMAGES.prepare(data_config(root), tmp_path / "run2")
    (root / "dog" / "0.png").unlink()
    with pytest.raises(DataError, match=r"dog/0\.png: no such image file"):
        data.labeled.pixels_at(1)


# --- classes ----------------------------------------------------------------------------------------------------------


def test_classes_of_further_sets_are_matched_by_name(tmp_path: Path) -> None:
    labeled = write_parquet(tmp_path / "a.parquet")  # cat, dog, owl
    names = ("owl", "never used", "cat", "dog")
    val = write_parquet(tmp_path / "val.parquet", [0, 2, 3, 0], names=names, first=20)
    more = write_parquet(tmp_path / "more.parquet", [0, None, 3], names=names, first=30)
    data = IMAGES.prepare(data_config(labeled, val=val, unlabeled=more), tmp_path / "run")
    assert data.val is not None and data.val.class_names == ("cat", "dog", "owl")
    assert data.val.labels().tolist() == [2, 0, 1, 2]
    hidden = IMAGES.open_hidden(tmp_path / "run")
    assert hidden is not None and hidden.labels().tolist() == [2, -1, 1]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("Dog ", "did you mean 'dog'"), ("d-o-g", "did you mean 'dog'"), ("horse", "its classes: cat, dog, owl")],
)
@pytest.mark.parametrize("role", ["val", "test"])
def test_unknown_classes_are_refused_with_a_suggestion(tmp_path: Path, role: str, name: str, hint: str) -> None:
    other = write_parquet(tmp_path / "b.parquet", [0, 1, 1], names=("cat", name), first=20)
    config = data_config(write_parquet(tmp_path / "a.parquet"), **{role: other})
    with pytest.raises(DataError, match=f"class '{name}' .2 images. is not a class of the labelled set.*{hint}"):
        IMAGES.prepare(config, tmp_path / "run")


def test_labels_that_nobody_sees_do_not_stop_a_run(tmp_path: Path) -> None:
    more = write_parquet(tmp_path / "b.parquet", [0, 1, 1], names=("cat", "misc"), first=20)
    data = IMAGES.prepare(data_config(write_parquet(tmp_path / "a.parquet"), unlabeled=more), tmp_path / "run")
    assert data.unlabeled is not None and len(data.unlabeled) == 3
    hidden = IMAGES.open_hidden(tmp_path / "run")
    assert hidden is not None and hidden.labels().tolist() == [0, -1, -1]
    assert "class 'misc' (2 images) is not a class of the labelled set" in data.warnings[0]
    assert "diagnostics will say nothing about these images" in data.warnings[0]


def test_a_class_without_a_labelled_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the labeled set has no image of class 'dog'; .*cannot be learnt"):
        IMAGES.prepare(data_config(write_parquet(tmp_path / "a.parquet", [0, 2, 2])), tmp_path / "run")
    (tmp_path / "ids").write_text("0\n1\n")
    config = data_config(write_parquet(tmp_path / "b.parquet"), labeled_ids=str(tmp_path / "ids"))
    with pytest.raises(DataError, match="the labeled set has no image of class 'owl'"):
        IMAGES.prepare(config, tmp_path / "run2")


def test_a_class_without_a_validation_image_is_a_warning(tmp_path: Path) -> None:
    val = write_parquet(tmp_path / "val.parquet", [0, 1], first=20)
    data = IMAGES.prepare(data_config(write_parquet(tmp_path / "a.parquet"), val=val), tmp_path / "run")
    assert len(data.warnings) == 1 and "the val set has no image of class 'owl'" in data.warnings[0]


def test_one_class_is_too_few(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "photos", {"cat": 3})
    with pytest.raises(DataError, match="the labelled set has 1 class; a classifier needs two or more"):
        IMAGES.prepare(data_config(root), tmp_path / "run")


def test_only_the_unlabelled_set_can_do_without_labels(tmp_path: Path) -> None:
    plain = write_parquet(tmp_path / "plain.parquet", labels=None, names=None, first=40)
    labeled = write_parquet(tmp_path / "a.parquet")
    data = IMAGES.prepare(data_config(labeled, unlabeled=plain), tmp_path / "run")
    assert data.unlabeled is not None and len(data.unlabeled) == 6 and data.unlabeled.class_names == data.class_names
    assert IMAGES.open_hidden(tmp_path / "run") is None
    for config in (data_config(labeled, val=plain), data_config(plain)):
        with pytest.raises(DataError, match="no image has a label; .*only data.unlabeled can do without"):
            IMAGES.prepare(config, tmp_path / "run2")


def test_errors_of_all_sets_are_listed_together(tmp_path: Path) -> None:
    labeled = write_parquet(tmp_path / "a.parquet", [0, 1, 9])
    val = write_parquet(tmp_path / "val.parquet", [0, None], first=20)
    with pytest.raises(DataError, match="the data cannot be used .*: 2 errors") as caught:
        IMAGES.prepare(data_config(labeled, val=val), tmp_path / "run")
    assert "[label-range]" in str(caught.value) and "[label-missing]" in str(caught.value)


# --- the same picture in two sets -------------------------------------------------------------------------------------


def test_a_picture_in_two_sets_is_a_warning(tmp_path: Path) -> None:
    labeled = write_parquet(tmp_path / "a.parquet")
    val = write_parquet(tmp_path / "val.parquet", first=3, ids=list("uvwxyz"))  # pictures 3, 4, 5 again, with ...
    data = IMAGES.prepare(data_config(labeled, val=val), tmp_path / "run")  # ... the labels of 0, 1, 2, the same
    assert len(data.warnings) == 3
    assert "row 0, image id u of the val set: the same picture is image id 3 of the labeled set" in data.warnings[0]


def test_a_copied_file_is_found_among_many(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "train", {"cat": 4, "dog": 4})
    val = write_class_folders(tmp_path / "val", {"cat": 2, "dog": 2}, first=50)
    (val / "dog" / "new-name.png").write_bytes((root / "cat" / "2.png").read_bytes())
    data = IMAGES.prepare(data_config(root, val=val), tmp_path / "run")
    assert len(data.warnings) == 1 and "new-name.png" in data.warnings[0] and "image id cat/2.png" in data.warnings[0]


def test_too_many_files_are_not_searched_at_the_start_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydet.families.classification.data.ImageData.most_files_searched", 5)
    root = write_class_folders(tmp_path / "train", {"cat": 3, "dog": 3})
    data = IMAGES.prepare(data_config(root, labeled_per_class=1), tmp_path / "run")
    assert len(data.warnings) == 1 and "6 files were not searched" in data.warnings[0]


# --- damage -----------------------------------------------------------------------------------------------------------


def test_missing_incomplete_or_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prepared data there"):
        IMAGES.open(tmp_path)
    IMAGES.prepare(data_config(patterns(12), labeled_per_class=1), tmp_path)
    (tmp_path / "labeled.arrow").unlink()
    with pytest.raises(DataError, match=r"labeled\.arrow: no such image index"):
        IMAGES.open(tmp_path)
    (tmp_path / "prepared.json").write_text('{"kind": "detection", "sets": ["labeled"]}')
    with pytest.raises(DataError, match="holds data for detection, not for classification; use another run folder"):
        IMAGES.open(tmp_path)
    for text in ("", "[]", "{}"):
        (tmp_path / "prepared.json").write_text(text)
        with pytest.raises(DataError, match=r"prepared\.json: damaged"):
            IMAGES.open(tmp_path)


def test_a_failed_preparation_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet")
    IMAGES.prepare(data_config(file), tmp_path / "run")
    write_parquet(file, [0, 1, None])
    with pytest.raises(DataError):
        IMAGES.prepare(data_config(file), tmp_path / "run")
    assert IMAGES.open(tmp_path / "run").labeled.labels().tolist() == list(LABELS)  # the old one, whole


def test_an_undecodable_image_is_named_by_file_and_row(tmp_path: Path) -> None:
    whole = encoded(noise(0, 1))  # damaged in the middle: nobody sees it from outside
    images = [encoded(noise(0, 0)), whole[:60] + bytes(40) + whole[100:]]
    data = IMAGES.prepare(
        data_config(write_parquet(tmp_path / "a.parquet", [0, 1], names=("a", "b"), images=images)), tmp_path / "run"
    )
    with pytest.raises(
        DataError, match=r"a\.parquet, row 1: truncated or damaged image.*go on with --resume, or go on without"
    ):
        data.labeled.pixels_at(1)
