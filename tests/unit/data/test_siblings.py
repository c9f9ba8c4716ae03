"""Which train, val and test sets belong together, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.data.siblings import sets_of


def made(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return str(folder)


def test_files_beside_a_training_file_are_found(tmp_path: Path):
    made(tmp_path, "instances_train2017.json", "instances_val2017.json", "other_test.json")
    assert sets_of({"path": f"{tmp_path}/instances_train2017.json"}) == {
        "labeled": {"path": f"{tmp_path}/instances_train2017.json"},
        "val": {"path": f"{tmp_path}/instances_val2017.json"},
    }


def test_an_image_root_named_after_the_part_goes_along(tmp_path: Path):
    made(tmp_path, "train.json", "valid.json", "train2017/a.jpg", "valid2017/a.jpg")
    found = sets_of({"path": f"{tmp_path}/train.json", "images": f"{tmp_path}/train2017"})
    assert found["val"] == {"path": f"{tmp_path}/valid.json", "images": f"{tmp_path}/valid2017"}


@pytest.mark.parametrize("place", ["", "annotations/"])
@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_a_folder_stands_for_its_files(tmp_path: Path, place: str, suffix: str):
    folder = made(tmp_path, *(f"{place}{part}{suffix}" for part in ("train", "val", "test")), "stats.json")
    assert sets_of({"path": folder}) == {
        "labeled": {"path": f"{folder}/{place}train{suffix}"},
        "val": {"path": f"{folder}/{place}val{suffix}"},
        "test": {"path": f"{folder}/{place}test{suffix}"},
    }


def test_parts_of_a_yolo_set_are_its_subsets(tmp_path: Path):
    (tmp_path / "data.yaml").write_text("names: [a]\ntrain: images/train\nval: images/val\ntest:\n")
    for path in (str(tmp_path), f"{tmp_path}/data.yaml"):
        assert sets_of({"path": path}) == {
            "labeled": {"path": path, "subset": "train"},
            "val": {"path": path, "subset": "val"},
        }


def test_lists_of_a_voc_folder_are_its_subsets(tmp_path: Path):
    folder = made(tmp_path, "ImageSets/Main/trainval.txt", "ImageSets/Main/test.txt", "ImageSets/Main/cat_train.txt")
    assert sets_of({"path": folder}) == {
        "labeled": {"path": folder, "subset": "trainval"},
        "test": {"path": folder, "subset": "test"},
    }


def test_folders_of_classes_are_parts_only_where_all_are_named_like_parts(tmp_path: Path):
    parts = made(tmp_path / "a", "train/cat/1.png", "val/cat/2.png")
    assert sets_of({"path": parts})["val"] == {"path": parts, "subset": "val"}
    classes = made(tmp_path / "b", "train/1.png", "bus/2.png")
    assert sets_of({"path": classes}) == {"labeled": {"path": classes}}


def test_published_files_have_a_train_and_a_test_part(tmp_path: Path):
    folder = made(tmp_path, "train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
    assert sets_of({"path": folder}) == {
        "labeled": {"path": folder, "subset": "train"},
        "test": {"path": folder, "subset": "test"},
    }


def test_what_says_nothing_stands_for_itself(tmp_path: Path):
    folder = made(tmp_path, "all.json", "val.json")
    for given in ({"path": f"{folder}/all.json"}, {"path": "shapes"}, {"path": f"{folder}/*.png"}):
        assert sets_of(given) == {"labeled": given}
    chosen = {"path": folder, "subset": "val"}
    assert sets_of(chosen) == {"labeled": chosen}
