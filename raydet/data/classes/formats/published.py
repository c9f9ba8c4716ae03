"""Published files in formats that may run code or crash a reader: opened only where the checksum is the publisher's.

Pickle runs what a file tells it to, and SciPy's reader of MATLAB files crashes on damaged ones. A file whose MD5 is the
one that its publisher states (as torchvision lists them) is the published file, and safe with the standard readers.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from raydet.errors import DataError


@cache
def known() -> dict[str, set[str]]:
    """Return the MD5 digests of the published files of CIFAR-10, CIFAR-100 and SVHN by file name."""
    from torchvision.datasets import CIFAR10, CIFAR100, SVHN  # takes a second

    found: dict[str, set[str]] = {}
    for one in (CIFAR10, CIFAR100):
        for name, digest in [*one.train_list, *one.test_list, (one.meta["filename"], one.meta["md5"])]:
            found.setdefault(name, set()).add(digest)
    for _, name, digest in SVHN.split_list.values():
        found.setdefault(name, set()).add(digest)
    return found


def check_published(file: Path) -> None:
    """Raise DataError unless a file is, byte for byte, the published one of its name."""
    expected = known().get(file.name)
    if expected is None:
        raise DataError(f"{file}: no published file has this name; there are {', '.join(sorted(known()))}")
    try:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "md5").hexdigest()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    if found not in expected:
        raise DataError(
            f"{file}: its MD5 is {found}, the published file has {' or '.join(sorted(expected))}: it is truncated, "
            f"damaged or changed, and not opened, since such a file may run code; download it again, or turn your own "
            f"data into a folder per class or Parquet"
        )
