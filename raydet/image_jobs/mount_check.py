"""A few images by which a node shows that it sees the same image folder as this one. No Ray here.

A node where the folder is not mounted would skip all images that it is given as missing, and be the fastest of all.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from raydet.data.paths import resolve_inside
from raydet.errors import DataError
from raydet.image_jobs.image_stores import ImageStore, LocalStore
from raydet.image_jobs.listing import Listing

PLACES = 64  # of the listing are looked at

SampleFile = tuple[str, int]  # path, bytes


def sample_files(store: ImageStore, listing: Listing) -> tuple[SampleFile, ...]:
    """Return those of some images, spread evenly over the listing, that this process can open.

    None of a remote store, which is no matter of mounts.
    """
    if not isinstance(store, LocalStore):
        return ()
    lines = itertools.islice(listing.lines(), 0, None, max(1, listing.count // PLACES))
    return tuple(found for line in lines if (found := _sample(store.path, json.loads(line))) is not None)


def unseen(samples: Sequence[SampleFile]) -> str:
    """Return what is wrong with the first image that is not here as it is there, or an empty text."""
    for path, size in samples:
        try:
            here = _size(path)
        except OSError as error:
            return f"{path}: {error.strerror or error}"
        if here != size:
            return f"{path}: another file than where this was started ({here:,} bytes, there {size:,})"
    return ""


def _sample(folder: Path, name: str) -> SampleFile | None:
    try:
        path = str(resolve_inside(folder, name))
        return path, _size(path)
    except (DataError, OSError):  # to be skipped, with the reason, when its turn comes
        return None


def _size(path: str) -> int:
    """Return the bytes of a file that can be opened. Raises OSError. Imports inside: see `raydet.cluster.nodes`."""
    import os

    if not os.path.isfile(path):  # a pipe would be waited for
        raise OSError("no such image file")
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size
