from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet.errors import DataError, UserError
from tests.tiny_images import noise, read_set


def write_svhn(file: Path, labels: tuple[int, ...] = (10, 1, 9), **change: Any) -> Path:
    """Write X `[H, W, 3, N]` and y `[N, 1]` as published; a changed entry of None is left out."""
    io = pytest.importorskip("scipy.io", reason="SVHN needs SciPy: pip install 'raydet[svhn]'")
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
        ({"X": np.zeros((32, 32, 3, 3))}, r"holds X \[32, 32, 3, 3\] double"),
        ({"X": np.zeros((3, 32, 32, 3), np.uint8)}, r"expected X \[height, width, 3, images\]"),
        ({"y": np.ones((5, 1), np.uint8)}, "3 images, but 5 labels"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"train_32x32\.mat: .*" + message):
        read_set(write_svhn(tmp_path / "train_32x32.mat", **change))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file = write_svhn(tmp_path / "train_32x32.mat")
    whole = file.read_bytes()
    for broken in (b"", whole[:100], whole[:-500], whole[:300] + bytes(500) + whole[800:]):
        file.write_bytes(broken)
        with pytest.raises(DataError, match=r"train_32x32\.mat: "):
            read_set(file)


def test_without_scipy_the_command_to_install_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train_32x32.mat").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UserError, match=r"need SciPy; install it: pip install 'raydet\[svhn\]'"):
        read_set(tmp_path)
