"""The size that annotations give for a picture, beside its own: where they differ, the boxes lie elsewhere."""

from __future__ import annotations

from raydet.data.glance import Glance
from raydet.data.problems import ProblemLog


def size_is_honest(
    declared: tuple[int, int],
    image: Glance,
    name: str,
    log: ProblemLog,
    file: object,
    where: str,
    *,
    has_boxes: bool,
) -> bool:
    """Compare the annotated (height, width) with the file's: where they differ, the boxes belong to another picture.

    A side of 0 is one that nobody gave. What differs is reported of `where` in `file`, which call the image `name`.
    """
    upright = image.upright
    if 0 in declared or (declared == upright and image.orientation == 1):
        return True
    said, is_really = f"{declared[1]} x {declared[0]} (width x height)", f"{upright[1]} x {upright[0]}"
    if declared == upright:
        if has_boxes and upright == image.size:
            message = f"{name} has EXIF orientation {image.orientation}; boxes are read in the turned picture"
            log.warn("exif-ambiguous", file, where, message, "if they are off, remove the EXIF tag of the file")
        return True
    if not has_boxes:
        if declared != image.size:
            message = f"listed as {said}, but {name} is {is_really}"
            log.warn("image-size", file, where, message, "is it the right file? Its own size is used")
        return True
    if declared == image.size:
        message = f"{name} is turned by its EXIF orientation {image.orientation}, but annotated as {said} before that"
        fix = "remove the EXIF orientation from the file, or annotate the turned picture"
        log.error("exif-rotated", file, where, message, fix)
        return False
    message = f"annotated as {said}, but {name} is {is_really}: the boxes belong to another size of the picture"
    log.error("image-size", file, where, message, "use the original image, or correct the size and the boxes")
    return False
