from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.data.classes.index import ImageIndex, write_images
from raydet.data.classes.table import ImageTable, encoded_table, files_table, raw_table
from raydet.errors import DataError
from tests.tiny_images import encoded, noise


def raw(count: int = 5, channels: int = 3) -> ImageTable:
    pixels = np.stack([noise(0, number, 4, 6).transpose(2, 0, 1)[:channels] for number in range(count)])
    labels = np.array([0, 1, 1, -1, 0])[:count]
    ids = [f"b/{number}" for number in range(count)]
    return raw_table(ids, pixels, labels, ("cat", "dog"), [("first.bin", 2), ("second.bin", count - 2)])


def from_png() -> ImageTable:
    content = pa.array([encoded(noise(0, number)) for number in range(3)], pa.large_binary())
    ids = pa.array(["x", "ü", "7"], pa.large_utf8())
    return encoded_table(ids, content, np.array([1, 0, 1]), ("cat", "dog"), [("a.parquet", 3)])


def opened(table: ImageTable, folder: Path) -> ImageIndex:
    write_images(folder / "a.arrow", table)
    return ImageIndex.open(folder / "a.arrow")


def test_an_index_returns_what_was_written(tmp_path: Path) -> None:
    index = opened(raw(), tmp_path)
    assert len(index) == 5 and index.class_names == ("cat", "dog")
    assert index.ids() == ["b/0", "b/1", "b/2", "b/3", "b/4"] and index.id_at(3) == "b/3"
    assert [index.position(image_id) for image_id in index.ids()] == [0, 1, 2, 3, 4]
    assert index.labels().tolist() == [0, 1, 1, -1, 0] and index.labels().dtype == np.int64
    assert (index.label_at(2), index.label_at(3)) == (1, -1)
    assert index.images_per_class().tolist() == [2, 2]
    assert index.name_at(1) == "first.bin, row 1" and index.name_at(4) == "second.bin, row 2"
    pixels = index.pixels_at(4)
    assert pixels.dtype == torch.uint8 and np.array_equal(pixels.permute(1, 2, 0).numpy(), noise(0, 4, 4, 6))
    pixels.zero_()  # a copy: the file stays as it is
    assert np.array_equal(index.pixels_at(4).permute(1, 2, 0).numpy(), noise(0, 4, 4, 6))


def test_gray_pixels_become_three_equal_channels(tmp_path: Path) -> None:
    pixels = opened(raw(channels=1), tmp_path).pixels_at(0)
    assert pixels.shape == (3, 4, 6) and torch.equal(pixels[0], pixels[2])
    assert np.array_equal(pixels[0].numpy(), noise(0, 0, 4, 6)[..., 0])


def test_encoded_images_are_decoded_from_the_index(tmp_path: Path) -> None:
    index = opened(from_png(), tmp_path)
    assert np.array_equal(index.pixels_at(1).permute(1, 2, 0).numpy(), noise(0, 1))
    assert index.position("ü") == 1 and index.name_at(2) == "a.parquet, row 2"
    with pytest.raises(KeyError, match="'nobody'"):
        index.position("nobody")


def test_images_in_files_stay_there(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(encoded(noise(0, 1)))
    table = files_table(tmp_path, ["cat/1.png", "cat/2.png"], np.array([0, 0]), ("cat",))
    index = opened(table, tmp_path)
    assert index.ids() == ["cat/1.png", "cat/2.png"] and index.name_at(1) == str(tmp_path / "cat" / "2.png")
    assert np.array_equal(index.pixels_at(0).permute(1, 2, 0).numpy(), noise(0, 1))
    with pytest.raises(DataError, match=r"2\.png: no such image file"):
        index.pixels_at(1)
    with pytest.raises(DataError, match=r"contains '\.\.'"):
        files_table(tmp_path, ["../1.png"], np.array([0]), ("cat",)).pixels_at(0)


def test_a_part_of_a_table_is_written_like_a_whole_one(tmp_path: Path) -> None:
    for table in (raw(), from_png()):
        some = opened(table.take(np.array([2, 0])), tmp_path)
        assert some.ids() == [table.id_at(2), table.id_at(0)] and some.name_at(0) == table.name_at(2)
        assert torch.equal(some.pixels_at(0), table.pixels_at(2)) and torch.equal(some.pixels_at(1), table.pixels_at(0))
        assert len(opened(table.take(np.zeros(0, dtype=np.int64)), tmp_path)) == 0


def test_without_pixels_only_names_and_labels_are_left(tmp_path: Path) -> None:
    for table in (raw(), from_png()):
        index = opened(table.without_pixels(), tmp_path)
        assert index.labels().tolist() == table.labels.tolist() and index.ids() == table.ids.to_pylist()
        with pytest.raises(DataError, match="row 0: no pixels are stored with this label"):
            index.pixels_at(0)


def test_an_index_pickles_as_its_path(tmp_path: Path) -> None:
    index = opened(raw(), tmp_path)
    assert len(pickle.dumps(index)) < 300
    again = pickle.loads(pickle.dumps(index))
    assert again.ids() == index.ids() and again.path == index.path.absolute()


@pytest.mark.parametrize("table", [raw(), from_png()], ids=["raw", "encoded"])
def test_any_changed_byte_is_noticed(tmp_path: Path, table: ImageTable) -> None:
    write_images(tmp_path / "a.arrow", table)
    whole = (tmp_path / "a.arrow").read_bytes()
    content, ids = bytes(table.content[1].as_py()), "".join(table.ids.to_pylist()).encode()
    # the class names come twice, and the second time, in the footer, counts
    for position in (whole.index(content), whole.index(ids), whole.rindex(b"cat")):
        broken = bytearray(whole)
        broken[position] ^= 1
        (tmp_path / "b.arrow").write_bytes(broken)
        with pytest.raises(DataError, match=r"b\.arrow: (damaged|not a raydet image index).*prepare the data again"):
            ImageIndex.open(tmp_path / "b.arrow")


@pytest.mark.parametrize("keep", [0, 10, 1000, -8])
def test_half_an_index_is_refused(tmp_path: Path, keep: int) -> None:
    write_images(tmp_path / "a.arrow", raw())
    (tmp_path / "b.arrow").write_bytes((tmp_path / "a.arrow").read_bytes()[:keep])
    with pytest.raises(DataError, match=r"b\.arrow: damaged or not an image index"):
        ImageIndex.open(tmp_path / "b.arrow")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such image index; prepare the data first"):
        ImageIndex.open(tmp_path / "a.arrow")
    batch = pa.RecordBatch.from_pydict({"id": ["x"]})
    with pa.ipc.new_file(os.fspath(tmp_path / "b.arrow"), batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(DataError, match="not a raydet image index"):
        ImageIndex.open(tmp_path / "b.arrow")


@given(
    ids=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=30, unique=True)
)
@settings(max_examples=20)
def test_every_id_is_found_at_its_row(tmp_path_factory: pytest.TempPathFactory, ids: list[str]) -> None:
    count = len(ids)
    pixels = np.zeros((count, 1, 1, 1), dtype=np.uint8)
    table = raw_table(ids, pixels, np.zeros(count, dtype=np.int64), ("a",), [("f", count)])
    index = opened(replace(table, origins=("g",)), tmp_path_factory.mktemp("index"))
    assert [index.position(image_id) for image_id in ids] == list(range(count))


def test_the_digest_of_the_content_follows_the_images_and_not_their_place(tmp_path: Path):
    def content(seed: int, file: str) -> str:
        pixels = np.stack([noise(seed, number).transpose(2, 0, 1) for number in range(2)])
        write_images(tmp_path / "index.arrow", raw_table(["0", "1"], pixels, np.array([0, 1]), ("0", "1"), [(file, 2)]))
        return ImageIndex.open(tmp_path / "index.arrow").content

    assert content(0, "here.gz") == content(0, "moved/here.gz")
    assert content(0, "here.gz") != content(5, "here.gz")  # the same ids and class names, other pictures
