"""The sets of one configuration together: one numbering of classes, one split, no picture in two of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydet.config.detection_data import DataConfig, DatasetConfig
from raydet.data.class_names import renumbered, report_empty_classes
from raydet.data.leaks import report_shared_images
from raydet.data.problems import ProblemLog
from raydet.data.source import Table


def given_sets(config: DataConfig) -> dict[str, DatasetConfig]:
    """Return the sets that the configuration names."""
    sets = {"labeled": config.labeled, "unlabeled": config.unlabeled, "val": config.val, "test": config.test}
    return {name: one for name, one in sets.items() if one is not None}


def with_common_classes(tables: dict[str, Table], config: DataConfig, log: ProblemLog) -> dict[str, Table]:
    """Give all sets the class numbers of the labelled set."""
    names = tables["labeled"].class_names
    given = given_sets(config)
    return {
        name: table if name == "labeled" else renumbered(table, names, given[name].path, log)
        for name, table in tables.items()
    }


def with_split(tables: dict[str, Table], rows: NDArray[np.int64]) -> dict[str, Table]:
    """Keep the images `rows` labelled; without an unlabelled set of its own, the rest becomes unlabelled."""
    whole = tables["labeled"]
    rest = np.setdiff1d(np.arange(len(whole)), rows)
    split = {**tables, "labeled": whole.take(rows)}
    if "unlabeled" not in tables and len(rest) > 0:
        split["unlabeled"] = whole.take(rest)
    return split


def report_relations(tables: dict[str, Table], config: DataConfig, log: ProblemLog) -> None:
    """Report sets without boxes, classes without boxes, and pictures that are in two sets."""
    given = given_sets(config)
    for name, table in tables.items():
        if name != "unlabeled":
            report_empty_classes(table, name, given[name].path, log)
    report_shared_images(tables, log)
