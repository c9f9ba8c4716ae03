"""Pictures of images with their pseudo-boxes, beside the truth."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw, ImageFont
from torch import Tensor

from raydet.families.detection.report.history import JudgedLabel
from raydet.records import PseudoBoxes
from raydet.vision.pictures import to_picture

SIDE_PX = 420  # longest side of a picture
DROPPED_SHOWN = 12  # of the boxes that a method drops, the best-scored so many
KEPT, DROPPED, TRUE = (34, 197, 94), (239, 68, 68), (59, 130, 246)

Box = tuple[np.ndarray, str]  # xyxy in original pixels, caption


@dataclass(frozen=True, slots=True, eq=False)
class FoundBox:
    """A detection, and whether it covers a true box of its class."""

    box: np.ndarray  # [4] xyxy in original pixels
    label: int
    score: float
    is_right: bool


def teacher_picture(pixels: Tensor, label: JudgedLabel, class_names: Sequence[str]) -> bytes:
    """Return a JPEG of an image `[3, H, W]` with the boxes of a label: kept ones on top of dropped ones."""
    dropped = _rows_left_out(label)[:DROPPED_SHOWN]
    stored = label.stored
    scores = stored.scores.numpy()
    quiet = [(box, f"{scores[row]:.2f}") for row, box in zip(dropped, stored.boxes.numpy()[dropped], strict=True)]
    return _picture(pixels, [(quiet, DROPPED, 1), (_captioned(label.kept, class_names), KEPT, 2)])


def truth_picture(pixels: Tensor, boxes: np.ndarray, classes: np.ndarray, class_names: Sequence[str]) -> bytes:
    """Return a JPEG of an image with its true boxes."""
    named = [(box, class_names[label]) for box, label in zip(boxes, classes, strict=True)]
    return _picture(pixels, [(named, TRUE, 2)])


def found_picture(pixels: Tensor, boxes: Sequence[FoundBox], class_names: Sequence[str]) -> bytes:
    """Return a JPEG of an image `[3, H, W]` with what a model finds: right boxes on top of wrong ones."""

    def layer(is_right: bool) -> list[Box]:
        return [(one.box, f"{class_names[one.label]} {one.score:.2f}") for one in boxes if one.is_right == is_right]

    return _picture(pixels, [(layer(False), DROPPED, 2), (layer(True), KEPT, 2)])


def _captioned(label: PseudoBoxes, class_names: Sequence[str]) -> list[Box]:
    columns = zip(label.boxes.numpy(), label.classes.tolist(), label.scores.tolist(), strict=True)
    return [(box, f"{class_names[index]} {score:.2f}") for box, index, score in columns]


def _rows_left_out(label: JudgedLabel) -> np.ndarray:
    """Return the rows of the stored label that were not kept, best score first."""

    def keys(part: PseudoBoxes) -> list[tuple[bytes, int]]:
        boxes = part.boxes.numpy()
        return [(box.tobytes(), index) for box, index in zip(boxes, part.classes.tolist(), strict=True)]

    kept = set(keys(label.kept))
    return np.array([row for row, key in enumerate(keys(label.stored)) if key not in kept], dtype=np.int64)


def _picture(pixels: Tensor, layers: Iterable[tuple[Sequence[Box], tuple[int, int, int], int]]) -> bytes:
    image = to_picture(pixels)
    scale = SIDE_PX / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=12)
    for boxes, color, width in layers:
        for box, caption in boxes:
            x1, y1, x2, y2 = (float(value) * scale for value in box)
            draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=width)
            if width > 1:
                _caption(draw, (x1, y1), caption, color, font, image.size)
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=82)
    return stream.getvalue()


def _caption(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    color: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom + 3
    x = min(max(corner[0], 0), max(size[0] - width, 0))  # inside the picture
    y = corner[1] - height if corner[1] >= height else corner[1]
    draw.rectangle((x, y, x + width, y + height), fill=color)
    draw.text((x + 3, y + 1), text, fill=(255, 255, 255), font=font)
