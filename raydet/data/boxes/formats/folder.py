"""Plain images without boxes."""

from __future__ import annotations

from pathlib import Path

from raydet.data.boxes.source import Source, SourceBuilder
from raydet.data.folder import listed_images
from raydet.data.layouts import look_into, named
from raydet.data.pairing import report_same_stems
from raydet.data.paths import LeadsOutsideError, rebased
from raydet.data.problems import ProblemLog
from raydet.errors import DataError


def read_folder(pattern: str, log: ProblemLog, images: Path | None = None) -> Source:
    """Read the images of a folder or a glob; an image's id is its path in the folder. Annotations are mentioned.

    `images`: a folder that symlinks may lead into. Raises DataError where there is no image, or a glob leads elsewhere.
    """
    try:
        root, names = listed_images(pattern, log, images)
    except LeadsOutsideError as error:
        raise DataError(error.with_way_out) from None
    report_same_stems(root, names, log)
    report_ignored_annotations(Path(pattern), log)
    limit = root if images is None else images.resolve()
    builder = SourceBuilder()
    for name in names:
        builder.add_image(name, rebased(root, limit, name))
    return builder.build("folder", Path(pattern), limit, class_names=())


def report_ignored_annotations(folder: Path, log: ProblemLog) -> None:
    """Mention annotations that lie among images which are read without them."""
    if not folder.is_dir():
        return
    found = look_into(folder)
    if readable := found.readable:
        fix = f"that is right for unlabelled images; to know their boxes too, set `format: {readable[0].format}`"
        log.warn(
            "annotations-ignored", folder, "", f"annotations lie there too and are not read: {named(readable)}", fix
        )
    if foreign := found.foreign:
        message = f"annotations lie there too that are not read: {named(foreign)}"
        log.warn("annotations-ignored", folder, "", message, foreign[0].way_out)
