"""A data set as its reader found it: columns, not objects, so that millions of boxes fit in memory."""

from __future__ import annotations

import os
from array import array
from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydet.data.boxes.federated import Federated
from raydet.data.decode import FULL_RANGE
from raydet.data.paths import resolve_inside


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """N images and B boxes, syntactically sound but not yet checked against each other or the images."""

    format: str
    file: Path  # what messages name: the JSON, the folder
    root: Path  # resolved image root; `files` are relative to it
    class_names: tuple[str, ...]
    ids: list[str]  # unique
    files: list[str]
    sizes: NDArray[np.int64]  # [N, 2] declared (height, width), 0 where the format does not say
    rows: NDArray[np.int64]  # [B] image of each box
    boxes: NDArray[np.float64]  # [B, 4] xyxy pixels, or fractions of the image where `relative`
    classes: NDArray[np.int64]  # [B]
    crowd: NDArray[np.bool_]  # [B] COCO crowd or VOC difficult: not trained on, ignored in evaluation
    areas: NDArray[np.float64]  # [B] NaN where not given
    tags: NDArray[np.int64]  # [B] what messages call the box, see `box_place`
    tag_word: str  # "annotation id", "object", "line"
    federated: Federated | None = None  # which classes were looked for, where not all were
    label_files: list[str] | None = None  # one a image, where every image has its own
    relative: bool = False
    masks: NDArray[np.object_] | None = (
        None  # [B] as read, None without one; None: not asked for, or not of this format
    )
    spoilt: frozenset[int] = frozenset()
    """Images with an annotation that could not be read (it was reported): not even their background is known."""

    def where(self, box: int) -> tuple[str, str]:
        """Return the file and the place in it that messages about a box name."""
        row = int(self.rows[box])
        place = box_place(int(self.tags[box]), self.tag_word)
        if self.label_files is not None:
            return self.label_files[row], place
        return str(self.file), f"{place} (image id {self.ids[row]})"


def box_place(tag: int, tag_word: str) -> str:
    """Return what messages call a box: its id or line, or for a negative `tag` its place among all annotations."""
    return f"{tag_word} {tag}" if tag >= 0 else f"annotations[{~tag}]"


class SourceBuilder:
    """Collects the columns of a `Source`, for formats that come image by image."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.files: list[str] = []
        self.label_files: list[str] = []
        self._sizes = array("q")
        self._rows, self._classes, self._tags = array("q"), array("q"), array("q")
        self._boxes = array("d")
        self._crowd = array("b")
        self._spoilt: set[int] = set()

    def spoil(self) -> None:
        """Say that the last image has an annotation that could not be read."""
        self._spoilt.add(len(self.ids) - 1)

    def spoil_all(self, ids: Set[str]) -> None:
        """Say so of the images with these ids."""
        self._spoilt.update(row for row, image_id in enumerate(self.ids) if image_id in ids)

    def add_image(self, image_id: str, file: str, label_file: str = "", height: int = 0, width: int = 0) -> None:
        """Add an image; the boxes that follow belong to it."""
        self.ids.append(image_id)
        self.files.append(file)
        self.label_files.append(label_file)
        self._sizes.extend((height, width))

    def add_box(self, corners: tuple[float, float, float, float], class_id: int, tag: int, crowd: bool = False) -> None:
        """Add a box (xyxy) of the last image."""
        self._rows.append(len(self.ids) - 1)
        self._boxes.extend(corners)
        self._classes.append(class_id)
        self._tags.append(tag)
        self._crowd.append(crowd)

    def build(self, format: str, file: Path, root: Path, class_names: tuple[str, ...], tag_word: str = "") -> Source:
        """Return the collected columns."""
        return Source(
            format=format,
            file=file,
            root=root,
            class_names=class_names,
            ids=self.ids,
            files=self.files,
            sizes=np.array(self._sizes, dtype=np.int64).reshape(-1, 2),
            rows=np.array(self._rows, dtype=np.int64),
            boxes=np.array(self._boxes, dtype=np.float64).reshape(-1, 4),
            classes=np.array(self._classes, dtype=np.int64),
            crowd=np.array(self._crowd, dtype=np.bool_),
            areas=np.full(len(self._rows), np.nan),
            tags=np.array(self._tags, dtype=np.int64),
            tag_word=tag_word,
            label_files=self.label_files,
            spoilt=frozenset(self._spoilt),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """N usable images and their usable boxes, sorted by image: what an index file stores."""

    root: Path
    class_names: tuple[str, ...]
    ids: list[str]
    files: list[str]
    sizes: NDArray[np.int64]  # [N, 2] (height, width) after EXIF rotation
    first: NDArray[np.int64]  # [N + 1]: boxes of image i are first[i]:first[i + 1]
    boxes: NDArray[np.float64]  # [B, 4] xyxy pixels, inside the image, both sides > 0
    classes: NDArray[np.int64]  # [B]
    crowd: NDArray[np.bool_]  # [B]
    areas: NDArray[np.float64]  # [B] as annotated (of the mask, where there is one), else of the box
    gray16_range: tuple[int, int] = FULL_RANGE  # the values of 16-bit pictures that become 0 to 255
    annotated: NDArray[np.bool_] | None = None
    """[N] Images with an annotation that is not crowd, its box usable or not; None: as `boxes` and `crowd` say."""
    federated: Federated | None = None  # which classes were looked for, where not all were
    masks: NDArray[np.object_] | None = None
    """[B] bytes: compressed RLE of the whole image, empty where none is known. None: masks were not asked for."""
    num_bytes: NDArray[np.int64] | None = None  # [N] of the files when they were looked at; None: ask them

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def holds_files(self) -> bool:
        """Return whether the images lie in files of their own: always."""
        return True

    def id_at(self, row: int) -> str:
        """Return the image id of a row."""
        return self.ids[row]

    def name_at(self, row: int) -> str:
        """Return what messages call an image: its file."""
        return str(self.file_at(row))

    def file_at(self, row: int) -> Path:
        """Return the file of a row. Raises DataError where it would lie outside of `root`."""
        return resolve_inside(self.root, self.files[row])

    def bytes_at(self, row: int) -> memoryview:
        """Return the content of a row that is in memory: there is none."""
        raise TypeError(f"{self.name_at(row)} is a file")

    def num_bytes_at(self, row: int) -> int:
        """Return how large a file was when it was looked at, or is. Raises OSError where it cannot be asked."""
        return os.stat(self.file_at(row)).st_size if self.num_bytes is None else int(self.num_bytes[row])

    def box_rows(self) -> NDArray[np.int64]:
        """Return the image `[B]` of each box."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    def take(self, rows: NDArray[np.int64]) -> Table:
        """Return the images `rows`, in that order, with their boxes."""
        counts = np.diff(self.first)[rows]
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        picked = np.repeat(self.first[:-1][rows] - first[:-1], counts) + np.arange(first[-1])
        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            files=[self.files[row] for row in rows],
            sizes=self.sizes[rows],
            first=first,
            boxes=self.boxes[picked],
            classes=self.classes[picked],
            crowd=self.crowd[picked],
            areas=self.areas[picked],
            annotated=None if self.annotated is None else self.annotated[rows],
            federated=None if self.federated is None else self.federated.take(rows),
            masks=None if self.masks is None else self.masks[picked],
            num_bytes=None if self.num_bytes is None else self.num_bytes[rows],
        )

    def with_boxes(self, kept: NDArray[np.bool_]) -> Table:
        """Return the same images with only the boxes of a mask `[B]`."""
        counts = np.bincount(self.box_rows()[kept], minlength=len(self))
        return replace(
            self,
            first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes=self.boxes[kept],
            classes=self.classes[kept],
            crowd=self.crowd[kept],
            areas=self.areas[kept],
            masks=None if self.masks is None else self.masks[kept],
        )

    def without_boxes(self) -> Table:
        """Return the same images with nothing known about them."""
        bare = self.with_boxes(np.zeros(len(self.classes), dtype=np.bool_))
        return replace(bare, annotated=None, federated=None, masks=None)

    def annotated_rows(self) -> NDArray[np.int64]:
        """Return the images, ascending, for which somebody has drawn a box that is not crowd, usable or not."""
        if self.annotated is not None:
            return np.flatnonzero(self.annotated)
        return np.unique(self.box_rows()[~self.crowd])

    def usable_per_class(self) -> NDArray[np.int64]:
        """Return the number of boxes `[num_classes]` to train on (no crowd boxes)."""
        return np.bincount(self.classes[~self.crowd], minlength=len(self.class_names))
