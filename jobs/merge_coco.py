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
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from raydet.cli import run_guarded
from raydet.data.boxes.class_names import read_class_map
from raydet.errors import DataError
from raydet.files import read_json, replacing

Coco = dict[str, Any]
Numbers = dict[Any, Any]
LISTS = ("images", "annotations", "categories")


def merged(first: Coco, second: Coco, class_map: Mapping[str, str | None], prefixes: tuple[str, str]) -> Coco:
    """Return both as one: categories of the first, images and annotations numbered from 1, file names below
    `prefixes`.

    Raises DataError for a class of the second that has boxes and is none of the first, a name in the class map that is
    no class of the second, a category id or a file name that is there twice, and for LVIS, whose lists of what was
    looked for would have to be joined too.
    """
    for content in (first, second):
        _check(content)
    numbers = _renamed(first, second, class_map)
    images: list[Coco] = []
    boxes: list[Coco] = []
    for content, number_of, prefix in zip((first, second), numbers, prefixes, strict=True):
        new = {image["id"]: len(images) + place for place, image in enumerate(content["images"], start=1)}
        for image in content["images"]:
            file = str(PurePosixPath(prefix, image["file_name"]))
            images.append({**image, "id": new[image["id"]], "file_name": file})
        for box in content["annotations"]:
            if (kind := number_of[box["category_id"]]) is not None:
                moved = {"id": len(boxes) + 1, "image_id": new[box["image_id"]], "category_id": kind}
                boxes.append({**box, **moved})
    (file, times), *_ = Counter(image["file_name"] for image in images).most_common(1) or [("", 0)]
    if times > 1:
        raise DataError(f"{file} is there {times} times, in both files together: it would count as often")
    return {"images": images, "annotations": boxes, "categories": first["categories"]}


def _check(content: Coco) -> None:
    number, times = Counter(kind["id"] for kind in content["categories"]).most_common(1)[0]
    if times > 1:
        raise DataError(f"category id {number} is there {times} times in one file")
    if any("frequency" in kind for kind in content["categories"]):
        raise DataError("LVIS files, whose categories have a frequency, cannot be merged by this script")


def _renamed(first: Coco, second: Coco, class_map: Mapping[str, str | None]) -> tuple[Numbers, Numbers]:
    """Return, for each file, its category ids -> those of the first, None for boxes that are left out."""
    kinds = {kind["name"]: kind["id"] for kind in first["categories"]}
    names = {kind["id"]: class_map.get(kind["name"], kind["name"]) for kind in second["categories"]}
    if unknown := sorted(set(class_map) - {kind["name"] for kind in second["categories"]}):
        raise DataError(f"--class-map names {_some(unknown)}, which the second file has not")
    used = {box["category_id"] for box in second["annotations"]}
    if strange := sorted({name for number, name in names.items() if number in used and name not in {*kinds, None}}):
        raise DataError(
            f"classes of the second file that the first has not: {_some(strange)}; give them one of its names, or "
            f"null, with --class-map"
        )
    return {number: number for number in kinds.values()}, {number: kinds.get(name) for number, name in names.items()}


def _some(names: Sequence[str | None]) -> str:
    return ", ".join(map(str, names[:5])) + (", ..." if len(names) > 5 else "")


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
    for folder in given.images:
        if not folder.is_dir():
            raise DataError(f"--images {folder}: no such folder")
    first, second = (_read(file) for file in given.files)
    folders = [folder.resolve() for folder in given.images]
    root = Path(os.path.commonpath(folders))
    prefixes = (folders[0].relative_to(root).as_posix(), folders[1].relative_to(root).as_posix())
    class_map = {} if given.class_map is None else read_class_map(given.class_map)
    try:
        content = merged(first, second, class_map, prefixes)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
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
    sys.exit(run_guarded(main, again=""))
