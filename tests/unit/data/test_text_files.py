"""Text files of data sets: what is wrong with one is said alike, whoever reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raydet.data.labeled_ids import read_id_file
from raydet.data.located.formats import listed
from raydet.data.located.formats.listed import lines_of
from raydet.errors import DataError


@pytest.mark.parametrize(
    ("read", "if_missing"), [(lines_of, "is the data set complete?"), (read_id_file, "correct data.labeled_ids")]
)
def test_a_list_that_cannot_be_read_is_told_with_what_to_do(
    read: Callable[[Path], object], if_missing: str, tmp_path: Path
):
    file = tmp_path / "list.txt"
    with pytest.raises(DataError) as caught:
        read(file)
    assert str(caught.value) == f"{file}: no such file; {if_missing}"
    for encoding in ("latin-1", "utf-16"):
        file.write_bytes("17 zwölf\n".encode(encoding))
        with pytest.raises(DataError, match=r"list\.txt: cannot be read as UTF-8 text: .*; save it as UTF-8$"):
            read(file)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"
    file.write_text("17 zwölf\n\n18 elf\n", encoding="utf-8-sig")
    assert read(file) == ["17 zwölf", "18 elf"]


def test_a_list_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(listed, "_MOST_BYTES", 8)
    (tmp_path / "list.txt").write_bytes(b"1 a\n2 b\n")
    assert lines_of(tmp_path / "list.txt") == ["1 a", "2 b"]
    (tmp_path / "list.txt").write_bytes(b"1 a\n22 \xff\xff")
    with pytest.raises(DataError, match=r"list\.txt: more than 8 bytes; expected a list"):
        lines_of(tmp_path / "list.txt")
