"""Pictures that are in two sets: told by their content, of which as little is read as tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.data import leaks
from raydet.data.leaks import report_repeated_images, report_shared_images
from raydet.data.problems import ProblemLog


class Pictures:
    """Contents, in files of a folder or in memory."""

    def __init__(self, contents: list[bytes], folder: Path | None = None) -> None:
        self.contents, self.folder = contents, folder
        for row, content in enumerate(contents):
            if folder is not None:
                folder.mkdir(exist_ok=True)
                (folder / f"{row}.png").write_bytes(content)

    def __len__(self) -> int:
        return len(self.contents)

    @property
    def holds_files(self) -> bool:
        return self.folder is not None

    def id_at(self, row: int) -> str:
        return str(row)

    def name_at(self, row: int) -> str:
        return f"{self.folder}/{row}.png"

    def file_at(self, row: int) -> Path | None:
        return None if self.folder is None else self.folder / f"{row}.png"

    def bytes_at(self, row: int) -> memoryview:
        return memoryview(self.contents[row])

    def num_bytes_at(self, row: int) -> int:
        return len(self.contents[row])


def pictures(*middles: bytes) -> list[bytes]:
    """Pictures of 9 kB that begin and end with the same 4 kB."""
    return [b"h" * 4096 + middle.ljust(1000, b".") + b"t" * 4096 for middle in middles]


def shared(one: Pictures, other: Pictures) -> list[str]:
    log = ProblemLog()
    report_shared_images({"labeled": one, "val": other}, log)
    return [problem.where for problem in log.problems]


@pytest.mark.parametrize("in_files", [True, False])
def test_pictures_that_differ_in_the_middle_alone_are_not_the_same(in_files: bool, tmp_path: Path) -> None:
    one = Pictures(pictures(b"a", b"b"), tmp_path / "one" if in_files else None)
    other = Pictures(pictures(b"c", b"b"), tmp_path / "other" if in_files else None)
    assert shared(one, other) == ["image id 1 of the val set"]
    log = ProblemLog()
    report_repeated_images(Pictures(pictures(b"a", b"b", b"a"), tmp_path / "third" if in_files else None), log)
    assert [problem.where for problem in log.problems] == ["image id 2"]


@pytest.mark.parametrize("in_files", [True, False])
@pytest.mark.parametrize("at", [0, -1])
def test_pictures_that_differ_at_an_end_are_not_read_whole(
    in_files: bool, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_end(number: int) -> bytes:
        content = bytearray(pictures(b"")[0])
        content[at] = number
        return bytes(content)

    read: list[int] = []
    monkeypatch.setattr(leaks, "_digest", lambda table, row: read.append(row) or row)
    one = Pictures([with_end(1), with_end(2)], tmp_path / "one" if in_files else None)
    other = Pictures([with_end(3), with_end(4)], tmp_path / "other" if in_files else None)
    assert shared(one, other) == [] and read == []
