from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydet.data.classes.formats import parquet_columns
from raydet.data.classes.formats.parquet import read_parquet
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from tests.tiny_images import encoded, noise, read_set, set_config, write_parquet

ONE_MIB = bytes(range(256)) * 4096


def write_repeated(file: Path, rows: int, *, row_group_size: int = 1000, **columns: bytes | str) -> Path:
    """Write the same values over and over, which are stored once."""
    place = pa.array(np.zeros(rows, np.int32))
    given = {"image": encoded(noise(0, 0)), **columns}
    table = {name: pa.DictionaryArray.from_arrays(place, pa.array([value])) for name, value in given.items()}
    # Without Arrow's schema, in which the columns are dictionaries: where they are read, they must not look like one.
    pq.write_table(pa.table(table), file, store_schema=False, row_group_size=row_group_size)
    return file


def test_images_that_decode_to_too_much_are_refused_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_columns, "_MAX_BYTES", 1 << 25)
    file = write_repeated(tmp_path / "a.parquet", 200, image=ONE_MIB)
    pool = pa.default_memory_pool()
    before, now = pool.max_memory(), pool.bytes_allocated()
    with pytest.raises(DataError) as error:
        read_set(file)
    assert str(error.value) == (
        f"{file}: the images and labels up to here are more than 0.03125 GiB decoded, which would all be copied; write "
        "the images into one folder a class"
    )
    assert pool.max_memory() <= max(before, now + (60 << 20))  # of 200 MiB: what is allowed, 16 rows, and the file


def test_all_files_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_columns, "_MAX_BYTES", 1 << 25)
    for name in ("a", "b"):
        write_repeated(tmp_path / f"{name}.parquet", 20, image=ONE_MIB, row_group_size=7)
        assert len(read_parquet([tmp_path / f"{name}.parquet"], set_config("x"), ProblemLog())) == 20
    with pytest.raises(DataError, match=r"b\.parquet: the images and labels up to here are more than 0\.03125 GiB"):
        read_set(tmp_path / "*.parquet")


def test_text_is_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_columns, "_MAX_BYTES", 1 << 20)
    for column in ("label", "image_id"):
        file = write_repeated(tmp_path / f"{column}.parquet", 300, **{column: "x" * 4096}, row_group_size=20)
        with pytest.raises(DataError, match=rf"{column}\.parquet: .*are more than 0\.0009766 GiB decoded"):
            read_set(file)


@pytest.mark.parametrize("column", ["label", "image_id"])
@pytest.mark.parametrize("is_dictionary", [False, True])
def test_a_label_or_an_id_of_any_length_is_refused_where_it_stands(
    tmp_path: Path, column: str, is_dictionary: bool
) -> None:
    texts = [f"{n}" * 4096 for n in range(3)] + ["x" * (1 << 20), "y" * 4097]
    places = pa.array([0, None, 2, 1] + [3] * 596, pa.int32())
    table = {"image": [encoded(noise(0, 0))] * 600, column: pa.DictionaryArray.from_arrays(places, texts)}
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table(table), file, store_schema=is_dictionary, row_group_size=3, compression="zstd")
    with pytest.raises(DataError) as error:
        read_set(file)
    assert str(error.value) == (
        f"{file}, row 4: a text of 1,048,576 bytes in column {column!r}, where labels and ids have at most 4,096; "
        "shorten it, or name the column that is meant"
    )


@pytest.mark.parametrize("column", ["label", "image_id"])
@pytest.mark.parametrize("is_dictionary", [False, True])
def test_a_number_beyond_64_bits_with_a_sign_is_refused_where_it_stands(
    tmp_path: Path, column: str, is_dictionary: bool
) -> None:
    values = pa.array([0, None, 2**63 - 1, 2**63 + 5, 2**64 - 1], pa.uint64())
    table = {"image": [encoded(noise(0, 0))] * 5, column: values.dictionary_encode() if is_dictionary else values}
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table(table), file, row_group_size=2)
    with pytest.raises(DataError) as error:
        read_set(file)
    assert str(error.value) == (
        f"{file}, row 3: 9,223,372,036,854,775,813 in column {column!r}, where labels and ids are at most "
        "9,223,372,036,854,775,807; correct it, or name the column that is meant"
    )


def test_a_kilobyte_that_stands_for_hundreds_of_megabytes_of_labels_decodes_few(tmp_path: Path) -> None:
    file = write_repeated(tmp_path / "a.parquet", 600, label="x" * (1 << 20))
    pool = pa.default_memory_pool()
    before, now = pool.max_memory(), pool.bytes_allocated()
    with pytest.raises(DataError, match=r"row 0: a text of 1,048,576 bytes in column 'label'"):
        read_set(file)
    assert pool.max_memory() <= max(before, now + (200 << 20))  # of 600 MiB and more: 64 rows, and Arrow's growth


def test_long_columns_of_text_and_of_categories_are_whole_and_in_order(tmp_path: Path) -> None:
    ids, names = [f"n{n}" for n in range(3000)], [f"c{n % 7}" for n in range(3000)]
    columns = {"image_id": ids, "label": pa.array(names).dictionary_encode(), "image": [encoded(noise(0, 0))] * 3000}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=1100)
    table, _ = read_set(tmp_path / "a.parquet")
    assert [table.id_at(row) for row in range(3000)] == ids
    assert [table.class_names[label] for label in table.labels] == names


def test_other_columns_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_columns, "_MAX_BYTES", 1 << 25)
    file = write_repeated(tmp_path / "a.parquet", 200, label="cat", other="x" * (1 << 20))
    assert read_set(file)[0].class_names == ("cat",)
    image = pa.array([{"bytes": encoded(noise(0, 0)), "path": "x" * (1 << 20)}])
    many = pa.StructArray.from_arrays(
        [pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int32()), image.field(name)) for name in (0, 1)],
        ["bytes", "path"],
    )
    pq.write_table(pa.table({"image": many}), file, store_schema=False)
    assert len(read_set(file, needs_labels=False)[0]) == 200


def test_more_rows_than_images_are_read_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.nulls((1 << 24) + 1, pa.binary())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: 16,777,217 images or labels, at most 16,777,216 are read"):
        read_set(tmp_path / "a.parquet")


def test_escape_sequences_in_names_of_columns_do_not_reach_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"\x1b[2J": [b""], "y" * 100: [1]}), file)
    with pytest.raises(DataError) as error:
        read_set(file)
    assert str(error.value) == (f"{file}: no column 'image' (there are: '\\x1b[2J', '{'y' * 60}'); set image_column")
    pq.write_table(pa.table({"image": [{"\x1b[2J": 1}]}), file)
    with pytest.raises(DataError, match=r"'image' is a struct of '\\x1b\[2J'; expected `bytes` in it"):
        read_set(file)
    pq.write_table(pa.table({"image": [b""], "label": [{"\x1b[2J": 1}]}), file)
    with pytest.raises(DataError, match=r"'label' holds 'struct<\\x1b\[2J: int64>'; expected whole numbers"):
        read_set(file)


def test_columns_that_arrow_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b""], "image.more": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"other columns start with 'image' and a dot; rename or remove them"):
        read_set(tmp_path / "a.parquet")


def test_text_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    wrong = pa.array([b"cat", b"\xff"]).view(pa.utf8())
    pq.write_table(pa.table({"image": [b"", b""], "label": wrong}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: damaged, or not a Parquet file \(Invalid UTF8 sequence"):
        read_set(tmp_path / "a.parquet")


def test_what_is_no_file_is_never_opened_and_odd_names_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.parquet")  # opening it would wait forever
    with pytest.raises(DataError, match=r"a\.parquet: not a file"):
        read_set(tmp_path)
    write_parquet(tmp_path / "train-\x1b[2J.parquet")
    for path in (tmp_path, tmp_path / "*.parquet"):
        with pytest.raises(
            DataError, match=r"the file name '.*train-\\x1b\[2J\.parquet' is not valid UTF-8 or contains a"
        ):
            read_set(path)
