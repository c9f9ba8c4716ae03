"""Which train, val and test sets belong together, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.data.siblings import sets_of
from raydet.errors import DataError
from tests.tiny_data import read_table, write_coco


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


@pytest.mark.parametrize("beside", ["hyp.yaml", "hyp.yml", "._data.yaml"])
def test_a_yaml_that_describes_no_data_set_hides_no_part(tmp_path: Path, beside: str):
    yolo, voc = tmp_path / "yolo", tmp_path / "voc"
    made(yolo, beside)
    (yolo / "data.yaml").write_text("names: [a]\ntrain: images/train\nval: images/val\n")
    made(voc, beside, "ImageSets/Main/train.txt", "ImageSets/Main/val.txt")
    for folder in (str(yolo), str(voc)):
        assert sets_of({"path": folder}) == {
            "labeled": {"path": folder, "subset": "train"},
            "val": {"path": folder, "subset": "val"},
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


def test_images_of_the_training_part_are_never_those_of_another_part(tmp_path: Path):
    made(tmp_path, "ann/train.json", "ann/val.json", "images/train/a.jpg", "images/val/b.jpg")
    for path in (f"{tmp_path}/ann", f"{tmp_path}/ann/train.json"):
        found = sets_of({"path": path, "images": f"{tmp_path}/images/train"})
        assert found == {
            "labeled": {"path": f"{tmp_path}/ann/train.json", "images": f"{tmp_path}/images/train"},
            "val": {"path": f"{tmp_path}/ann/val.json", "images": f"{tmp_path}/images/val"},
        }
        (tmp_path / "images/val").rename(tmp_path / "images/elsewhere")
        assert list(sets_of({"path": path, "images": f"{tmp_path}/images/train"})) == ["labeled"]
        (tmp_path / "images/elsewhere").rename(tmp_path / "images/val")


def test_the_folder_of_images_may_use_another_word_and_lie_deeper(tmp_path: Path):
    made(tmp_path, "ann/train.json", "ann/val.json", "training_set/images/a.jpg", "validation_set/images/b.jpg")
    found = sets_of({"path": f"{tmp_path}/ann", "images": f"{tmp_path}/training_set/images"})
    assert found["val"] == {"path": f"{tmp_path}/ann/val.json", "images": f"{tmp_path}/validation_set/images"}


@pytest.mark.parametrize("images", ["images", "constrained", "test_site"])
def test_images_that_name_no_part_serve_all_parts(tmp_path: Path, images: str):
    folder = made(tmp_path / "training" / "cells", "ann/train.json", "ann/val.json", f"{images}/a.jpg")
    for path in (f"{folder}/ann", f"{folder}/ann/train.json"):
        found = sets_of({"path": path, "images": f"{folder}/{images}"})
        assert found["val"] == {"path": f"{folder}/ann/val.json", "images": f"{folder}/{images}"}


def test_images_of_a_subset_are_swapped_too(tmp_path: Path):
    folder = made(tmp_path, "train/_annotations.coco.json", "valid/_annotations.coco.json")
    assert sets_of({"path": folder, "images": f"{folder}/train"}) == {
        "labeled": {"path": folder, "images": f"{folder}/train", "subset": "train"},
        "val": {"path": folder, "images": f"{folder}/valid", "subset": "valid"},
    }


def test_a_root_that_only_allows_symlinks_stays_that_of_all_parts(tmp_path: Path):
    folder = made(tmp_path / "voc", "ImageSets/Main/train.txt", "ImageSets/Main/val.txt")
    made(tmp_path, "store/train/a.jpg")
    assert sets_of({"path": folder, "images": f"{tmp_path}/store/train"})["val"] == {
        "path": folder,
        "images": f"{tmp_path}/store/train",
        "subset": "val",
    }


def test_images_below_the_home_folder_stay_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    made(tmp_path, "ann/train.json", "ann/val.json", "train/a.jpg", "val/b.jpg")
    assert sets_of({"path": "~/ann", "images": "~/train"})["val"] == {"path": "~/ann/val.json", "images": "~/val"}


def test_of_coco_as_published_the_instances_are_taken(tmp_path: Path):
    kinds = ("captions", "instances", "panoptic", "person_keypoints", "stuff")
    names = [f"{kind}_{part}2017.json" for kind in kinds for part in ("train", "val")]
    folder = made(tmp_path, *(f"annotations/{name}" for name in [*names, "image_info_test2017.json"]))
    assert sets_of({"path": folder}) == {
        "labeled": {"path": f"{folder}/annotations/instances_train2017.json"},
        "val": {"path": f"{folder}/annotations/instances_val2017.json"},
    }


def test_captions_alone_are_no_set_of_boxes(tmp_path: Path):
    folder = made(tmp_path, "captions_train2017.json", "person_keypoints_train2017.json", "captions_val2017.json")
    assert sets_of({"path": folder}) == {"labeled": {"path": f"{folder}/person_keypoints_train2017.json"}}


def test_of_several_files_of_a_part_none_is_guessed(tmp_path: Path):
    folder = made(tmp_path, "instances_train2014.json", "instances_train2017.json", "instances_val2017.json")
    assert sets_of({"path": folder}) == {"labeled": {"path": folder}}
    with pytest.raises(DataError, match="several COCO files .*instances_train2014.json.*; name one of them"):
        for name in ("instances_train2014", "instances_train2017", "instances_val2017"):
            write_coco(tmp_path, name=f"{name}.json")
        read_table(folder)


def test_what_macos_writes_beside_a_file_is_no_second_one(tmp_path: Path):
    folder = made(tmp_path, "train.json", "._train.json", "val.json", "._val.json")
    assert sets_of({"path": folder}) == {
        "labeled": {"path": f"{folder}/train.json"},
        "val": {"path": f"{folder}/val.json"},
    }
