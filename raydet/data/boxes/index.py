"""The annotation index: images with their boxes, in one memory-mapped file that all processes share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydet.data.bad_images import explaining_damage
from raydet.data.boxes.federated import Federated
from raydet.data.boxes.source import Table
from raydet.data.decode import FULL_RANGE, decode
from raydet.data.mapped import IndexKind, MappedIndex, flat, opened_root, stored_root, write_index_file
from raydet.data.paths import resolve_inside
from raydet.errors import DataError
from raydet.records import Target

_KIND = IndexKind(
    name="index",
    key="raydet",
    format=2,
    columns={
        "id": pa.large_utf8(),
        "file": pa.large_utf8(),
        "height": pa.int32(),
        "width": pa.int32(),
        "boxes": pa.large_list(pa.float64()),  # four numbers a box: xyxy
        "classes": pa.large_list(pa.int32()),
        "crowd": pa.large_list(pa.uint8()),
        "areas": pa.large_list(pa.float64()),
    },
    extra={
        "mask_sizes": pa.large_list(pa.int32()),  # bytes of each box's mask, 0 where none is known
        "masks": pa.large_list(pa.uint8()),  # one behind the other: COCO's compressed RLE of the whole image
    },
)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Everything annotated in one image, for evaluation; in original pixels."""

    boxes: NDArray[np.float64]  # [N, 4] xyxy
    classes: NDArray[np.int64]  # [N]
    crowd: NDArray[np.bool_]  # [N] not to be found, and no mistake to find
    areas: NDArray[np.float64]  # [N] square pixels: of the mask where one was annotated, else of the box


def write_index(path: Path, table: Table) -> None:
    """Write a table as an index file: aside first, then renamed, so that no reader ever sees half of it."""
    about: dict[str, Any] = {
        "class_names": list(table.class_names),
        "root": stored_root(table.root, path),
        "gray16_range": list(table.gray16_range),
    }
    if table.federated is not None:
        about["federated"] = table.federated.as_json()
    write_index_file(path, _KIND, _columns(table), about)


class DatasetIndex(MappedIndex):
    """Images with boxes."""

    kind = _KIND

    def __init__(self, path: Path, batch: Any, about: dict[str, Any]) -> None:
        """Wrap a checked record batch; use `open`."""
        super().__init__(path, batch, about)
        self.root = opened_root(about["root"], path)
        low, high = about.get("gray16_range", FULL_RANGE)  # older files do not say
        self._gray16_range = int(low), int(high)
        self._files = batch.column("file")
        self._sizes = np.stack([flat(batch.column("height")), flat(batch.column("width"))], axis=1)
        classes, boxes = batch.column("classes"), batch.column("boxes")
        self._first: NDArray[np.int64] = flat(classes.offsets)
        self._boxes: NDArray[np.float64] = flat(boxes.values).reshape(-1, 4)
        self._classes: NDArray[np.int32] = flat(classes.values)
        self._crowd: NDArray[np.uint8] = flat(batch.column("crowd").values)
        self._areas: NDArray[np.float64] = flat(batch.column("areas").values)
        self.has_masks = "masks" in batch.schema.names
        if self.has_masks:
            self._masks: NDArray[np.uint8] = flat(batch.column("masks").values)
            sizes = flat(batch.column("mask_sizes").values)
            self._mask_ends: NDArray[np.int64] = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        found = about.get("federated")
        self.federated: Federated | None = None if found is None else Federated.from_json(found)

    def file_at(self, row: int) -> Path:
        """Return the image file of a row. Raises DataError where it would lie outside the image root."""
        return resolve_inside(self.root, self._files[self.at(row)].as_py())

    def name_below_root(self, row: int) -> str:
        """Return the name of a row's own image file below the image root, with `/`."""
        return str(self._files[row].as_py())

    def pixels_at(self, row: int) -> Tensor:
        """Decode an image: uint8 `[3, H, W]` RGB. Raises DataError that says what to do where it cannot."""
        with explaining_damage():
            return decode(self.file_at(row), self._gray16_range)

    def size_at(self, row: int) -> tuple[int, int]:
        """Return `(height, width)` in pixels after EXIF rotation."""
        row = self.at(row)
        return int(self._sizes[row, 0]), int(self._sizes[row, 1])

    def size_of(self, row: int) -> tuple[int, int]:
        """Return the same of a row's own image, whether it is seen or not."""
        return int(self._sizes[row, 0]), int(self._sizes[row, 1])

    def complaint_at(self, row: int) -> str:
        """Return what is wrong with the image that is seen at a row, '' where nothing is."""
        try:
            found = tuple(decode(self.file_at(row)).shape[1:])
        except DataError as error:
            return str(error)
        return "" if found == self.size_at(row) else f"{self.file_at(row)}: has another size than before"

    def target_at(self, row: int) -> Target:
        """Return what to train on: boxes float32 `[N, 4]` in original pixels, without crowd boxes."""
        truth = self.truth_at(row)
        boxes = torch.from_numpy(truth.boxes[~truth.crowd].astype(np.float32))
        target = Target.truth(boxes, torch.from_numpy(truth.classes[~truth.crowd]))
        verified = self.verified_at(row)
        return target if verified is None else replace(target, verified=torch.from_numpy(verified))

    def verified_at(self, row: int) -> NDArray[np.int64] | None:
        """Return the classes of which it is known that the image has no object without a box; None: all."""
        if self.federated is None:
            return None
        row = self.at(row)
        complete = np.setdiff1d(self.truth_at(row).classes, self.federated.partial[row])
        return np.union1d(complete, self.federated.negative[row])

    def classes_at(self, row: int) -> NDArray[np.int64]:
        """Return the distinct classes that an image has boxes of to train on, ascending."""
        own = slice(self._first[row], self._first[row + 1])
        return np.unique(self._classes[own][self._crowd[own] == 0].astype(np.int64))

    def truth_at(self, row: int) -> Truth:
        """Return everything annotated in an image, crowd boxes included."""
        row = self.at(row)
        own = slice(self._first[row], self._first[row + 1])
        return Truth(
            self._boxes[own].copy(),
            self._classes[own].astype(np.int64),
            self._crowd[own].astype(np.bool_),
            self._areas[own].copy(),
        )

    def truth_of(self, rows: Sequence[int]) -> tuple[NDArray[np.int64], Truth]:
        """Return how many boxes are annotated in each of many images, and all of them, one image behind the other."""
        places = np.array([self.at(row) for row in rows], dtype=np.int64)
        first, counts = self._first[places], self._first[places + 1] - self._first[places]
        own = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        return counts, Truth(
            self._boxes[own],
            self._classes[own].astype(np.int64),
            self._crowd[own].astype(np.bool_),
            self._areas[own],
        )

    def masks_at(self, row: int) -> list[bytes]:
        """Return the masks of all that is annotated in an image, as `truth_at` lists it: compressed RLE, empty where
        none is known. Raises ValueError where the masks were not read."""
        if not self.has_masks:
            raise ValueError(f"{self.path} has no masks")
        row = self.at(row)
        ends = self._mask_ends[self._first[row] : self._first[row + 1] + 1].tolist()
        return [self._masks[start:end].tobytes() for start, end in pairwise(ends)]

    def own_masks_at(self, row: int) -> list[bytes]:
        """Return those of the objects to train on, as `target_at` lists them."""
        crowd = self.truth_at(row).crowd
        return [mask for mask, is_crowd in zip(self.masks_at(row), crowd, strict=True) if not is_crowd]

    @property
    def num_boxes(self) -> int:
        """Return how many boxes can be trained on (crowd boxes are not counted)."""
        return int((self._crowd == 0).sum())

    def boxes_per_class(self) -> NDArray[np.int64]:
        """Return the number of boxes `[num_classes]` that can be trained on."""
        return np.bincount(self._classes[self._crowd == 0], minlength=len(self.class_names))


def _columns(table: Table) -> list[Any]:
    first = table.first.astype(np.int64)

    def lists(values: NDArray[Any], offsets: NDArray[np.int64]) -> Any:
        return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))

    columns = [
        pa.array(table.ids, pa.large_utf8()),
        pa.array(table.files, pa.large_utf8()),
        pa.array(table.sizes[:, 0].astype(np.int32)),
        pa.array(table.sizes[:, 1].astype(np.int32)),
        lists(table.boxes.astype(np.float64).reshape(-1), first * 4),
        lists(table.classes.astype(np.int32), first),
        lists(table.crowd.astype(np.uint8), first),
        lists(table.areas.astype(np.float64), first),
    ]
    if table.masks is not None:
        sizes = np.array([len(mask) for mask in table.masks], dtype=np.int32)
        ends = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        content = np.frombuffer(b"".join(table.masks), np.uint8)
        columns += [lists(sizes, first), lists(content, ends[first])]
    return columns
