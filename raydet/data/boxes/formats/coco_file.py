"""Which COCO file of a folder is meant."""

from __future__ import annotations

import re
from pathlib import Path

from raydet.data.layouts import look_into
from raydet.errors import DataError

SPLITS = ("train", "training", "valid", "val", "validation", "dev", "test", "testing")


def coco_file(path: Path, subset: str | None) -> Path:
    """Return the file itself, or the only one of a folder, or the one with the word `subset` in its path below it.

    Raises DataError where it is not clear which one is meant.
    """
    if not path.is_dir():
        if subset is not None:
            raise DataError(f"{path}: subset {subset!r} is for folders of several files, and this is none; remove it")
        return path
    files = [file for layout in look_into(path).layouts if layout.format == "coco" for file in layout.files]
    if not files:
        raise DataError(f"{path}: no COCO .json there or in its annotations folder")
    names = ", ".join(str(file.relative_to(path)) for file in files[:10])
    if subset is not None:
        files = [file for file in files if subset in _words(file.relative_to(path))]
        if len(files) != 1:
            several = "several are" if files else "none is"
            raise DataError(f"{path}: of the COCO files ({names}) {several} called {subset!r}; correct `subset`")
    if len(files) > 1:
        words = sorted({word for file in files for word in _words(file.relative_to(path)) if word in SPLITS})
        hint = f", or set `subset` ({', '.join(words)})" if words else ""
        raise DataError(f"{path}: several COCO files ({names}); name one of them{hint}")
    return files[0]


def _words(name: Path) -> list[str]:
    return [word for word in re.split(r"[^A-Za-z0-9]+", str(name)) if word]
