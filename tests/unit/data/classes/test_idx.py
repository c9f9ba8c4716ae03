from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from raydet.errors import DataError
from tests.tiny_data import codes
from tests.tiny_images import LABELS, noise, read_set, write_idx


@pytest.mark.parametrize("packed", [False, True])
def test_idx_is_read_packed_or_not(tmp_path: Path, packed: bool) -> None:
    write_idx(tmp_path, packed=packed)
    write_idx(tmp_path, (2, 1, 0), subset="t10k", packed=packed, first=50)
    table, log = read_set(tmp_path, subset="train")
    assert log.counts == {} and table.labels.tolist() == list(LABELS) and table.class_names == ("0", "1", "2")
    assert table.id_at(4) == "train/4" and "train-images-idx3-ubyte" in table.name_at(4)
    pixels = table.pixels_at(4)
    assert pixels.shape == (3, 8, 8)  # gray: three equal channels
    assert all(np.array_equal(channel.numpy(), noise(1, 4)[..., 0]) for channel in pixels)
    assert read_set(tmp_path, subset="test")[0].labels.tolist() == [2, 1, 0]
    with pytest.raises(DataError, match="holds test, train; say which one|holds train, test; say which one"):
        read_set(tmp_path)


def test_labels_that_do_not_start_at_zero_are_classes_all_the_same(tmp_path: Path) -> None:
    table, log = read_set(write_idx(tmp_path, (26, 1, 7)))  # EMNIST letters count from 1
    assert table.class_names == ("1", "7", "26") and table.labels.tolist() == [2, 0, 1] and log.counts == {}


def test_class_names_may_be_given_beside_the_files(tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / "classes.json").write_text('["shirt", "shoe"]')
    table, log = read_set(tmp_path)
    assert table.class_names == ("shirt", "shoe") and codes(log) == ["label-range", "label-range"]  # twice label 2


def test_images_without_labels_serve_as_unlabelled_only(tmp_path: Path) -> None:
    write_idx(tmp_path, labels=None)
    table, log = read_set(tmp_path, needs_labels=False)
    assert table.labels.tolist() == [-1] * 6 and table.class_names == () and log.counts == {}
    assert codes(read_set(tmp_path)[1]) == ["no-labels"]


def images(folder: Path) -> Path:
    return folder / "train-images-idx3-ubyte"


@pytest.mark.parametrize("keep", [0, 3, 10, 16, 100, -1])
def test_a_cut_off_file_is_refused(tmp_path: Path, keep: int) -> None:
    file = images(write_idx(tmp_path))
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(
        DataError, match="idx3-ubyte: (not an IDX file|cut off in its header|6 x 8 x 8 .* less, so it is cut off)"
    ):
        read_set(tmp_path)


def test_more_than_announced_is_refused(tmp_path: Path) -> None:
    file = images(write_idx(tmp_path))
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(DataError, match="6 x 8 x 8 bytes are announced, but there are more"):
        read_set(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_memory_grows_with_what_there_is_not_with_what_is_announced(tmp_path: Path, packed: bool) -> None:
    file = tmp_path / (images(tmp_path).name + ".gz" * packed)

    def write(*shape: int) -> None:
        content = struct.pack(">4I", 0x803, *shape) + b"x"
        file.write_bytes(gzip.compress(content) if packed else content)

    write((1 << 32) - 1, 1 << 14, 1 << 14)  # a billion GB
    with pytest.raises(DataError, match="4294967295 x 16384 x 16384 bytes are announced, at most 4,294,967,296 are"):
        read_set(tmp_path)
    write(4096, 1024, 1024)  # 4 GiB, the most that is read
    tracemalloc.start()
    with pytest.raises(DataError, match="4096 x 1024 x 1024 bytes are announced, but there are less, so it is cut off"):
        read_set(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20, peak  # bytes


def test_more_images_than_are_read_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "train-images-idx3-ubyte.gz"
    content = struct.pack(">4I", 0x803, (1 << 24) + 1, 1, 1) + bytes(1 << 24)  # images of one pixel
    file.write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match="16,777,217 images or labels, at most 16,777,216 are read; use a part of them"):
        read_set(tmp_path)


def test_what_is_no_file_is_no_image_file_and_odd_names_are_refused(tmp_path: Path) -> None:
    os.mkfifo(images(tmp_path))  # opening it would wait forever
    with pytest.raises(DataError, match="no IDX images there"):
        read_set(tmp_path, format="idx")
    (tmp_path / "\x1b[2J-train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"the file name '\\x1b\[2J-train-images-idx3-ubyte' is not valid UTF-8 or contains"
    ):
        read_set(tmp_path, format="idx")


def test_another_magic_number_is_refused(tmp_path: Path) -> None:
    file = images(write_idx(tmp_path))
    file.write_bytes(struct.pack(">I", 0x0D03) + file.read_bytes()[4:])  # floats
    with pytest.raises(DataError, match="not an IDX file of this kind: starts with '00000d03', not '00000803'"):
        read_set(tmp_path)


def test_images_and_labels_must_be_equally_many(tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 5) + bytes(5))
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: 5 labels, but train-images-idx3-ubyte has 6 images"):
        read_set(tmp_path)


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    file = write_idx(tmp_path, packed=True) / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    for broken in (whole[:-20], whole[:50] + b"\0" * 40 + whole[90:], b"not gzip", whole[:-6] + b"\0\0" + whole[-4:]):
        file.write_bytes(broken)
        with pytest.raises(DataError, match=r"idx3-ubyte\.gz: damaged gzip .*copy or download it again"):
            read_set(tmp_path)


def test_two_files_for_one_purpose_are_refused(tmp_path: Path) -> None:
    file = images(write_idx(tmp_path))
    file.with_name("emnist-train-images-idx3-ubyte").write_bytes(file.read_bytes())
    with pytest.raises(DataError, match="give each set a folder of its own"):
        read_set(tmp_path)
