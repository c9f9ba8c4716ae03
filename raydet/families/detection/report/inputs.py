"""Everything a detector's report is made from; what is missing comes with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raydet.data.boxes.index import DatasetIndex
from raydet.errors import UserError
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import BOXES
from raydet.families.detection.report.history import LabelHistory, Select, read_history
from raydet.metrics import read_metrics
from raydet.report.inputs import RunRecords
from raydet.train.rundir import RunFolder


@dataclass(frozen=True, slots=True, eq=False)
class Inputs(RunRecords):
    """A detector's run, read."""

    config: DetectionConfig
    class_names: tuple[str, ...]
    unlabeled: DatasetIndex | None
    hidden: DatasetIndex | None
    no_truth: str  # why `hidden` is None; empty where it is not
    history: LabelHistory
    no_labels: str  # why the history is empty; empty where it is not
    labeled: DatasetIndex | None = None

    @property
    def num_unlabeled(self) -> int | None:
        """Return how many unlabelled images there are, None where that is not known."""
        return None if self.unlabeled is None else len(self.unlabeled)


def read_inputs(run_dir: Path, select: Select) -> Inputs:
    """Read a detector's run folder. Raises ConfigError where it is none, ValueError where its metrics are damaged."""
    folder = RunFolder(run_dir)
    config = folder.load_config()
    assert isinstance(config, DetectionConfig)
    records = read_metrics(folder.metrics)
    labeled, unlabeled, hidden, no_truth = None, None, None, ""
    class_names: tuple[str, ...] = ()
    try:
        prepared = BOXES.open(folder.data)
        labeled, unlabeled, class_names = prepared.labeled, prepared.unlabeled, prepared.class_names
        hidden = BOXES.open_hidden(folder.data)
        if hidden is None:
            no_truth = (
                "The unlabelled images came without boxes, so nothing can be said about pseudo-labels being right."
            )
    except UserError as error:
        no_truth = f"The run's data cannot be read: {error}"
    history, no_labels = LabelHistory([], []), ""
    if not config.uses_labels:
        no_labels = "A supervised run has no pseudo-labels."
    else:
        try:
            history = read_history(folder.labels, hidden, select)
        except UserError as error:
            no_labels = f"The stored pseudo-labels cannot be read: {error}"
        if not history.windows and not no_labels:
            no_labels = "No pseudo-labels are stored yet: the burn-in is not over, or nothing has been flushed."
    return Inputs(folder.path, config, records, class_names, unlabeled, hidden, no_truth, history, no_labels, labeled)
