"""One data set on its own, for evaluating a saved model on other images."""

from __future__ import annotations

from pathlib import Path

from raydet.config.detection_data import DatasetConfig
from raydet.data.class_names import renumbered, report_empty_classes
from raydet.data.formats.detect import read_source
from raydet.data.index import DatasetIndex, write_index
from raydet.data.problems import ProblemLog
from raydet.data.rules import usable


def prepare_one(config: DatasetConfig, folder: Path, *, class_names: tuple[str, ...]) -> DatasetIndex:
    """Read and check one data set, number its classes as the model does, write `FOLDER/data.arrow` and open it.

    Raises DataError where it cannot be used, or holds boxes of a class that the model does not know.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = ProblemLog()
    table = usable(read_source(config, log, folder), "error", log)
    log.raise_errors("the data cannot be used (`raydet check-data` lists everything)")
    table = renumbered(table, class_names, config.path, log)
    report_empty_classes(table, "given", config.path, log)
    log.raise_errors("the data does not fit the model")
    write_index(folder / "data.arrow", table)
    return DatasetIndex.open(folder / "data.arrow")
