from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet.data.classes.formats.published import known
from raydet.errors import DataError
from tests.tiny_data import codes
from tests.tiny_images import (
    LABELS,
    NAMES,
    cifar_pixels,
    noise,
    read_set,
    set_config,
    write_cifar10,
    write_cifar10_binary,
    write_cifar100,
)


def test_cifar10_is_read_as_published(tmp_path: Path) -> None:
    table, log = read_set(write_cifar10(tmp_path), subset="train")
    assert log.counts == {}
    assert len(table) == 30 and table.class_names == NAMES  # five batches of six
    assert table.labels.tolist() == list(LABELS) * 5
    assert table.id_at(7) == "data_batch_2/1" and table.name_at(7) == f"{tmp_path / 'data_batch_2'}, row 1"
    # batch 2 starts at picture 200; the picture is stored colour by colour
    assert np.array_equal(table.pixels_at(7).permute(1, 2, 0).numpy(), noise(1, 201, 32, 32))
    test, _ = read_set(tmp_path, subset="test")
    assert len(test) == 6 and test.id_at(0) == "test_batch/0"


def test_the_folder_around_the_unpacked_archive_will_do(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py")
    assert len(read_set(tmp_path, subset="test")[0]) == 6


def test_the_binary_version_gives_the_same_pictures(tmp_path: Path) -> None:
    binary, _ = read_set(write_cifar10_binary(tmp_path / "bin"), subset="train")
    pickled, _ = read_set(write_cifar10(tmp_path / "py"), subset="train")
    assert binary.content.equals(pickled.content) and binary.class_names == pickled.class_names
    assert binary.labels.tolist() == pickled.labels.tolist() and binary.ids.equals(pickled.ids)


def test_cifar100_has_the_fine_labels(tmp_path: Path) -> None:
    table, _ = read_set(write_cifar100(tmp_path), subset="train")
    assert table.labels.tolist() == list(LABELS) and table.class_names == NAMES and table.id_at(5) == "train/5"


def test_the_binary_version_of_cifar100_has_the_fine_label_second(tmp_path: Path) -> None:
    coarse = np.full((6, 1), 1, np.uint8)
    fine = np.array(LABELS, np.uint8)[:, None]
    np.concatenate([coarse, fine, cifar_pixels(LABELS)], axis=1).tofile(tmp_path / "train.bin")
    (tmp_path / "fine_label_names.txt").write_text("\n".join(NAMES))
    table, _ = read_set(tmp_path)
    assert table.labels.tolist() == list(LABELS) and table.class_names == NAMES
    assert np.array_equal(table.pixels_at(4).permute(1, 2, 0).numpy(), noise(1, 4, 32, 32))


def test_the_subset_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds train, test; say which one with `subset`"):
        read_set(write_cifar10(tmp_path))
    with pytest.raises(DataError, match=r"no subset 'val' \(there is: train, test\)"):
        read_set(tmp_path, subset="val")


def test_a_missing_batch_or_list_of_names_is_refused(tmp_path: Path) -> None:
    (write_cifar10(tmp_path) / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4 is missing; unpack the archive again"):
        read_set(tmp_path, subset="train")
    (tmp_path / "batches.meta").unlink()
    with pytest.raises(DataError, match=r"batches\.meta with the class names is missing"):
        read_set(tmp_path, subset="test")
    with pytest.raises(DataError, match="no cifar100 there; looked for meta and train or fine_label_names"):
        read_set(tmp_path, format="cifar100", subset="test")


def test_a_label_that_is_no_class_is_reported_with_its_row(tmp_path: Path) -> None:
    table, log = read_set(write_cifar10(tmp_path, test=(0, 3, -2)), subset="test")
    assert codes(log) == ["label-range", "label-range"] and len(table) == 1
    assert "test_batch, row 1: label 3 of image id test_batch/1: there are 3 classes, 0 to 2" in str(log.problems[0])


# --- broken and hostile files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_batch", "batches.meta"])
@pytest.mark.parametrize("keep", [0, 40, -1])
def test_a_pickle_that_is_not_the_published_one_is_refused(tmp_path: Path, name: str, keep: int) -> None:
    file = write_cifar10(tmp_path) / name
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"{name}: its MD5 is .{{32}}, the published file has .*download it again, or"):
        read_set(tmp_path, subset="test")


@pytest.mark.parametrize("size", [0, 3072, 6 * 3073 - 1])
def test_a_binary_file_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    write_cifar10_binary(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(bytes(size))
    with pytest.raises(DataError, match=f"test_batch.bin: {size:,} bytes is no multiple of 3,073"):
        read_set(tmp_path, subset="test")


class _Runs:
    """Pickles as a call of `os.system`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_that_calls_something_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    evil = pickle.dumps({"data": _Runs(marker)})
    (write_cifar10(tmp_path / "cifar") / "test_batch").write_bytes(evil)
    with pytest.raises(DataError, match=r"test_batch: its MD5 .*not opened, since such a file may run code"):
        read_set(tmp_path / "cifar", subset="test")
    assert not marker.exists()
    pickle.loads(evil)  # the control: this pickle does run where pickles are trusted
    assert marker.exists()


def test_the_checksums_are_those_that_the_publishers_state() -> None:
    # of CIFAR-10's first batch (cs.toronto.edu/~kriz/cifar.html, as torchvision lists it)
    assert "c99cafc152244af753f735de768cd75f" in known()["data_batch_1"]
    assert len(known()) == 7 + 3 + 3  # CIFAR-10: six batches, names; CIFAR-100: two, names; SVHN: three


def test_what_is_no_file_is_missing_and_a_list_of_names_is_short(tmp_path: Path) -> None:
    write_cifar10_binary(tmp_path)
    (tmp_path / "data_batch_2.bin").unlink()
    os.mkfifo(tmp_path / "data_batch_2.bin")  # opening it would wait forever
    with pytest.raises(DataError, match=r"data_batch_2\.bin is missing"):
        read_set(tmp_path, subset="train")
    with (tmp_path / "batches.meta.txt").open("wb") as stream:
        stream.truncate((1 << 20) + 1)
    with pytest.raises(
        DataError, match=r"batches\.meta\.txt: 1,048,577 bytes; a list of class names has at most 1,048,576"
    ):
        read_set(tmp_path, subset="test")


def test_auto_tells_the_cifars_apart(tmp_path: Path) -> None:
    from raydet.data.classes.formats.detect import detect_format

    assert detect_format(set_config(write_cifar10(tmp_path / "a"))) == "cifar10"
    assert detect_format(set_config(write_cifar100(tmp_path / "b"))) == "cifar100"
    assert detect_format(set_config(write_cifar10_binary(tmp_path / "c"))) == "cifar10"
