"""Which label file belongs to which picture of a YOLO data set, and what is left over on both sides."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from raydet.data.folder import SUFFIXES, files_ending, walk
from raydet.data.layouts import is_label_file
from raydet.data.look_alike import difference, folded
from raydet.data.problems import ProblemLog, Severity
from raydet.text import plural


def label_places(root: Path, image: str) -> list[Path]:
    """Return where the labels of an image may be, the best place first.

    The last folder `images` becomes `labels`, the ending `.txt`; or they lie beside the image.
    """
    beside = (root / PurePosixPath(image)).with_suffix(".txt")
    parts = beside.parts
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            moved = Path(*parts[:place], "labels", *parts[place + 1 :])
            return [moved, beside] if moved.is_relative_to(root) else [beside]
    return [beside]


class Pairs:
    """Remembers what was read, and reports what did not find its partner."""

    def __init__(self, root: Path, log: ProblemLog) -> None:
        self._root, self._log = root, log
        self._image_of: dict[Path, str] = {}  # by label file
        self._folders: dict[Path, Path] = {}  # label folder -> image folder
        self.missing: dict[str, Path] = {}  # image -> the label file that was looked for
        self.num_images = 0

    def add_folder(self, place: Path) -> None:
        """Say that a whole folder of images is read: its label folder is looked through."""
        for file in label_places(self._root, (place / "x").relative_to(self._root).as_posix()):
            self._folders.setdefault(file.parent, place)

    def label_of(self, image: str) -> Path | None:
        """Return the label file of an image, None where another image has it already, which is reported."""
        self.num_images += 1
        places = label_places(self._root, image)
        for place in places:
            self._folders.setdefault(place.parent, (self._root / image).parent)
        file = next((place for place in places if os.path.lexists(place)), places[0])
        other = self._image_of.setdefault(file, image)
        if other != image:
            message = f"{image} and {other} have the same label file"
            self._log.error("label-shared", file, "", message, "if one is a mask or a copy, move it to another folder")
            return None
        return file

    def report(self, role: str) -> set[str]:
        """Report label files without a picture and pictures without a label file.

        Returns the pictures of which it is not known that nothing is on them. `role`: what the set is for; unlabelled
        pictures need no label file.
        """
        lonely = self._without_picture()
        spoilt = self._report_look_alikes(lonely)
        rest = {image: place for image, place in self.missing.items() if image not in spoilt}
        if lonely and rest and role != "unlabeled":
            image = next(iter(rest))
            message = (
                f"{plural(len(lonely), 'label file has', 'label files have')} no picture, and "
                f"{plural(len(rest), 'picture')} no label file ({image})"
            )
            fix = "correct the names; remove labels of pictures that are gone, or give empty label files to the others"
            self._log.error("label-without-image", lonely[0], "", message, fix)
            return spoilt | set(rest)
        if lonely:
            one, many = "label file has no picture and is not read", "label files have no picture and are not read"
            message = plural(len(lonely), one, many)
            self._log.warn("label-without-image", lonely[0], "", message, "remove them, or add the pictures")
        return spoilt | (self._report_missing(rest, role) if rest else set())

    def _report_look_alikes(self, lonely: list[Path]) -> set[str]:
        """Report pictures whose label file has nearly their name, and take these off the list of `lonely` ones."""
        near = {folded(str(file)): file for file in lonely}
        found: set[str] = set()
        for image, place in self.missing.items():
            file = next(
                (near[key] for one in label_places(self._root, image) if (key := folded(str(one))) in near), None
            )
            if file is not None:
                lonely.remove(file)
                message = f"no label file {place.name}; {file.name!r} lies there, which differs "
                message += difference(place.stem, file.stem)
                self._log.error("label-name", self._root / image, "", message, "rename one of the two")
                found.add(image)
        return found

    def _report_missing(self, missing: dict[str, Path], role: str) -> set[str]:
        """Report pictures without a label file: an error where there is none at all, and others lie elsewhere."""
        image, place = next(iter(missing.items()))
        message = plural(
            len(missing),
            "image has no label file and counts as an image without objects",
            "images have no label file and count as images without objects",
        )
        fix = "add label files if they show objects"
        if len(missing) < self.num_images or role == "unlabeled":
            self._log.warn("label-file-missing", place, "", message, fix)
            return set()
        looked = " and ".join(str(one) for one in label_places(self._root, image))
        message = f"{plural(len(missing), 'image')}, and no label file: for {image}, {looked} was looked for"
        name = f"{PurePosixPath(image).stem}.txt"
        found = next((file for file in walk(self._root, ProblemLog()) if file.name == name), None)
        severity: Severity = "warning" if found is None and role == "data" else "error"
        fix = "write label files" if found is None else f"{found} may be meant: move it there"
        self._log.add(severity, "label-file-missing", place, "", message, fix)
        return set(missing) if severity == "error" else set()

    def _without_picture(self) -> list[Path]:
        tops = [one for one in self._folders if not any(one != up and one.is_relative_to(up) for up in self._folders)]
        inside = (top for top in sorted(tops) if top.is_dir() and top.resolve().is_relative_to(self._root))
        return [file for top in inside for file in self._lonely_in(top)]

    def _lonely_in(self, top: Path) -> Iterator[Path]:
        for file in files_ending(top, ".txt", ProblemLog()):
            folder = next(up for up in file.parents if up in self._folders)
            stem = self._folders[folder] / file.relative_to(folder).with_suffix("")
            if file in self._image_of or not is_label_file(file):
                continue
            endings = (ending for suffix in SUFFIXES for ending in (suffix, suffix.upper()))
            if not any(Path(f"{stem}{ending}").exists() for ending in endings):
                yield file
