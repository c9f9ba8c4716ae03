from __future__ import annotations

import json
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import fs

from raydet.errors import DataError
from raydet.image_jobs.image_stores import LocalStore, RemoteStore
from raydet.image_jobs.listing import Listing, differences, open_images, write_listing
from raydet.image_jobs.shards import chunks
from raydet.image_jobs.work import WorkList
from raydet.label_files.labeller import SCHEMA
from tests.tiny_data import write_image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images, one in a subfolder, beside what is none."""
    for name in ("b.jpg", "sub/a.PNG", "sub/deep/c.jpg", ".hidden.jpg", ".git/d.jpg", "notes.txt"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "photos" / "sub")
    return tmp_path / "photos"


def listed(given_: str | Path, folder: Path, root: str | None = None) -> list[str]:
    listing = write_listing(open_images(str(given_), root).names(), folder / "listing.jsonl")
    names = [json.loads(line) for line in listing.lines()]
    assert listing.count == len(names)
    return names


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["b.jpg", "sub/a.PNG", "sub/deep/c.jpg"]),
        ("*.jpg", ["b.jpg"]),
        ("*/*", ["sub/a.PNG"]),
        ("**/*.jpg", ["b.jpg", "sub/deep/c.jpg"]),
        ("s[t-v]b/*", ["sub/a.PNG"]),
        ("sub/d*/c.jpg", ["deep/c.jpg"]),  # the root is the folder before the first wildcard
        ("b.jpg", ["b.jpg"]),
    ],
)
def test_folders_globs_and_single_images_are_found_in_the_order_of_their_names(
    pattern: str, expected: list[str], photos: Path, tmp_path: Path
):
    assert listed(photos / pattern, tmp_path) == expected


def test_a_glob_without_a_folder_starts_here(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(photos)
    assert listed("*.jpg", tmp_path) == ["b.jpg"]


def test_a_file_uri_is_a_local_folder(photos: Path, tmp_path: Path):
    assert open_images(f"file://{photos}").store == LocalStore(photos.resolve())
    assert listed(f"file://{photos}/**/*.jpg", tmp_path) == ["b.jpg", "sub/deep/c.jpg"]


def test_the_lines_of_a_list_file_are_relative_to_its_folder_and_count_once(photos: Path, tmp_path: Path):
    file = photos / "list.txt"
    lines = ["sub/a.PNG", "", "gone.jpg", str(photos / "b.jpg"), "./b.jpg", "/elsewhere/x.jpg", "../y.jpg"]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\nodd\xff.jpg")
    # Sorted as JSON text; what cannot be read is noticed when it is to be labelled.
    expected = ["../y.jpg", "/elsewhere/x.jpg", "b.jpg", "gone.jpg", "odd\udcff.jpg", "sub/a.PNG"]
    assert listed(file, tmp_path) == expected
    assert {"b.jpg", "photos/b.jpg"} < set(listed(file, tmp_path, root=str(photos.parent)))


def test_full_paths_may_name_the_root_as_it_was_given_or_as_it_is(photos: Path, tmp_path: Path):
    alias = tmp_path / "alias"
    alias.symlink_to(photos)
    lines = [f"{alias}/b.jpg", f"{photos.resolve()}/sub/a.PNG", f"{alias}2/x.jpg", f"{alias}/../list.txt"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    # What leads out of the root, or lies beside it, stays as it is and is refused when it is read.
    expected = sorted(["../list.txt", lines[2], "b.jpg", "sub/a.PNG"])
    for root in (str(alias), f"{alias}/", f"file://{alias}"):
        assert listed(tmp_path / "list.txt", tmp_path, root) == expected
    for name in expected[:2]:
        with pytest.raises(DataError):
            open_images(str(alias)).store.picture(name)
    (alias / "own.txt").write_text(lines[0])  # a list file's own folder is such a root too
    assert listed(alias / "own.txt", tmp_path) == ["b.jpg"]


def test_the_root_of_everything_is_a_root(tmp_path: Path):
    write_image(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a.png\n//etc/x.png\n")
    # //etc/x.png is odd, and refused as a full path
    assert listed(tmp_path / "list.txt", tmp_path, "/") == ["/etc/x.png", f"{tmp_path}/a.png"[1:]]
    assert open_images(str(tmp_path / "list.txt"), "/").store.picture(f"{tmp_path}/a.png"[1:]).pixels.shape == (
        3,
        80,
        100,
    )


def test_a_remote_folder_gives_the_names_and_pixels_of_a_local_one(tmp_path: Path):
    folder = tmp_path / "photos"
    write_image(folder / "sub" / "b.jpg", value=1)
    write_image(folder / "a.png", value=2)
    (folder / "bad.jpg").write_bytes(b"GIF8")
    local, remote = LocalStore(folder), RemoteStore("x://photos", fs.LocalFileSystem(), str(folder))
    assert sorted(remote.walk()) == sorted(local.walk()) == ["a.png", "bad.jpg", "sub/b.jpg"]
    assert sorted(remote.walk(1)) == sorted(local.walk(1)) == ["a.png", "bad.jpg"]
    for name in ("a.png", "sub/b.jpg"):
        there, here = remote.picture(name), local.picture(name)
        assert there.pixels.equal(here.pixels)
        assert there.num_bytes == here.num_bytes == (folder / name).stat().st_size
    for name, message in (("bad.jpg", "a GIF file"), ("gone.jpg", "no such image file"), ("../x.jpg", "must stay")):
        for root in (local, remote):
            with pytest.raises(DataError, match=message):
                root.picture(name)


def test_a_remote_file_that_fails_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("raydet.image_jobs.image_stores._RETRY_S", 0.0)
    write_image(tmp_path / "a.png")
    tries = []

    class Flaky:
        def open_input_file(self, path: str) -> object:
            tries.append(path)
            if len(tries) < 3:
                raise OSError("timeout")
            return fs.LocalFileSystem().open_input_file(path)

    root = RemoteStore("x://", Flaky(), str(tmp_path))
    assert root.picture("a.png").pixels.shape == (3, 80, 100)
    tries.clear()
    monkeypatch.setattr("raydet.image_jobs.image_stores.READ_TRIES", 2)
    with pytest.raises(DataError, match=r"cannot be read \(2 tries\): timeout"):
        root.picture("a.png")


@settings()
@given(st.lists(st.text(max_size=4), max_size=40), st.integers(1, 9))
def test_a_listing_is_the_same_in_whatever_order_and_through_however_many_files_it_is_sorted(names, run_lines):
    with tempfile.TemporaryDirectory() as made:
        _check_order(names, run_lines, Path(made))


def _check_order(names: list[str], run_lines: int, folder: Path) -> None:
    one = write_listing(names, folder / "one.jsonl")
    other = write_listing(reversed(names), folder / "other.jsonl", run_lines=run_lines)
    assert (one.count, one.digest) == (other.count, other.digest)
    assert {json.loads(line) for line in one.lines()} == set(names)
    assert one.count == len(set(names))
    assert sorted(file.name for file in folder.iterdir()) == ["one.jsonl", "other.jsonl"]


def test_what_has_come_and_gone_is_told(tmp_path: Path):
    def listing(names: list[str], file: str) -> Listing:
        return write_listing(names, tmp_path / file)

    old, new = listing(list("abcde"), "old"), listing(list("bdxyzw"), "new")
    assert differences(old, new) == (["w", "x", "y"], ["a", "c", "e"], 4, 3)
    assert differences(old, old) == ([], [], 0, 0)


def test_listing_and_planning_need_bounded_memory(tmp_path: Path):
    number = 100_000
    (tmp_path / "list.txt").write_text("".join(f"photos/{n % 1000:03d}/image_{n:09d}.jpg\n" for n in range(number)))
    images = open_images(str(tmp_path / "list.txt"))
    tracemalloc.start()
    listing = write_listing(images.names(), tmp_path / "listing.jsonl", run_lines=4_000)
    work = WorkList(chunks(listing, 512), 16, SCHEMA)
    while (piece := work.next()) is not None:
        work.done(piece, pa.table({"image": pa.nulls(len(piece.names))}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert listing.count == number
    # 4,000 lines of 34 characters take 90 bytes each: 0.4 MB, twice while they are joined, and 25 open files. All names
    # at once would take 9 MB.
    assert peak < 3e6


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ("nowhere", "no such folder"),
        ("nowhere/*.jpg", "no such folder"),
        ("strange://bucket/x", "cannot be reached: Unrecognized filesystem type in URI: strange"),
        ("file:///nowhere", "no such folder"),
    ],
)
def test_what_is_not_there_is_one_message(given_: str, message: str):
    with pytest.raises(DataError, match=message):
        open_images(given_)


def test_a_binary_file_is_no_list(tmp_path: Path):
    for content in (b"PK\0\0", b"x" * 100_000):
        (tmp_path / "list").write_bytes(content)
        with pytest.raises(DataError, match=r"list, line 1: not a path; expected a text file with one path a line"):
            listed(tmp_path / "list", tmp_path)


def test_a_root_is_only_for_a_list_file(photos: Path):
    with pytest.raises(DataError, match="--root x: only for a list file"):
        open_images(str(photos), "x")


def test_symlinked_folders_and_those_of_other_systems_are_not_entered_and_the_first_are_told(photos: Path) -> None:
    (photos / "__MACOSX").mkdir()
    (photos / "__MACOSX" / "b.jpg").touch()
    images = open_images(str(photos))
    assert sorted(images.names()) == ["b.jpg", "sub/a.PNG", "sub/deep/c.jpg"] and images.store.not_entered == ["link"]


def test_a_store_reads_16_bits_as_its_model_does(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5), 1500, dtype=np.uint16)).save(tmp_path / "a.png")
    assert int(LocalStore(tmp_path).picture("a.png").pixels.max()) == 6  # 1500 / 257
    assert int(LocalStore(tmp_path, gray16_range=(0, 4095)).picture("a.png").pixels.max()) == 93  # 1500 * 255 / 4095
    remote = RemoteStore("file://x", fs.LocalFileSystem(), str(tmp_path), gray16_range=(0, 4095))
    assert int(remote.picture("a.png").pixels.max()) == 93


@pytest.mark.parametrize("uri", ["s3://AKIA:topsecret@bucket/photos", "s3://AKIA:top%2Fsecret@bucket/a@b"])
def test_a_secret_in_a_uri_is_refused_and_not_repeated(uri: str):
    with pytest.raises(DataError, match=r"^s3://\.\.\.@.*a URI with a password or a secret key") as refused:
        open_images(uri)
    assert "AKIA" not in str(refused.value) and "secret@" not in str(refused.value)
