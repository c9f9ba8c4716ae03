from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from raydet.errors import DataError
from tests.tiny_images import noise, publish, read_set


def write_svhn(file: Path, labels: tuple[int, ...] = (10, 1, 9)) -> Path:
    """Write X `[H, W, 3, N]` and y `[N, 1]` as published; a changed entry of None is left out."""
    io = pytest.importorskip("scipy.io", reason="SciPy writes the files")
    pixels = np.stack([noise(label, row, 32, 32) for row, label in enumerate(labels)], axis=3)
    content = {"X": pixels, "y": np.array(labels, np.uint8)[:, None]}
    io.savemat(file, content, do_compression=True)
    return publish(file)


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


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    file = write_svhn(tmp_path / "train_32x32.mat")
    whole = file.read_bytes()
    for broken in (b"", whole[:100], whole[:300] + bytes(500) + whole[800:]):
        file.write_bytes(broken)
        with pytest.raises(DataError, match=r"train_32x32\.mat: its MD5 is .{32}, the published file has"):
            read_set(file)


def test_without_scipy_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_svhn(tmp_path / "train_32x32.mat")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match=r"read with SciPy: pip install 'raydet\[svhn\]'"):
        read_set(file)
