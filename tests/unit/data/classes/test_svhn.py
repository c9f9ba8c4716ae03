from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet.data.classes.formats.mat5 import list_variables
from raydet.errors import DataError
from tests.tiny_images import noise, read_set


def write_svhn(file: Path, labels: tuple[int, ...] = (10, 1, 9), **change: Any) -> Path:
    """Write X `[H, W, 3, N]` and y `[N, 1]` as published; a changed entry of None is left out."""
    io = pytest.importorskip("scipy.io", reason="SciPy writes the files")
    pixels = np.stack([noise(label, row, 32, 32) for row, label in enumerate(labels)], axis=3)
    content = {"X": pixels, "y": np.array(labels, np.uint8)[:, None], **change}
    io.savemat(file, {key: value for key, value in content.items() if value is not None}, do_compression=True)
    return file


def test_svhn_is_read_and_label_10_is_the_digit_0(tmp_path: Path) -> None:
    write_svhn(tmp_path / "train_32x32.mat")
    table, log = read_set(tmp_path)
    assert log.counts == {} and table.class_names == tuple("0123456789") and table.labels.tolist() == [0, 1, 9]
    assert table.id_at(2) == "train_32x32/2"
    assert np.array_equal(table.pixels_at(2).permute(1, 2, 0).numpy(), noise(9, 2, 32, 32))  # rows stay rows
    write_svhn(tmp_path / "test_32x32.mat", (3,))
    assert read_set(tmp_path, subset="test")[0].labels.tolist() == [3]
    assert read_set(tmp_path / "test_32x32.mat")[0].labels.tolist() == [3]
    with pytest.raises(DataError, match="holds train, test; say which one with `subset`"):
        read_set(tmp_path)


@pytest.mark.parametrize("label", [0, 11])
def test_other_labels_are_refused(tmp_path: Path, label: int) -> None:
    with pytest.raises(DataError, match=f"labels {label}; expected 1 to 10, where 10 is the digit 0"):
        read_set(write_svhn(tmp_path / "train_32x32.mat", (1, label)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": None}, "expected X .* and y"),
        ({"X": np.zeros((32, 32, 3, 3))}, r"holds 'X' \[32, 32, 3, 3\] double"),
        ({"X": np.zeros((3, 32, 32, 3), np.uint8)}, r"expected X \[height, width, 3, images\]"),
        ({"y": np.ones((5, 1), np.uint8)}, "3 images, but 5 labels"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"train_32x32\.mat: .*" + message):
        read_set(write_svhn(tmp_path / "train_32x32.mat", **change))


def test_more_than_memory_holds_is_refused_by_what_is_announced(tmp_path: Path) -> None:
    file = tmp_path / "train_32x32.mat"

    def announce(height: int, width: int, count: int) -> None:
        pixels, digits = np.zeros((32, 32, 3, 6000), np.uint8), np.ones((6000, 1), np.uint8)
        pytest.importorskip("scipy.io").savemat(file, {"X": pixels, "y": digits})
        content = file.read_bytes().replace(
            struct.pack("<4i", *pixels.shape), struct.pack("<4i", height, width, 3, count)
        )
        file.write_bytes(content.replace(struct.pack("<2i", 6000, 1), struct.pack("<2i", count, 1)))

    announce(32, 32, 1_400_000)
    with pytest.raises(DataError) as error:
        read_set(file)
    assert str(error.value) == (
        f"{file}: 4,300,800,000 bytes unpacked, at most 4,294,967,296 are read; no published SVHN file is that large: "
        "download it again"
    )
    announce(1, 1, (1 << 24) + 1)
    with pytest.raises(DataError, match="16,777,217 images or labels, at most 16,777,216 are read"):
        read_set(file)


def test_a_name_given_twice_is_refused_since_the_first_one_would_be_read(tmp_path: Path) -> None:
    first = write_svhn(tmp_path / "first.mat", X=np.zeros((32, 32, 3, 3))).read_bytes()  # float64
    second = write_svhn(tmp_path / "second.mat").read_bytes()
    (tmp_path / "train_32x32.mat").write_bytes(first + second[128:])  # behind the header
    with pytest.raises(DataError, match=r"holds 'X' \[32, 32, 3, 3\] double, 'y' .* uint8 and y, each once"):
        read_set(tmp_path / "train_32x32.mat")


def test_labels_that_are_no_numbers_are_refused_before_they_are_read(tmp_path: Path) -> None:
    cells = np.full((3, 1), None, dtype=object)
    cells[:] = 1
    with pytest.raises(DataError, match=r"holds 'X' \[32, 32, 3, 3\] uint8, 'y' \[3, 1\] cell; expected"):
        read_set(write_svhn(tmp_path / "train_32x32.mat", y=cells))


def test_escape_sequences_in_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "train_32x32.mat"
    io = pytest.importorskip("scipy.io")
    io.savemat(file, {"evil": np.zeros((1, 1))})
    file.write_bytes(file.read_bytes().replace(b"evil", b"\x1b[2J"))
    with pytest.raises(DataError, match=r"holds '\\x1b\[2J' \[1, 1\] double; expected"):
        read_set(file)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file = write_svhn(tmp_path / "train_32x32.mat")
    whole = file.read_bytes()
    for broken in (b"", whole[:100], whole[:-500], whole[:300] + bytes(500) + whole[800:]):
        file.write_bytes(broken)
        with pytest.raises(DataError, match=r"train_32x32\.mat: "):
            read_set(file)


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i4", "f4", "f8", "u8"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_arrays_are_read_as_scipy_wrote_them(tmp_path: Path, kind: str, count: int, is_compressed: bool) -> None:
    io = pytest.importorskip("scipy.io")
    one, two = np.arange(count, dtype=kind)[:, None], np.arange(6 * count, dtype=kind).reshape(2, count, 3)
    io.savemat(tmp_path / "a.mat", {"one": one, "other": two}, do_compression=is_compressed)
    variables = list_variables(tmp_path / "a.mat")
    assert [variable.name for variable in variables] == ["one", "other"]
    for variable, array in zip(variables, (one, two), strict=True):
        assert variable.shape == array.shape
        assert variable.read().dtype == array.dtype and np.array_equal(variable.read(), array)


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">2I", kind, len(data)) + data + bytes(-len(data) % 8)

    numbers = element(3, struct.pack(">6h", 1, -2, 3, -4, 5, 600))
    flags, shape = element(6, struct.pack(">2I", 10, 0)), element(5, struct.pack(">2i", 3, 2))
    name = struct.pack(">2H2s2x", 2, 1, b"ab")  # in the tag itself
    matrix = element(14, flags + shape + name + numbers)
    for content in (matrix, struct.pack(">2I", 15, len(zlib.compress(matrix))) + zlib.compress(matrix)):
        (tmp_path / "a.mat").write_bytes(b"MATLAB".ljust(124) + b"\x01\x00MI" + content)
        (variable,) = list_variables(tmp_path / "a.mat")
        assert (variable.name, variable.kind, variable.shape) == ("ab", "int16", (3, 2))
        assert variable.read().tolist() == [[1, -4], [-2, 5], [3, 600]]


def test_files_damaged_anywhere_are_refused_or_read(tmp_path: Path) -> None:
    io, file = pytest.importorskip("scipy.io"), tmp_path / "train_32x32.mat"
    for is_compressed in (False, True):
        content = {"X": np.zeros((2, 2, 3, 3), np.uint8), "y": np.ones((3, 1))}
        io.savemat(file, content, do_compression=is_compressed)
        whole = file.read_bytes()
        for place in range(124, len(whole)):
            for value in (0, 1, 0x7F, 0xFF, whole[place] ^ 1):
                file.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
                with contextlib.suppress(DataError):
                    read_set(file)
