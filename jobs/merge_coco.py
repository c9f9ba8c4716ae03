"""One labelled set of two COCO files, such as COCO's images with Objects365's names and a few of Objects365's own.

    python jobs/merge_coco.py FEW.json COCO.json --out labeled.json --images objects365/images coco/train2017 \\
        --class-map jobs/class_maps/coco_to_objects365.json

The first file says which classes there are; those of the second are renamed by the class map (null: their boxes are
left out). Images are referred to, not copied: file names start at the folder above both, which is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from raydet.cli import run_guarded
from raydet.data.boxes.class_names import read_class_map
from raydet.errors import DataError
from raydet.files import read_json, replacing

Coco = dict[str, Any]
LISTS = ("images", "annotations", "categories")


def merged(first: Coco, second: Coco, class_map: Mapping[str, str | None], prefixes: tuple[str, str]) -> Coco:
    """Return both as one: categories of the first, images and annotations numbered from 1, file names below
    `prefixes`.

    Raises DataError where a class of the second that has boxes is none of the first, and for twice the same file name.
    """
    kinds = {kind["name"]: kind["id"] for kind in first["categories"]}
    own = {kind["id"]: kind["id"] for kind in first["categories"]}
    names = {kind["id"]: class_map.get(kind["name"], kind["name"]) for kind in second["categories"]}
    used = {box["category_id"] for box in second["annotations"]}
    strange = sorted({name for number, name in names.items() if number in used and name not in {*kinds, None}})
    if strange:
        raise DataError(
            f"classes of the second file that the first has not: {', '.join(strange[:5])}"
            f"{', ...' if len(strange) > 5 else ''}; give them one of its names, or null, with --class-map"
        )
    renamed = {number: kinds.get(name) for number, name in names.items()}
    images: list[Coco] = []
    boxes: list[Coco] = []
    for content, number_of, prefix in ((first, own, prefixes[0]), (second, renamed, prefixes[1])):
        new = {image["id"]: len(images) + place for place, image in enumerate(content["images"], start=1)}
        for image in content["images"]:
            images.append(
                {**image, "id": new[image["id"]], "file_name": str(PurePosixPath(prefix, image["file_name"]))}
            )
        for box in content["annotations"]:
            if (kind := number_of[box["category_id"]]) is not None:
                boxes.append({**box, "id": len(boxes) + 1, "image_id": new[box["image_id"]], "category_id": kind})
    (file, times), *_ = Counter(image["file_name"] for image in images).most_common(1) or [("", 0)]
    if times > 1:
        raise DataError(f"the same image {times} times in both files together, such as {file}: it would count as often")
    return {"images": images, "annotations": boxes, "categories": first["categories"]}


def main() -> int:
    """Read both files, write one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs=2, type=Path, metavar="JSON")
    parser.add_argument(
        "--images", nargs=2, type=Path, required=True, metavar="DIR", help="where each file's images lie"
    )
    parser.add_argument(
        "--class-map", type=Path, help="JSON object: name in the second file -> name in the first, or null"
    )
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.out.exists():
        raise DataError(f"{given.out}: exists already and is not overwritten; give another name")
    first, second = (_read(file) for file in given.files)
    folders = [folder.resolve() for folder in given.images]
    root = Path(os.path.commonpath(folders))
    prefixes = (folders[0].relative_to(root).as_posix(), folders[1].relative_to(root).as_posix())
    class_map = {} if given.class_map is None else read_class_map(given.class_map)
    try:
        content = merged(first, second, class_map, prefixes)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{given.files[0]} or {given.files[1]}: not as COCO has it ({type(error).__name__}: {error}); raydet "
            f"check-data FILE says where"
        ) from None
    with replacing(given.out) as stream:
        stream.write(json.dumps(content).encode())
    counts = ", ".join(f"{len(content[name]):,} {name}" for name in LISTS)
    print(f"{given.out}: {counts}\ndata.labeled: {{path: {given.out}, images: {root}}}")
    return 0


def _read(file: Path) -> Coco:
    content = read_json(file, DataError)
    for name in LISTS:
        if not isinstance(content.get(name), list):
            raise DataError(f"{file}: not a COCO file: {name!r} is not a list")
    return content


if __name__ == "__main__":
    sys.exit(run_guarded(main))
