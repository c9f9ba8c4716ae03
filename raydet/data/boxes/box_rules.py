"""What every box must satisfy: finite, with an area, inside its image, and in pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raydet.data.boxes.source import Source
from raydet.data.problems import ProblemLog

OnBadBox = Literal["error", "drop", "clip"]
ROUNDING_PX = 1.0  # annotators round outwards: so far outside, a box is clipped without a word
CROWDED = 1_000  # boxes in one image
_MIN_MISREAD = 0.95  # fraction of boxes that fit in another convention
_Mask = NDArray[np.bool_]


def judge_boxes(
    source: Source, sizes: NDArray[np.int64], on_bad_box: OnBadBox, log: ProblemLog
) -> tuple[NDArray[np.float64], _Mask]:
    """Return the boxes `[B, 4]` in pixels, clipped to their images, and which of them `[B]` are usable.

    `sizes` `[N, 2]` are the images' (height, width), 0 for images that were refused: their boxes go with them.
    """
    boxes = _Boxes.of(source, sizes)
    if _are_misread(boxes, log):
        return boxes.clipped, np.zeros(len(boxes.pixels), dtype=np.bool_)
    kept = boxes.known.copy()
    for code, (bad, complaint) in boxes.faults().items():
        for box in np.flatnonzero(bad & boxes.known):
            kept[box] = on_bad_box == "clip" and code == "box-outside" and boxes.overlaps[box]
            _report(boxes, int(box), code, complaint, on_bad_box, bool(kept[box]), log)
    _report_tiny(boxes, kept, log)
    _report_crowded(source, kept, log)
    _report_repeated(boxes, kept, log)
    return boxes.clipped, kept


@dataclass(frozen=True, slots=True, eq=False)
class _Boxes:
    """The boxes of a source in pixels, beside the images they belong to."""

    source: Source
    pixels: NDArray[np.float64]  # [B, 4] xyxy
    limits: NDArray[np.float64]  # [B, 4] width, height, width, height of the image
    clipped: NDArray[np.float64]  # [B, 4] cut to the image
    known: _Mask  # [B] the image is usable
    is_finite: _Mask  # [B]
    has_area: _Mask  # [B]
    overlaps: _Mask  # [B] something is left after clipping

    @staticmethod
    def of(source: Source, sizes: NDArray[np.int64]) -> _Boxes:
        limits = sizes[source.rows][:, [1, 0, 1, 0]].astype(np.float64)
        pixels = source.boxes * limits if source.relative else source.boxes
        clipped = np.clip(pixels, 0.0, limits)
        return _Boxes(
            source=source,
            pixels=pixels,
            limits=limits,
            clipped=clipped,
            known=limits[:, 0] > 0,
            is_finite=np.all(np.isfinite(pixels), axis=1),
            has_area=np.all(pixels[:, 2:] > pixels[:, :2], axis=1),
            overlaps=np.all(clipped[:, 2:] > clipped[:, :2], axis=1),
        )

    def faults(self) -> dict[str, tuple[_Mask, str]]:
        """Return, by code, which boxes `[B]` have a fault and what to call it; no box has two."""
        beyond = np.abs(np.where(self.is_finite[:, None], self.pixels - self.clipped, 0.0))
        is_inside = np.all(beyond <= ROUNDING_PX, axis=1) & self.overlaps
        return {
            "box-not-finite": (~self.is_finite, "has NaN or infinity in it"),
            "box-degenerate": (self.is_finite & ~self.has_area, "has no area: width and height must be above 0"),
            "box-outside": (self.is_finite & self.has_area & ~is_inside, "leaves its image"),
        }


def _report(
    boxes: _Boxes, box: int, code: str, complaint: str, on_bad_box: OnBadBox, was_clipped: bool, log: ProblemLog
) -> None:
    file, where = boxes.source.where(box)
    x1, y1, x2, y2 = (f"{side:.6g}" for side in boxes.pixels[box])
    width, height = boxes.limits[box, :2]
    message = f"the box x {x1} to {x2}, y {y1} to {y2} {complaint} (image: {width:.0f} x {height:.0f} pixels)"
    if on_bad_box == "error":
        ways_out = "on_bad_box: drop (or clip)" if code == "box-outside" else "on_bad_box: drop"
        log.error(code, file, where, message, f"correct it, or set {ways_out}")
    else:
        log.warn(code, file, where, message, "clipped to the image" if was_clipped else "dropped")


def _are_misread(boxes: _Boxes, log: ProblemLog) -> bool:
    """Report, once, boxes that are all in another convention: dropping or clipping them would hide the mistake."""
    source = boxes.source
    judged = boxes.known & boxes.is_finite
    if source.relative or not judged.any():
        return False
    pixels, limits = boxes.pixels[judged], boxes.limits[judged]
    if np.abs(pixels).max() <= 1.01 and limits.min() > 2:
        message = f"every box ({len(pixels):,}) lies between 0 and 1: these look like fractions of the image"
        log.error("boxes-normalised", source.file, "", message, "boxes are in pixels: multiply by the image size")
        return True
    outside = int((boxes.faults()["box-outside"][0] & judged).sum())
    if source.format != "coco" or len(pixels) < 3 or outside < 0.2 * len(pixels):
        return False
    x1, y1 = pixels[:, 0], pixels[:, 1]
    x2, y2 = pixels[:, 2] - x1, pixels[:, 3] - y1  # third and fourth number of the bbox as it stands in the file
    fits = (x2 > x1) & (y2 > y1) & (x2 <= limits[:, 0] + ROUNDING_PX) & (y2 <= limits[:, 1] + ROUNDING_PX)
    if fits.mean() < _MIN_MISREAD:
        return False
    message = f"{outside:,} of {len(pixels):,} boxes leave their image, and nearly all fit as [x1, y1, x2, y2]"
    log.error("boxes-corners", source.file, "", message, "write [x, y, width, height]")
    return True


def _report_tiny(boxes: _Boxes, kept: _Mask, log: ProblemLog) -> None:
    sides = boxes.clipped[:, 2:] - boxes.clipped[:, :2]
    for box in np.flatnonzero(kept & np.any(sides < 1.0, axis=1)):
        file, where = boxes.source.where(int(box))
        message = f"a side of the box is below 1 pixel ({sides[box, 0]:.3g} x {sides[box, 1]:.3g})"
        log.warn("box-tiny", file, where, message, "it may vanish when the image is resized")


def _report_crowded(source: Source, kept: _Mask, log: ProblemLog) -> None:
    counts = np.bincount(source.rows[kept], minlength=len(source.ids))
    for row in np.flatnonzero(counts > CROWDED):
        message = f"{counts[row]:,} boxes in one image"
        log.warn("image-crowded", source.file, f"image id {source.ids[row]}", message, "memory grows with it")


def _report_repeated(boxes: _Boxes, kept: _Mask, log: ProblemLog) -> None:
    numbers = np.flatnonzero(kept)
    numbers = numbers[_shares_its_edge(boxes.source.rows[numbers], boxes.clipped[numbers, 0])]
    table = np.column_stack([boxes.source.rows, boxes.source.classes, boxes.clipped])[numbers]
    order = np.lexsort(table.T)
    same = np.all(table[order][1:] == table[order][:-1], axis=1)
    for place in np.flatnonzero(same):
        file, where = boxes.source.where(int(numbers[order[place + 1]]))
        log.warn("box-twice", file, where, "the same box of the same class again", "remove one of them")


def _shares_its_edge(rows: NDArray[np.int64], left: NDArray[np.float64]) -> _Mask:
    """Return which boxes `[B]` begin where another one of the same image does; few do, and all twins."""
    order = np.lexsort((left, rows))
    same = (rows[order][1:] == rows[order][:-1]) & (left[order][1:] == left[order][:-1])
    found = np.zeros(len(rows), dtype=np.bool_)
    found[order[1:][same]] = found[order[:-1][same]] = True
    return found
