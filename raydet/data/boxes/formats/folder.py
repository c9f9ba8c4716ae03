"""Plain images without boxes."""

from __future__ import annotations

from pathlib import Path

from raydet.data.boxes.source import Source, SourceBuilder
from raydet.data.folder import listed_images
from raydet.data.problems import ProblemLog


def read_folder(pattern: str, log: ProblemLog) -> Source:
    """Read the images of a folder or a glob; an image's id is its path in the folder.

    Raises DataError where there is no image.
    """
    root, names = listed_images(pattern, log)
    builder = SourceBuilder()
    for name in names:
        builder.add_image(name, name)
    return builder.build("folder", Path(pattern), root, class_names=())
