"""Shards to one COCO JSON, shard by shard: memory does not grow with their number."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from raydet.files import replacing
from raydet.image_jobs.shards import read_shard

_DIGITS = 3  # of a pixel


@dataclass(slots=True)
class Exported:
    """What was written."""

    images: int = 0
    empty: int = 0  # images without a box above the threshold
    boxes: int = 0
    skipped: int = 0


def export_coco(
    shards: Sequence[Path], file: Path, class_names: Sequence[str], *, above: Sequence[float], masks: bool = False
) -> Exported:
    """Write the boxes whose score exceeds their class's of `above` as a COCO instance file; returns the counts.

    Image ids are places in the listing counted from 1, category ids are class numbers + 1, so that the order of the
    classes stays. Images without such boxes are listed without annotations; skipped images are left out. `masks`: the
    shards have them; they become compressed RLEs. Raises DataError where a shard is damaged.
    """
    counts = Exported()
    categories = [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]
    with replacing(file) as stream:
        stream.write(b'{"info": {"description": "made by raydet label"},\n"categories": ')
        stream.write(json.dumps(categories).encode() + b',\n"images": [')
        _write_all(stream, _images(shards, counts))
        stream.write(b'],\n"annotations": [')
        _write_all(stream, _annotations(shards, counts, above, masks))
        stream.write(b"]}\n")
    counts.empty += counts.images
    return counts


def _images(shards: Sequence[Path], counts: Exported) -> Iterator[dict[str, object]]:
    number = 0
    for shard in shards:
        for row in read_shard(shard, ("image", "width", "height", "error")).to_pylist():
            number += 1
            if row["error"] is None:
                counts.images += 1
                yield {"id": number, "file_name": row["image"], "width": row["width"], "height": row["height"]}
            else:
                counts.skipped += 1


def _annotations(
    shards: Sequence[Path], counts: Exported, above: Sequence[float], masks: bool
) -> Iterator[dict[str, object]]:
    image = 0
    columns = ("boxes", "classes", "scores", "width", "height", "masks") if masks else ("boxes", "classes", "scores")
    for shard in shards:
        for row in read_shard(shard, columns).to_pylist():
            image += 1
            before = counts.boxes
            for number, score in enumerate(row["scores"] or ()):
                box = _xywh(row["boxes"][4 * number : 4 * number + 4])
                if score > above[row["classes"][number]] and min(box[2:]) > 0:
                    counts.boxes += 1
                    one = {
                        "id": counts.boxes,
                        "image_id": image,
                        "category_id": row["classes"][number] + 1,
                        "bbox": box,
                        "area": round(box[2] * box[3], _DIGITS),
                        "iscrowd": 0,
                        "score": round(score, 6),
                    }
                    yield one | _mask(row, number) if masks else one
            counts.empty -= counts.boxes > before


def _mask(row: dict[str, Any], number: int) -> dict[str, object]:
    from pycocotools import mask as coco

    rle = {"size": [row["height"], row["width"]], "counts": row["masks"][number]}
    text = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    return {"segmentation": text, "area": int(coco.area(rle))}


def _xywh(corners: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = (round(value, _DIGITS) for value in corners)
    return [x1, y1, round(x2 - x1, _DIGITS), round(y2 - y1, _DIGITS)]


def _write_all(stream: BinaryIO, entries: Iterator[dict[str, object]]) -> None:
    separator = b"\n"
    for entry in entries:
        stream.write(separator + json.dumps(entry).encode())
        separator = b",\n"
