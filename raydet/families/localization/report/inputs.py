"""Everything the report of a localizer is made from; what is missing comes with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raydet.data.located.index import LocatedIndex
from raydet.errors import DataError, UserError
from raydet.families.localization.accuracy import best_ious
from raydet.families.localization.config import LocalizationConfig
from raydet.families.localization.data import LOCATED, PreparedLocated
from raydet.families.localization.evaluate import in_view
from raydet.families.localization.method import LocalizationMethod, localization_method
from raydet.families.localization.snapshot import KIND, TRAIN, Places, read_snapshot
from raydet.families.localization.views import eval_view
from raydet.labels.snapshots import steps_with
from raydet.metrics import read_metrics
from raydet.report.inputs import RunRecords, Span
from raydet.train.rundir import RunFolder


@dataclass(frozen=True, slots=True, eq=False)
class LocalizationInputs(RunRecords):
    """A localizer's run, read."""

    config: LocalizationConfig
    method: LocalizationMethod
    class_names: tuple[str, ...]
    data: PreparedLocated | None
    hidden: LocatedIndex | None  # true boxes of the training images, row by row
    no_truth: str  # why there are none; empty where there are
    snapshots: dict[int, dict[str, Places]]  # by step: the last one of each stage
    no_snapshots: str  # why there are none; empty where there are

    def snapshot_of(self, span: Span) -> dict[str, Places] | None:
        """Return the last snapshot of a stage."""
        steps = [step for step in self.snapshots if span.first < step <= span.last]
        return self.snapshots[max(steps)] if steps else None

    def ious(self, places: Places) -> tuple[np.ndarray | None, list[str]]:
        """Return the IoU `[n]` of the boxes of training images with the best true one, NaN of images that cannot be
        read, None where no truth is known; and what is wrong with those images."""
        if self.hidden is None or self.data is None:
            return None, []
        truths, is_read, problems = [], [], []
        for row in places.rows.tolist():
            try:
                truths.append(self.truth(self.data.labeled, self.hidden, row))
                is_read.append(True)
            except UserError as error:
                truths.append(torch.zeros(0, 4))
                is_read.append(False)
                problems.append(str(error))
        found = best_ious(torch.from_numpy(places.boxes)[:, None], truths)[:, 0].numpy()
        return np.where(is_read, found, np.nan), problems

    def truth(self, images: LocatedIndex, boxes: LocatedIndex, row: int) -> Tensor:
        """Return the true boxes `[n, 4]` of an image in shares of its test view. Raises DataError where it cannot be
        read: its size is not in the index."""
        view = eval_view(images.pixels_at(row), self.config.data.views)[1]
        return in_view(torch.from_numpy(boxes.boxes_at(row)), view)


def read_inputs(run_dir: Path) -> LocalizationInputs:
    """Read a localizer's run folder. Raises ConfigError where it is none, ValueError where its metrics are damaged."""
    folder = RunFolder(run_dir)
    config = folder.load_config()
    assert isinstance(config, LocalizationConfig)
    method, records = localization_method(config), read_metrics(folder.metrics)
    data: PreparedLocated | None = None
    hidden, no_truth = None, ""
    try:
        data = LOCATED.open(folder.data)
        hidden = LOCATED.open_hidden(folder.data)
        no_truth = "" if hidden is not None else "The training images have no boxes to compare with."
    except DataError as error:
        no_truth = f"The prepared data cannot be opened: {error}"
    starts = [record for record in records if record["kind"] == "start"]
    names = data.class_names if data is not None else tuple(starts[-1].get("class_names", ())) if starts else ()
    diagnostics = folder.path / "diagnostics"
    ends = (*method.stage_ends, config.length)
    steps = steps_with(diagnostics, KIND)
    chosen = {max(each for each in steps if each <= end) for end in ends if any(each <= end for each in steps)}
    snapshots, no_snapshots = {}, ""
    try:
        snapshots = {step: read_snapshot(diagnostics, step) for step in sorted(chosen)}
        if data is not None and any(_reaches_beyond(each, data) for each in snapshots.values()):
            raise DataError("it is of other data than this run's")
    except UserError as error:
        snapshots, no_snapshots = {}, f"What was put aside cannot be read: {error}"
    if not snapshots and not no_snapshots:
        no_snapshots = "Nothing was put aside yet: that happens at every evaluation."
    return LocalizationInputs(
        folder=folder.path,
        config=config,
        records=records,
        method=method,
        class_names=names,
        data=data,
        hidden=hidden,
        no_truth=no_truth,
        snapshots=snapshots,
        no_snapshots=no_snapshots,
    )


def _reaches_beyond(snapshot: dict[str, Places], data: PreparedLocated) -> bool:
    sizes = {name: len(data.labeled) if name == TRAIN else len(data.val or ()) for name in snapshot}
    return any(len(each.rows) and int(each.rows.max()) >= sizes[name] for name, each in snapshot.items())
