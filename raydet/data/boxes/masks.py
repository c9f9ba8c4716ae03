"""Masks of objects: COCO's polygons and run lengths, checked, and kept as COCO's compressed run lengths (RLE).

An RLE counts pixels column by column, by turns outside and inside of the object, from outside on; compressed it takes
a few hundred bytes where the mask has a million pixels. Empty bytes stand for a mask that is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet.data.boxes.box_rules import OnBadBox
from raydet.data.boxes.source import Source
from raydet.data.problems import ProblemLog

UNKNOWN = b""
_MOST_COUNTS = 1 << 24  # run lengths of one mask
_MOST_SIDE = (1 << 31) - 1  # pixels; more has no image, and the counts of a square of it fit into 64 bits
_BITS, _MORE, _SIGN = 0x1F, 0x20, 0x10  # of a character of a compressed RLE


@dataclass(frozen=True, slots=True, eq=False)
class Polygons:
    """The outlines of an object's parts."""

    parts: tuple[NDArray[np.float64], ...]  # each [2 K]: x and y of K >= 3 corners, pixels


@dataclass(frozen=True, slots=True, eq=False)
class RunLengths:
    """A mask of an image of (height, width)."""

    size: tuple[int, int]
    counts: NDArray[np.int64]  # they add up to height * width


RawMask = Polygons | RunLengths
UNREADABLE = Polygons(())  # was reported
Columns = NDArray[np.object_]
"""`[B]` bytes, or RawMask and None before the images' sizes are known."""


def judge_masks(
    source: Source, sizes: NDArray[np.int64], kept: NDArray[np.bool_], on_bad_box: OnBadBox, log: ProblemLog
) -> Columns | None:
    """Return the masks `[B]` as compressed RLE of their images, those of boxes that are not `kept` unknown.

    `sizes` `[N, 2]` are the images' (height, width). None where masks were not asked for. Objects without a mask are
    errors; with `on_bad_box` other than "error" they keep their box, and train no mask.
    """
    if source.masks is None:
        return None
    found: Columns = np.full(len(source.masks), UNKNOWN, dtype=np.object_)
    for box in np.flatnonzero(kept):
        raw, (height, width) = source.masks[box], sizes[source.rows[box]].tolist()
        file, where = source.where(int(box))
        if raw is UNREADABLE or (raw is None and source.crowd[box]):
            continue
        if raw is None:
            code, message = "mask-missing", "the object has no mask (segmentation)"
        else:
            try:
                found[box] = rle_of(raw, height, width)
                continue
            except ValueError as error:
                code, message = "mask-size", str(error)
        if on_bad_box == "error":
            log.error(code, file, where, message, "add or correct it, or set on_bad_box: drop to use its box without")
        else:
            log.warn(code, file, where, message, "used without: it trains its box, and no mask")
    return found


def read_mask(value: Any) -> RawMask | None:
    """Return what COCO's `segmentation` says, None where there is nothing.

    Raises ValueError that says what is wrong and what is allowed.
    """
    if value is None or value == [] or value == {}:
        return None
    if isinstance(value, dict):
        return _run_lengths(value)
    if not isinstance(value, list):
        raise ValueError(f"segmentation must be a list of polygons or an RLE, got {value!r:.40}")
    return Polygons(tuple(_polygon(part) for part in value))


def rle_of(raw: RawMask, height: int, width: int) -> bytes:
    """Return a mask as compressed RLE of an image of `height` x `width` pixels.

    Polygons are filled as COCO's evaluation does. Raises ValueError for an RLE of another size.
    """
    from pycocotools import mask as coco

    if isinstance(raw, RunLengths):
        if raw.size != (height, width):
            raise ValueError(
                f"the RLE is of {raw.size[1]} x {raw.size[0]} pixels (width x height), the image has {width} x {height}"
            )
        found = coco.frPyObjects({"size": [height, width], "counts": raw.counts.tolist()}, height, width)
    else:
        # pycocotools takes memory for every pixel that an outline passes, outside of the image too.
        limits = np.array([width, height], dtype=np.float64)
        parts = [np.clip(part.reshape(-1, 2), -limits, 2 * limits).reshape(-1).tolist() for part in raw.parts]
        found = coco.merge(coco.frPyObjects(parts, height, width))
    return bytes(found["counts"])


def _polygon(part: Any) -> NDArray[np.float64]:
    what = "a polygon must be a list of x1, y1, x2, y2, ... of at least three corners"
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        raise ValueError(f"{what}, got {_shown(part)}")
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in part):
        raise ValueError(f"{what}, all numbers; got {_shown(part)}")
    try:
        corners = np.array(part, dtype=np.float64)
    except OverflowError:
        corners = np.full(len(part), np.nan)
    if not np.isfinite(corners).all():
        raise ValueError(f"{what}, all finite; got {_shown(part)}")
    return corners


def _run_lengths(value: dict[str, Any]) -> RunLengths:
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        raise ValueError(f"an RLE wants size: [height, width], got {size!r:.40}")
    if max(size) > _MOST_SIDE:
        raise ValueError(f"an RLE wants size: [height, width] of at most {_MOST_SIDE:,} pixels, got {size!r:.40}")
    if isinstance(counts, str):
        lengths = _uncompressed(counts)
    elif isinstance(counts, list) and all(type(count) is int for count in counts) and len(counts) <= _MOST_COUNTS:
        lengths = counts
    else:
        raise ValueError(f"an RLE wants counts: whole numbers, or COCO's compressed text; got {_shown(counts)}")
    pixels, total = size[0] * size[1], sum(lengths)
    if any(count < 0 for count in lengths) or total != pixels:
        said = f"{total:,}" if abs(total) <= _MOST_SIDE**2 else "what no image can have"  # not hundreds of digits
        raise ValueError(f"the RLE's counts add up to {said}, its size has {pixels:,} pixels")
    return RunLengths((size[0], size[1]), np.array(lengths, dtype=np.int64))


def _uncompressed(text: str) -> list[int]:
    """Return the counts of a compressed RLE: five bits a character, the lowest first; from the third count on each is
    the difference to the one before the last. Checked here: pycocotools trusts what it is given."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 50:
            raise ValueError(f"the compressed RLE has a character {character!r} that none can have there")
        value |= (code & _BITS) << shift
        shift += 5
        if code & _MORE:
            continue
        if code & _SIGN:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the compressed RLE ends within a count")
    return counts


def _shown(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a list of {len(value)} entries ({value!r:.40} ...)"
    return f"{value!r:.40}"
