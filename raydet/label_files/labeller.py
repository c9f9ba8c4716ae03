"""The model at work: what it sees of images, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from raydet.image_jobs.file_model import FileModel, SeenImage
from raydet.image_jobs.image_stores import Picture
from raydet.image_jobs.worker import Row
from raydet.precision import autocast_dtype

SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),  # relative to the image root, with /
        pa.field("width", pa.int32()),  # pixels, after EXIF rotation; null where the image was skipped, as all below
        pa.field("height", pa.int32()),
        pa.field("boxes", pa.list_(pa.float32())),  # x1 y1 x2 y2 of box after box, pixels of the original image
        pa.field("classes", pa.list_(pa.int32())),  # 0-based, no background
        pa.field("scores", pa.list_(pa.float32())),  # descending
        pa.field("quality", pa.list_(pa.float32())),  # IL-net's q of the box; 1 where the model has no IoU branch
        pa.field("error", pa.string()),  # why the image was skipped; null where it was labelled
    ]
)


MASKS = pa.field("masks", pa.list_(pa.binary()))
"""One more column, where the model makes masks: of box after box, COCO's compressed RLE of the original image."""


@dataclass(frozen=True, slots=True)
class Labelling:
    """The task (`raydet.image_jobs.worker.Task`) of a family's model."""

    of: FileModel[Any]
    device: str
    precision: str  # fp32, bf16 or fp16
    batch: int  # images per forward

    @property
    def schema(self) -> pa.Schema:
        """Return the columns of a row."""
        return SCHEMA.append(MASKS) if self.of.has_masks else SCHEMA

    def begin(self) -> Labeller:
        """Bring the model to its device."""
        return Labeller(self)


class Labeller:
    """The model in one process."""

    def __init__(self, labelling: Labelling) -> None:
        self._of = labelling.of
        self._device = torch.device(labelling.device)
        self._dtype = autocast_dtype(labelling.precision, self._device)
        self._model = labelling.of.model.to(self._device).eval().requires_grad_(False)

    def see(self, picture: Picture) -> SeenImage:
        """Return what the model sees of an image."""
        return self._of.see(picture.pixels)

    @torch.no_grad()
    def say(self, seen: Sequence[SeenImage]) -> list[Row]:
        """Return a row for each, from one forward."""
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None):
            return list(self._of.say(self._model, seen, self._device))
