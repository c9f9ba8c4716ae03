from __future__ import annotations

import os
from pathlib import Path

import pytest
from pyarrow import fs

from raydet.image_jobs import mount_check
from raydet.image_jobs.image_stores import LocalStore, RemoteStore
from raydet.image_jobs.listing import Listing, write_listing
from raydet.image_jobs.mount_check import sample_files, unseen


@pytest.fixture
def listing(tmp_path: Path) -> Listing:
    """Six images of 0 to 5 bytes, and four names that cannot be opened."""
    for number in range(6):
        (tmp_path / f"{number}.jpg").write_bytes(b"x" * number)
    os.mkfifo(tmp_path / "pipe.jpg")  # nobody writes into it: opening it would never end
    names = [*(f"{number}.jpg" for number in range(6)), "../up.jpg", "/etc/passwd", "gone.jpg", "pipe.jpg"]
    return write_listing(names, tmp_path / "listing.jsonl")


def test_sample_files_are_listed_images_that_can_be_opened(tmp_path: Path, listing: Listing):
    root = LocalStore(tmp_path.resolve())
    assert sample_files(root, listing) == tuple((f"{root}/{number}.jpg", number) for number in range(6))
    assert sample_files(RemoteStore("x://", fs.LocalFileSystem(), str(tmp_path)), listing) == ()


def test_sample_files_are_spread_over_the_listing(tmp_path: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mount_check, "PLACES", 3)
    # every third of: ../up.jpg /etc/passwd 0.jpg 1.jpg 2.jpg 3.jpg 4.jpg 5.jpg gone.jpg pipe.jpg
    assert [size for _, size in sample_files(LocalStore(tmp_path.resolve()), listing)] == [1, 4]


def test_an_image_that_is_gone_or_another_is_unseen(tmp_path: Path, listing: Listing):
    found = sample_files(LocalStore(tmp_path.resolve()), listing)
    assert unseen(found) == ""
    (tmp_path / "3.jpg").write_bytes(b"xy")
    assert unseen(found).endswith("3.jpg: another file than where this was started (2 bytes, there 3)")
    (tmp_path / "1.jpg").unlink()
    assert unseen(found).endswith("1.jpg: no such image file")
