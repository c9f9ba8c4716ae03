from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

import pytest

from raydet.config.box_data import DatasetConfig
from raydet.data.boxes.formats.detect import read_source
from raydet.data.classes.formats.detect import detect_format, read_images
from raydet.data.folder import walk
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from tests.tiny_data import codes
from tests.tiny_images import encoded, noise, read_set, set_config, write_class_folders


def test_a_folder_a_class_gives_labels_by_the_order_of_the_names(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"dog": 2, "Cat": 1})
    (tmp_path / "dog" / "puppies").mkdir()
    (tmp_path / "dog" / "puppies" / "x.JPG").write_bytes(encoded(noise(1, 9), "JPEG"))
    table, log = read_set(tmp_path)
    assert log.counts == {} and table.class_names == ("Cat", "dog")
    assert table.ids.to_pylist() == ["Cat/0.png", "dog/0.png", "dog/1.png", "dog/puppies/x.JPG"]
    assert table.labels.tolist() == [0, 1, 1, 1]
    assert table.name_at(2) == str(tmp_path / "dog" / "1.png") and table.holds_files
    assert table.pixels_at(3).shape == (3, 8, 8)


def test_a_subset_is_a_folder_below(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", {"cat": 2, "dog": 2})
    write_class_folders(tmp_path / "val", {"cat": 1, "dog": 1}, first=10)
    assert read_set(tmp_path, subset="val")[0].ids.to_pylist() == ["cat/10.png", "dog/10.png"]
    with pytest.raises(DataError, match="holds the subsets train, val; name one with `subset`"):
        read_set(tmp_path)
    with pytest.raises(DataError, match="test: no such folder"):
        read_set(tmp_path, subset="test", format="folder")
    with pytest.raises(DataError, match=r"contains '\.\.'"):
        read_set(tmp_path / "train", subset="../val", format="folder")


def test_images_without_a_class_folder_have_no_label(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "stray.png").write_bytes(encoded(noise(0, 5)))
    assert read_set(tmp_path, needs_labels=False)[0].labels.tolist() == [0, 1, -1]
    _, log = read_set(tmp_path)
    assert codes(log) == ["label-missing"] and "stray.png" in str(log.problems[0])


def test_a_glob_reads_images_without_labels(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": 2, "dog": 1})
    table, log = read_set(tmp_path / "**" / "*.png", needs_labels=False)
    assert table.labels.tolist() == [-1, -1, -1] and table.class_names == () and log.counts == {}


def test_other_files_are_passed_over_with_a_word(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "notes.txt").write_text("")
    (tmp_path / "cat" / ".DS_Store").write_text("")
    (tmp_path / "dog" / "film.gif").write_text("")
    table, log = read_set(tmp_path)
    assert len(table) == 2 and codes(log) == [] and codes(log, "warning") == ["other-files"]
    assert "2 files with other endings were passed over" in str(log.problems[0])


def test_symlinks_must_stay_inside(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(noise(0, 77)))
    root = write_class_folders(tmp_path / "data", {"cat": 1, "dog": 1})
    (root / "cat" / "inside.png").symlink_to(root / "dog" / "0.png")
    (root / "dog" / "outside.png").symlink_to(secret)
    (root / "cat" / "more").symlink_to(root / "dog")
    table, log = read_set(root)
    assert table.ids.to_pylist() == ["cat/0.png", "cat/inside.png", "dog/0.png"]
    assert codes(log) == ["file-name"] and "is a symlink out of the image root" in str(log.problems[-1])
    assert codes(log, "warning") == ["symlinked-folder"]


def test_what_is_no_file_is_reported_and_never_opened(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    os.mkfifo(tmp_path / "cat" / "pipe.png")  # opening it would wait forever
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "dog" / "nowhere.png")
    table, log = read_set(tmp_path)
    assert len(table) == 2 and codes(log) == ["image-missing", "image-missing"]
    assert "pipe.png: not a regular file" in str(log.problems[0])
    _, log = read_set(tmp_path / "*" / "*.png", needs_labels=False)
    assert codes(log) == []  # a glob finds neither
    (tmp_path / "dog" / "loop.png").symlink_to(tmp_path / "dog" / "loop.png")
    with pytest.raises(DataError, match=r"loop\.png: cannot be followed: Too many levels of symbolic links; remove"):
        read_set(tmp_path)


def test_where_all_images_are_symlinks_out_of_the_folder_that_is_said(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "real", {"cat": 1, "dog": 1})
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "0.png").symlink_to(tmp_path / "real" / name / "0.png")
    _, log = read_set(tmp_path / "data")
    assert codes(log) == ["file-name", "file-name", "no-images"]
    assert str(log.problems[0]).endswith(
        f"file name 'cat/0.png' is a symlink out of the image root {tmp_path}/data; copy the file there"
    )


def test_a_symlink_in_a_circle_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat" / "loop")
    named = r"cat/loop: cannot be followed: Too many levels of symbolic links; remove the symlink"
    for format in ("auto", "folder"):
        with pytest.raises(DataError, match=named):
            read_set(tmp_path, format=format)
    for format in ("auto", "folder"):  # among images with boxes
        with pytest.raises(DataError, match=named):
            read_source(DatasetConfig.model_validate({"path": str(tmp_path), "format": format}), ProblemLog())
    (tmp_path / "train").symlink_to(tmp_path / "train")
    with pytest.raises(DataError, match="train: no such folder"):
        read_set(tmp_path, format="folder", subset="train")


def test_escape_sequences_in_names_of_folders_do_not_reach_the_terminal(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "dog" / "\x1b[2J").symlink_to(tmp_path / "cat")
    _, log = read_set(tmp_path)
    assert log.warnings() == (
        f"[symlinked-folder] '{tmp_path}/dog/\\x1b[2J': a symlinked folder is not entered; name its target as the data "
        "set, or copy it",
    )
    (tmp_path / "\x1b[2J").symlink_to("/")
    with pytest.raises(DataError, match=r"^folder '\\x1b\[2J' is a symlink to '/'; those must lead"):
        read_set(tmp_path)
    (tmp_path / "\x1b[2J").unlink()
    (tmp_path / "\x1b[2J").symlink_to(tmp_path / "\x1b[2J")
    with pytest.raises(DataError, match=r"^'/.*/\\x1b\[2J': cannot be followed"):
        read_set(tmp_path)


def test_folders_may_be_nested_more_deeply_than_functions(tmp_path: Path) -> None:
    file = tmp_path / ("a/" * 100) / "x.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 50)
    try:
        found = list(walk(tmp_path, ProblemLog()))
    finally:
        sys.setrecursionlimit(limit)
    assert found == [file]


def test_a_file_that_is_no_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "0.png").write_text("hello")
    with pytest.raises(DataError, match=r"cat/0\.png: not an image that can be read"):
        read_images(set_config(tmp_path), ProblemLog()).pixels_at(0)


def test_auto_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image set found there; looked for data_batch_1.*\.mat.*idx3.*parquet"):
        detect_format(set_config(tmp_path))
    with pytest.raises(DataError, match="no such file or folder"):
        detect_format(set_config(tmp_path / "nothing"))
    (tmp_path / "x.zip").write_text("")
    with pytest.raises(DataError, match="format unknown"):
        detect_format(set_config(tmp_path / "x.zip"))
    assert detect_format(set_config(write_class_folders(tmp_path / "f", {"a": 1}))) == "folder"
    assert detect_format(set_config("some/**/*.jpg")) == "folder"
    assert detect_format(set_config("patterns")) == "patterns"


def test_an_empty_class_folder_is_a_class_without_images(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": 1, "dog": 0})
    table, _ = read_set(tmp_path)
    assert table.class_names == ("cat", "dog") and table.images_per_class().tolist() == [1, 0]
    (tmp_path / "cat" / "0.png").unlink()
    with pytest.raises(DataError, match="no images there"):
        read_set(tmp_path, format="folder")
