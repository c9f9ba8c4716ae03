"""Everything the report of a classifier is made from; what is missing comes with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydet.errors import DataError, UserError
from raydet.families.classification.config import ClassificationConfig
from raydet.families.classification.data import IMAGES, PreparedImages
from raydet.families.classification.method import ClassificationMethod, classification_method
from raydet.families.classification.snapshot import Labels, Sample, read_labels, read_sample
from raydet.labels.snapshots import steps_with
from raydet.metrics import read_metrics
from raydet.report.inputs import RunRecords
from raydet.text import plural
from raydet.train.rundir import RunFolder

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class LabelQuality:
    """Labels of one moment against the hidden truth, as counts `[N]` of images by class."""

    step: int
    labels: Ints  # called this class
    right: Ints  # of these, rightly so
    truths: Ints  # truly of this class

    @property
    def accuracy(self) -> float | None:
        """Return the share of right labels, None where none can be judged."""
        return _share(self.right.sum(), self.labels.sum())

    def precision_of(self, index: int) -> float | None:
        """Return the share of right ones among those called a class."""
        return _share(self.right[index], self.labels[index])

    def recall_of(self, index: int) -> float | None:
        """Return the share of a class's images that are called so."""
        return _share(self.right[index], self.truths[index])


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationInputs(RunRecords):
    """A classifier's run, read."""

    config: ClassificationConfig
    method: ClassificationMethod
    class_names: tuple[str, ...]
    data: PreparedImages | None
    truth: Ints | None  # [D] of the unlabelled images; -1 where it is not known
    no_truth: str  # why `truth` is None; empty where it is not
    learned: list[LabelQuality]  # learned labels over time; empty without truth
    predicted: list[LabelQuality]  # the network's own predictions on a sample, likewise
    newest: Labels | None  # the newest learned labels, or else predictions of a sample
    sample_steps: list[int]
    no_snapshots: str  # why there are no labels and samples; empty where there are

    @property
    def repredictions(self) -> tuple[int, ...]:
        """Return the steps at which pseudo-labels are predicted anew, where these are few."""
        schedule = self.method.schedule()
        return schedule.boundaries[1:] if schedule.publish_every is None else ()

    @property
    def num_unlabeled(self) -> int | None:
        """Return how many unlabelled images there are, None where that is not known."""
        return None if self.data is None or self.data.unlabeled is None else len(self.data.unlabeled)

    def sample(self, step: int) -> dict[str, Sample]:
        """Read the sample of a step. Raises UserError where it is damaged or of other data."""
        found = read_sample(self.folder / "diagnostics", step)
        if self.data is not None:
            for name, index in (("labeled", self.data.labeled), ("unlabeled", self.data.unlabeled)):
                _check_rows(found[name].rows, 0 if index is None else len(index), step)
        return found


def read_classification_inputs(run_dir: Path) -> ClassificationInputs:
    """Read a classifier's run folder. Raises ConfigError where it is none, ValueError where its metrics are damaged."""
    folder = RunFolder(run_dir)
    config = folder.load_config()
    assert isinstance(config, ClassificationConfig)
    method = classification_method(config)
    records = read_metrics(folder.metrics)
    data, truth, no_truth = _read_data(folder.data)
    starts = [record for record in records if record["kind"] == "start"]
    class_names = data.class_names if data is not None else tuple(starts[-1].get("class_names", ())) if starts else ()
    learned: list[LabelQuality] = []
    predicted: list[LabelQuality] = []
    newest, no_snapshots = None, ""
    diagnostics = folder.path / "diagnostics"
    try:
        learned, newest = _read_learned(diagnostics, truth, len(class_names))
        predicted, said = _read_predicted(diagnostics, truth, len(class_names))
        newest = newest or said
        if newest is None:
            no_snapshots = "No labels or predictions were put aside yet: that happens at every evaluation."
    except UserError as error:
        no_snapshots = f"What was put aside about labels cannot be read: {error}"
    return ClassificationInputs(
        folder=folder.path,
        config=config,
        records=records,
        method=method,
        class_names=class_names,
        data=data,
        truth=truth,
        no_truth=no_truth,
        learned=learned,
        predicted=predicted,
        newest=newest,
        sample_steps=steps_with(diagnostics, "sample"),
        no_snapshots=no_snapshots,
    )


def predictions(step: int, sample: Sample) -> Labels:
    """Return what the network itself takes a sample's images for; without those whose logits are not finite."""
    own = np.isfinite(sample.logits).all(axis=1)
    shares = softmax(sample.logits[own])
    entropies = -(shares * np.log(np.maximum(shares, np.finfo(np.float32).tiny))).sum(axis=1)
    classes = shares.argmax(axis=1).astype(np.int32)
    return Labels(step, sample.rows[own], classes, shares.max(axis=1, initial=0.0), entropies)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities `[n, N]`."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    shares: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _read_data(folder: Path) -> tuple[PreparedImages | None, Ints | None, str]:
    try:
        data = IMAGES.open(folder)
        hidden = IMAGES.open_hidden(folder)
    except UserError as error:
        return None, None, f"The run's data cannot be read: {error}"
    if hidden is None:
        return data, None, "The unlabelled images came without labels, so nothing can be said about being right."
    return data, hidden.labels(), ""


def _read_learned(folder: Path, truth: Ints | None, classes: int) -> tuple[list[LabelQuality], Labels | None]:
    """Return the quality of every snapshot's labels, one in memory at a time, and the newest labels."""
    found: list[LabelQuality] = []
    newest: Labels | None = None
    for newest in read_labels(folder):
        found += _judged(newest, truth, classes)
    return found, newest


def _read_predicted(folder: Path, truth: Ints | None, classes: int) -> tuple[list[LabelQuality], Labels | None]:
    """Do the same for the network's predictions of the sampled unlabelled images."""
    found: list[LabelQuality] = []
    newest: Labels | None = None
    for step in steps_with(folder, "sample"):
        said = predictions(step, read_sample(folder, step)["unlabeled"])
        if len(said.rows):
            newest = said
            found += _judged(said, truth, classes)
    return found, newest


def _judged(labels: Labels, truth: Ints | None, classes: int) -> list[LabelQuality]:
    """Return the quality of labels in a list, which is empty where no truth is known."""
    if truth is None:
        return []
    _check_rows(labels.rows, len(truth), labels.step)
    if (labels.classes >= classes).any():
        raise DataError(f"the labels of step {labels.step} have classes beyond the {classes} of the run's data")
    true = truth[labels.rows]
    said, true = labels.classes[true >= 0], true[true >= 0]
    counts = (np.bincount(part, minlength=classes) for part in (said, said[said == true], true))
    return [LabelQuality(labels.step, *counts)]


def _check_rows(rows: Ints, number: int, step: int) -> None:
    if len(rows) and rows.max() >= number:
        raise DataError(
            f"what was put aside at step {step} is about row {rows.max()}, and the set has {plural(number, 'image')}: "
            "it belongs to other data"
        )


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None
