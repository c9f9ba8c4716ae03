"""One set of labelled images on its own, for evaluating a saved model on other images."""

from __future__ import annotations

from pathlib import Path

from raydet.config.images import ImageSetConfig
from raydet.data.images.formats.detect import read_images
from raydet.data.images.index import ImageIndex, write_images
from raydet.data.images.rules import usable
from raydet.data.images.sets import renumbered
from raydet.data.problems import ProblemLog


def prepare_image_set(config: ImageSetConfig, folder: Path, *, class_names: tuple[str, ...]) -> ImageIndex:
    """Read and check one set, number its classes as the model does, write `FOLDER/images.arrow` and open it.

    Raises DataError where it cannot be used, or holds images of a class that the model does not know.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = ProblemLog()
    table = usable(read_images(config, log), config.path, log, needs_labels=True)
    log.raise_errors("the data cannot be used (`raydet check-data` lists everything)")
    table = renumbered(table, class_names, config.path, log)
    log.raise_errors("the data does not fit the model")
    write_images(folder / "images.arrow", table)
    return ImageIndex.open(folder / "images.arrow")
