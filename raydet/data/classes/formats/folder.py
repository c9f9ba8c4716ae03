"""A folder of images with one folder a class, as ImageNet is laid out; without such folders, images without labels."""

from __future__ import annotations

import glob
import os
import stat
from pathlib import Path

import numpy as np

from raydet.data.classes.table import NO_LABEL, ImageTable, files_table
from raydet.data.folder import SUFFIXES, class_folders, image_names, listed, listed_images
from raydet.data.layouts import holds_images, look_into, named
from raydet.data.pairing import report_same_stems
from raydet.data.paths import checked_name, resolve_inside
from raydet.data.problems import ProblemLog
from raydet.errors import DataError

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def has_class_folders(folder: Path) -> bool:
    """Return whether the images of a folder lie in several folders, and none beside these: one folder a class."""
    if not folder.is_dir() or any(entry.name.lower().endswith(SUFFIXES) for entry in listed(folder)):
        return False
    return sum(holds_images(folder / name) for name in class_folders(folder)) > 1


def read_image_folder(path: Path, subset: str | None, log: ProblemLog) -> ImageTable:
    """Read `PATH/SUBSET/CLASS/**/IMAGE`; ids are the names below PATH/SUBSET, classes are numbered by their names.

    Images beside the class folders have no label, nor have those that a glob names. Other files are mentioned, and
    symlinks must stay inside: those of images that do not are reported, and left out. Raises DataError where one of a
    class folder does not, and where there is no image.
    """
    if glob.has_magic(str(path)) and not path.is_dir():
        root, names = listed_images(str(path), log)
        names = _regular(root, names, log)
        return files_table(root, names, np.full(len(names), NO_LABEL, dtype=np.int64), ())
    folder = path / checked_name(subset) if subset is not None else path
    if not folder.is_dir():  # asked first: a symlink in a circle cannot be resolved
        raise DataError(f"{folder}: no such folder")
    root = folder.resolve()
    class_names = class_folders(root)
    if subset is None and len(_SPLITS.intersection(class_names)) > 1 and _SPLITS.issuperset(class_names):
        raise DataError(f"{path}: holds the subsets {', '.join(class_names)}; name one with `subset`")
    found = image_names(root, log, of_classes=True)
    if not found:
        raise DataError(f"{root}: no images there (looked for {', '.join(SUFFIXES)})")
    names = _regular(root, found, log)
    report_same_stems(root, names, log)
    _report_boxes(root, log)
    number_of = {name: number for number, name in enumerate(class_names)}
    labels = [number_of[name.split("/", 1)[0]] if "/" in name else NO_LABEL for name in names]
    return files_table(root, names, np.array(labels, dtype=np.int64), class_names)


def _report_boxes(root: Path, log: ProblemLog) -> None:
    """Mention annotations among the images: here the names of folders are all that counts."""
    if layouts := look_into(root).layouts:
        message = f"annotations lie there too and are not read: {named(layouts)}"
        log.warn("annotations-ignored", root, "", message, "the classes are the names of the folders")


def _regular(root: Path, names: list[str], log: ProblemLog) -> list[str]:
    """Report and leave out what is no file, such as a pipe, and symlinks that lead nowhere or out of the folder."""
    kept: list[str] = []
    for name in names:
        try:
            mode = os.lstat(f"{root}/{name}").st_mode
            if stat.S_ISLNK(mode):  # what is no symlink is inside, as all folders are that were entered
                mode = resolve_inside(root, name).stat().st_mode
        except DataError as error:
            log.error("file-name", root, name, str(error))
            continue
        except OSError as error:
            log.error("image-missing", root, name, f"cannot be opened: {error.strerror or error}", "restore the file")
            continue
        if stat.S_ISREG(mode):
            kept.append(name)
        else:
            log.error("image-missing", root, name, "not a regular file", "remove it")
    return kept
