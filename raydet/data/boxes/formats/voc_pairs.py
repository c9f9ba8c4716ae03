"""Which picture belongs to which VOC annotation file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from raydet.data.folder import SUFFIXES, listed, walk
from raydet.data.look_alike import difference
from raydet.data.pairing import by_key, look_alikes
from raydet.data.paths import rebased, ways_in
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.text import plural

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of a VOC data set."""

    root: Path  # resolved
    annotations: Path
    pictures: Path
    limit: Path  # resolved: nothing outside it is read

    def name_of(self, picture: Path) -> str:
        """Return a picture as a name below `limit`."""
        return rebased(self.root, self.limit, below(picture, self.root))


def find_places(folder: Path, images: Path | None) -> Places:
    """Return `Annotations` and `JPEGImages`, in whatever case, or `images`; where they are missing, the folder itself.

    Raises DataError where the pictures are a symlink out of the folder and `images` does not hold what it leads to.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    root = folder.resolve()
    named = {entry.name.casefold(): Path(entry.path) for entry in listed(root) if entry.is_dir()}
    annotations = named.get("annotations", root)
    pictures = named.get("jpegimages") or (named.get("images") if annotations != root else None) or annotations
    limit = root if images is None else images.resolve()
    for place, allowed in ((annotations, (root, limit)), (pictures, (limit,))):
        real = place.resolve()
        if not any(real.is_relative_to(folder) for folder in allowed):
            raise DataError(f"{place}: leads out of {limit}, to {real}; {ways_in(root, real)}")
    return Places(root, annotations, pictures, limit)


def below(file: Path, folder: Path) -> str:
    """Return a file's name below a folder, with `/`."""
    return file.relative_to(folder).as_posix()


def by_last_part(names: Iterable[str]) -> dict[str, list[str]]:
    """Group names by their last part."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(PurePosixPath(name).name, []).append(name)
    return groups


def only(names: list[str]) -> str | None:
    """Return the only one, None where there are several or none."""
    return names[0] if len(names) == 1 else None


class Pairs:
    """Finds the picture of each annotation file, and tells what is left over on both sides."""

    def __init__(self, places: Places, xml_of: dict[str, Path], log: ProblemLog) -> None:
        self._places, self._log, self._xml_of = places, log, xml_of
        names = [below(file, places.pictures) for file in walk(places.pictures, log) if _is_picture(file)]
        self._of_key = by_key(sorted(names))
        self._of_stem = by_last_part(self._of_key)
        self._of_name = by_last_part(names)
        self._used: dict[str, Path] = {}
        self._passed_over: list[tuple[str, str]] = []

    def picture_of(self, key: str, file: Path, named: str) -> Path | None:
        """Return the picture of an annotation file, by its name and by what it says in <filename>; None is reported."""
        found = self._of_key.get(key) or self._of_key.get(
            only(self._of_stem.get(PurePosixPath(key).name, [])) or "", []
        )
        name = PurePosixPath(named.replace("\\", "/")).name
        if len(found) > 1:
            chosen = [one for one in found if PurePosixPath(one).name == name]
            if not chosen:
                message = (
                    f"{len(found)} pictures have its name ({', '.join(found[:4])}), and <filename> names none of them"
                )
                self._log.error("image-ambiguous", file, "", message, "leave one, or name it in <filename>")
                return None
            self._passed_over += [(one, chosen[0]) for one in found if one not in chosen]
            found = chosen
        if not found and (by_name := only(self._of_name.get(name, []))):
            found = [by_name]
        if not found:
            self._report_missing(key, file)
            return None
        return self._taken(found[0], file, name)

    def _taken(self, picture: str, file: Path, name: str) -> Path:
        if picture in self._used:
            fix = "the boxes of one would be background in the other: merge or rename them"
            self._log.error(
                "image-shared", file, "", f"its picture {picture} is also that of {self._used[picture]}", fix
            )
        self._used.setdefault(picture, file)
        other = only(self._of_name.get(name, []))
        if other is not None and PurePosixPath(picture).name != name:
            message = f"<filename> names {other}, which is there too, but {picture} has the file's name and is used"
            self._log.warn("image-named-otherwise", file, "", message, "correct one of the names")
        return self._places.pictures / picture

    def _report_missing(self, key: str, file: Path) -> None:
        like = look_alikes([key], self._of_key).get(key)
        near = f"; {self._of_key[like][0]!r} lies there, which differs {difference(key, like)}" if like else ""
        message = f"no image {PurePosixPath(key).name}.* in {self._places.pictures}{near}"
        self._log.error(
            "image-missing", file, "", message, "rename the image or the file" if near else "copy the image there"
        )

    def report_left_over(self) -> None:
        """Report pictures that no annotation file is about."""
        if self._passed_over:
            message = (
                f"{plural(len(self._passed_over), 'picture was', 'pictures were')} passed over, as the XML "
                "file of that name names another"
            )
            other, used = self._passed_over[0]
            self._log.warn("image-unused", self._places.pictures, "", f"{message} ({other}, beside {used})")
        aside = {one for one, _ in self._passed_over}
        ambiguous = {key for key, group in self._of_key.items() if len(group) > 1 and key in self._xml_of}
        lonely = [
            key for key, group in self._of_key.items()
            if key not in ambiguous and not any(one in self._used or one in aside for one in group)
        ]  # fmt: skip
        if lonely:
            message = (
                f"{plural(len(lonely), 'image has no XML file and was', 'images have no XML file and were')} "
                f"passed over ({', '.join(lonely[:3])}, ...)"
            )
            fix = "images without objects need an XML file without objects"
            self._log.warn("image-unannotated", self._places.pictures, "", message, fix)


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES
