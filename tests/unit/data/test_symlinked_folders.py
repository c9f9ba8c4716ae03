"""Symlinked folders: what they lead to counts inside the declared folder, and is refused outside of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydet.config.located_data import LocatedSetConfig
from raydet.data.classes.formats.parquet_files import parquet_files
from raydet.data.folder import listed_images
from raydet.data.kind import kind_of
from raydet.data.located.formats.detect import read_located
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from tests.tiny_data import codes, read_table, write_image
from tests.tiny_images import read_set, write_class_folders, write_parquet


def read_boxes_or_not(folder: Path, **config: Any) -> dict[str, str]:
    """Return id -> class of a set for localisation."""
    log = ProblemLog()
    table, _ = read_located(LocatedSetConfig(path=str(folder), **config), log, generated=folder / "generated")
    assert not log.problems
    return {table.id_at(row): table.class_names[table.images.labels[row]] for row in range(len(table))}


def in_glob(pattern: str, images: Path | None = None) -> list[str]:
    """Return the names of the images that a glob means."""
    return listed_images(pattern, ProblemLog(), images)[1]


def refusal(name: str, target: Path, root: Path) -> str:
    """Return how a symlink is refused, without what to do about it."""
    return f"folder '{name}' is a symlink to '{target}'; those must lead to other folders inside {root}"


COPY = "copy it there, or remove the symlink"


# --- folders of classes -----------------------------------------------------------------------------------------------


def test_a_class_folder_may_be_a_symlink_to_a_folder_inside(tmp_path: Path):
    write_class_folders(tmp_path / ".store", {"cat": 2, "dog": 1})
    for name in ("cat", "dog"):
        (tmp_path / name).symlink_to(Path(".store") / name)
    write_class_folders(tmp_path, {"owl": 1}, first=9)
    table, log = read_set(tmp_path)
    assert not log.problems and table.class_names == ("cat", "dog", "owl")
    assert table.ids.to_pylist() == ["cat/0.png", "cat/1.png", "dog/0.png", "owl/9.png"]
    assert table.labels.tolist() == [0, 0, 1, 2]
    assert table.file_at(1) == tmp_path / ".store" / "cat" / "1.png"
    found = {"cat/0.png": "cat", "cat/1.png": "cat", "dog/0.png": "dog", "owl/9.png": "owl"}
    assert read_boxes_or_not(tmp_path) == found


def test_a_class_folder_that_leads_to_another_one_is_a_class_too_and_what_lies_deeper_is_not_entered(tmp_path: Path):
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "emu").symlink_to("cat")
    (tmp_path / "cat" / "more").symlink_to(tmp_path / "dog")
    table, log = read_set(tmp_path)
    assert table.ids.to_pylist() == ["cat/0.png", "dog/0.png", "emu/0.png"]
    assert table.labels.tolist() == [0, 1, 2]
    assert codes(log) == [] and codes(log, "warning") == ["symlinked-folder", "symlinked-folder"]


def test_a_set_of_symlinked_class_folders_alone_is_recognised(tmp_path: Path):
    write_class_folders(tmp_path / ".store", {"cat": 1, "dog": 1})
    for name in ("cat", "dog"):
        (tmp_path / name).symlink_to(tmp_path / ".store" / name)
    assert kind_of(str(tmp_path)) == "classification"
    assert read_set(tmp_path)[0].ids.to_pylist() == ["cat/0.png", "dog/0.png"]


@pytest.mark.parametrize("format", ["auto", "folder"])
@pytest.mark.parametrize("others", [{"cat": 1, "dog": 1}, {}])
def test_a_class_folder_that_leads_out_is_refused_and_named(others: dict[str, int], format: str, tmp_path: Path):
    outside = write_class_folders(tmp_path / "elsewhere", {"owl": 1}) / "owl"
    root = write_class_folders(tmp_path / "data", others)
    root.mkdir(exist_ok=True)
    (root / "owl").symlink_to(outside)
    said = f"{refusal('owl', outside, root)}: {COPY}"
    with pytest.raises(DataError) as caught:
        read_set(root, format=format)
    assert str(caught.value) == said
    with pytest.raises(DataError) as caught:
        read_boxes_or_not(root, format=format)
    assert str(caught.value) == said


def test_a_class_folder_that_leads_out_of_the_subset_is_refused(tmp_path: Path):
    write_class_folders(tmp_path / "all", {"cat": 1})
    write_class_folders(tmp_path / "train", {"dog": 1})
    (tmp_path / "train" / "cat").symlink_to(tmp_path / "all" / "cat")
    with pytest.raises(DataError) as caught:
        read_set(tmp_path, subset="train")
    assert str(caught.value) == f"{refusal('cat', tmp_path / 'all' / 'cat', tmp_path / 'train')}: {COPY}"


def test_a_class_folder_that_leads_to_the_folder_of_all_classes_is_refused(tmp_path: Path):
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "self").symlink_to(tmp_path)
    with pytest.raises(DataError) as caught:
        read_set(tmp_path)
    assert str(caught.value) == f"{refusal('self', tmp_path, tmp_path)}: {COPY}"


def test_where_nothing_but_class_folders_that_lead_out_lies_the_first_is_named(tmp_path: Path):
    outside = write_class_folders(tmp_path / "elsewhere", {"cat": 1, "dog": 1})
    (tmp_path / "data").mkdir()
    for name in ("dog", "cat"):
        (tmp_path / "data" / name).symlink_to(outside / name)
    with pytest.raises(DataError) as caught:
        kind_of(str(tmp_path / "data"))
    assert str(caught.value) == f"{refusal('cat', outside / 'cat', tmp_path / 'data')}: {COPY}"


def test_photos_beside_a_symlink_that_leads_out_are_no_classes(tmp_path: Path):
    outside = write_class_folders(tmp_path / "elsewhere", {"cat": 1})
    photos = write_class_folders(tmp_path / "photos", {"all": 1})
    (photos / "more").symlink_to(outside / "cat")
    assert kind_of(str(photos)) == "detection"


def imagenet(folder: Path) -> Path:
    """Write one picture of n01, and where that of n02 would be; return the folder of training images."""
    train = folder / "Data" / "CLS-LOC" / "train"
    write_image(train / "n01" / "n01_1.JPEG")
    return train


def test_a_class_folder_of_imagenet_may_be_a_symlink_to_a_folder_inside(tmp_path: Path):
    train = imagenet(tmp_path)
    write_image(train / ".store" / "n02_1.JPEG", value=1)
    (train / "n02").symlink_to(train / ".store")
    assert read_boxes_or_not(tmp_path, subset="train") == {"n01/n01_1.JPEG": "n01", "n02/n02_1.JPEG": "n02"}


def test_a_class_folder_of_imagenet_that_leads_out_is_refused_and_named(tmp_path: Path):
    write_image(tmp_path / "elsewhere" / "n02_1.JPEG", value=1)
    train = imagenet(tmp_path / "data")
    (train / "n02").symlink_to(tmp_path / "elsewhere")
    write_image(train.parent / "val" / "n01" / "n01_2.JPEG", value=2)
    for subset in ("train", "val"):  # whose classes the folders of train name
        with pytest.raises(DataError) as caught:
            read_boxes_or_not(tmp_path / "data", subset=subset)
        assert str(caught.value) == f"{refusal('n02', tmp_path / 'elsewhere', train)}: {COPY}"


def tiny_imagenet(folder: Path) -> Path:
    """Write one picture of n01, and where that of n02 would be; return the folder of training images."""
    write_image(folder / "train" / "n01" / "images" / "n01_0.JPEG", 64, 64)
    (folder / "wnids.txt").write_text("n01\nn02\n")
    return folder / "train"


def test_a_class_folder_of_tiny_imagenet_may_be_a_symlink_to_a_folder_inside(tmp_path: Path):
    train = tiny_imagenet(tmp_path)
    write_image(train / ".store" / "images" / "n02_0.JPEG", 64, 64, 1)
    (train / "n02").symlink_to(train / ".store")
    assert read_boxes_or_not(tmp_path, subset="train") == {
        "n01/images/n01_0.JPEG": "n01",
        "n02/images/n02_0.JPEG": "n02",
    }


@pytest.mark.parametrize("name", ["n02", "n02/images"])
def test_a_class_folder_of_tiny_imagenet_that_leads_out_is_refused_and_named(name: str, tmp_path: Path):
    outside = tmp_path / "elsewhere"
    write_image(outside / "images" / "n02_0.JPEG", 64, 64, 1)
    train = tiny_imagenet(tmp_path / "data")
    (train / name).parent.mkdir(exist_ok=True)
    (train / name).symlink_to(outside)
    with pytest.raises(DataError) as caught:
        read_boxes_or_not(tmp_path / "data", subset="train")
    assert str(caught.value) == f"{refusal(name, outside, train)}: {COPY}"


def test_classes_of_tiny_imagenet_lie_inside_whatever_its_list_says(tmp_path: Path):
    write_image(tmp_path / "elsewhere" / "images" / "a.JPEG", 64, 64, 1)
    tiny_imagenet(tmp_path / "data")
    (tmp_path / "data" / "wnids.txt").write_text("n01\n../../elsewhere\n")
    with pytest.raises(DataError, match=r"'\.\./\.\./elsewhere' contains '\.\.'; names must stay inside"):
        read_boxes_or_not(tmp_path / "data", subset="train")


# --- globs ------------------------------------------------------------------------------------------------------------


def test_a_glob_reads_what_a_symlink_inside_leads_to(tmp_path: Path):
    write_image(tmp_path / ".store" / "deep" / "a.jpg")
    write_image(tmp_path / "own" / "b.jpg", value=1)
    (tmp_path / "more").symlink_to(".store")
    assert in_glob(f"{tmp_path}/**/*.jpg") == ["more/deep/a.jpg", "own/b.jpg"]
    assert in_glob(f"{tmp_path}/*/deep/*.jpg") == ["more/deep/a.jpg"]
    table, log = read_set(f"{tmp_path}/**/*.jpg", needs_labels=False)
    assert table.ids.to_pylist() == ["more/deep/a.jpg", "own/b.jpg"] and not log.problems


def test_a_glob_reads_a_folder_once_however_many_symlinks_lead_there(tmp_path: Path):
    write_image(tmp_path / "own" / "b.jpg")
    for name in ("also", "own/again", "zero"):
        (tmp_path / name).symlink_to(tmp_path / "own")
    assert in_glob(f"{tmp_path}/**/*.jpg") == in_glob(f"{tmp_path}/*/*.jpg") == ["own/b.jpg"]
    assert in_glob(f"{tmp_path}/a*/*.jpg") == ["also/b.jpg"]  # whose own name does not match
    assert in_glob(f"{tmp_path}/**/again/*.jpg") == ["own/again/b.jpg"]


def test_a_glob_comes_to_an_end_where_symlinks_lead_in_circles(tmp_path: Path):
    write_image(tmp_path / "a" / "1.jpg")
    write_image(tmp_path / "b" / "2.jpg", value=1)
    for name, target in {"a/up": "", "a/over": "b", "b/over": "a", "b/here": "b"}.items():
        (tmp_path / name).symlink_to(tmp_path / target)
    assert in_glob(f"{tmp_path}/**/*.jpg") == ["a/1.jpg", "b/2.jpg"]
    assert in_glob(f"{tmp_path}/[ab]/**/*.jpg") == ["a/1.jpg", "b/2.jpg"]
    (tmp_path / "c").symlink_to("c")
    with pytest.raises(DataError, match=f"^{tmp_path}/c: cannot be followed: .*; remove the symlink$"):
        in_glob(f"{tmp_path}/**/*.jpg")


@pytest.mark.parametrize("below", ["**/*.jpg", "*/*.jpg", "m*/a.jpg"])
def test_a_glob_that_leads_out_is_refused_and_the_symlink_named(below: str, tmp_path: Path):
    write_image(tmp_path / "store" / "a.jpg")
    write_image(tmp_path / "photos" / "b.jpg", value=1)
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "store")
    said = refusal("more", tmp_path / "store", tmp_path / "photos")
    pattern = f"{tmp_path}/photos/{below}"
    with pytest.raises(DataError) as caught:
        read_set(pattern, needs_labels=False)
    assert str(caught.value) == f"{said}: {COPY}"
    with pytest.raises(DataError) as caught:
        read_table(pattern)
    way_out = f"set `images` to a folder that holds both, such as {tmp_path}, or copy what is there"
    assert str(caught.value) == f"{said}; {way_out}"
    table, log = read_table(pattern, images=str(tmp_path))  # the advice
    assert "store/a.jpg" in table.files and "more/a.jpg" in table.ids and not log.problems


def test_a_glob_that_does_not_need_a_symlink_does_not_mind_where_it_leads(tmp_path: Path):
    write_image(tmp_path / "store" / "a.jpg")
    write_image(tmp_path / "photos" / "own" / "b.jpg", value=1)
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "store")
    assert in_glob(f"{tmp_path}/photos/o*/*.jpg") == ["own/b.jpg"]
    assert in_glob(f"{tmp_path}/photos/more/*.jpg") == ["a.jpg"]  # before the first wildcard: it is named


def test_a_glob_of_parquet_files_follows_symlinks_as_one_of_images_does(tmp_path: Path):
    write_parquet(tmp_path / "data" / "own" / "b.parquet")
    write_parquet(tmp_path / "data" / ".store" / "a.parquet")
    (tmp_path / "data" / "more").symlink_to(".store")
    (tmp_path / "data" / "own" / "up").symlink_to("..")
    found = [tmp_path / "data" / "more" / "a.parquet", tmp_path / "data" / "own" / "b.parquet"]
    assert parquet_files(f"{tmp_path}/data/**/*.parquet", None) == found
    write_parquet(tmp_path / "elsewhere" / "c.parquet")
    (tmp_path / "data" / "out").symlink_to(tmp_path / "elsewhere")
    for below in ("**/*.parquet", "*/*.parquet"):
        with pytest.raises(DataError) as caught:
            read_set(f"{tmp_path}/data/{below}")
        assert str(caught.value) == f"{refusal('out', tmp_path / 'elsewhere', tmp_path / 'data')}: {COPY}"


def test_what_macos_adds_to_archives_is_no_parquet_file_of_a_glob(tmp_path: Path):
    write_parquet(tmp_path / "data" / "a.parquet")
    for name in ("._a.parquet", "__MACOSX/a.parquet", "__MACOSX/data/._a.parquet", "data/@eaDir/a.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    for below in ("**/*.parquet", "*/*.parquet", "**/a.parquet", "data/**"):
        assert parquet_files(f"{tmp_path}/{below}", None) == [tmp_path / "data" / "a.parquet"]
    table, log = read_set(f"{tmp_path}/**/*.parquet")
    assert len(table) == 6 and codes(log) == codes(log, "warning") == []


def test_a_folder_of_litter_that_the_user_names_is_read(tmp_path: Path):
    write_parquet(tmp_path / ".cache" / "data" / "a.parquet")
    assert parquet_files(f"{tmp_path}/.cache/**/*.parquet", None) == [tmp_path / ".cache" / "data" / "a.parquet"]
