"""Plain images by a glob: what counts is what counts in a folder."""

from __future__ import annotations

from pathlib import Path

from raydet.data.folder import listed_images
from raydet.data.problems import ProblemLog
from tests.tiny_data import codes, read_table, text_of, write_image


def test_a_glob_passes_over_what_counts_nowhere(tmp_path: Path) -> None:
    names = ("a.jpg", "sub/b.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/a.jpg", "sub/@eaDir/b.jpg", ".c.jpg")
    for number, name in enumerate(names):
        write_image(tmp_path / name, value=number)
    table, log = read_table(f"{tmp_path}/**/*.jpg")
    assert table.files == ["a.jpg", "sub/b.jpg"] and not log.problems
    assert listed_images(f"{tmp_path}/*/*.jpg", ProblemLog())[1] == ["sub/b.jpg"]
    assert listed_images(f"{tmp_path}/*.jpg", ProblemLog())[1] == ["a.jpg"]


def test_a_hidden_folder_that_the_user_names_is_read(tmp_path: Path) -> None:
    for hidden in (".cache", "@eaDir"):
        write_image(tmp_path / hidden / "photos" / "a.jpg")
        assert listed_images(f"{tmp_path}/{hidden}/**/*.jpg", ProblemLog())[1] == ["photos/a.jpg"]


def test_a_name_that_messages_cannot_hold_is_an_error_in_a_folder_and_in_a_glob(tmp_path: Path) -> None:
    for number, name in enumerate(("a.jpg", "bad\x07.jpg", "bad\x07.txt")):
        write_image(tmp_path / "a.jpg", value=number).rename(tmp_path / name)
    write_image(tmp_path / "a.jpg")
    for pattern in (f"{tmp_path}/*", f"{tmp_path}/**/*.jpg", str(tmp_path)):
        table, log = read_table(pattern, format="folder")
        assert table.files == ["a.jpg"] and codes(log) == ["file-name"]
        assert "'bad\\x07.jpg': the file name is not valid UTF-8 or contains" in text_of(log, "file-name")
