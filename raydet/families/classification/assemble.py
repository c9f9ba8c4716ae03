"""Joining images and pseudo-labels into the batch that a classifier trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raydet.families.classification.batch import ClassBatch, StepRows
from raydet.families.classification.label_table import LabelTable
from raydet.families.classification.loader import StepImages
from raydet.records import PseudoLogits
from raydet.window import Window


@dataclass(slots=True)
class LogitStats:
    """What one step's pseudo-labels are like; plain numbers, for logging."""

    labeled: int
    pseudo: Tensor  # [U, N] float32
    ages: list[int]
    repredicted: int = 0  # labels that took a new prediction
    had_a_label: int = 0  # of these, how many had one before
    changed: int = 0  # of these, how many name another class now
    logits: Tensor | None = None  # [U, N] what the student said, once it has

    def observe(self, per_view: Mapping[str, Tensor]) -> None:
        """Take in the student's logits."""
        self.logits = per_view["logits"][self.labeled :].cpu()

    def add_to(self, window: Window) -> None:
        """Add the figures to those since the last line of the log."""
        window.increase({"labeled": self.labeled, "images": len(self.pseudo), "age": sum(self.ages)})
        window.increase({"aged": len(self.ages), "repredicted": self.repredicted})
        window.increase({"had_a_label": self.had_a_label, "changed": self.changed})
        window.raise_to("age_max", max(self.ages, default=0))
        for name, logits in (("pseudo", self.pseudo), ("student", self.logits)):
            if logits is None or not len(logits):
                continue
            log_p = logits.double().log_softmax(dim=-1)
            sums = logits.double().sum(dim=-1)
            window.increase(
                {
                    f"{name}/confidence": float(log_p.amax(dim=-1).exp().sum()),
                    f"{name}/entropy": float(-(log_p.exp() * log_p).sum()),
                    f"{name}/logit_sum": float(sums.sum()),
                    f"{name}/logit_sum_squared": float(sums.square().sum()),
                }
            )
        window.per_class.update(self.pseudo.argmax(dim=-1).tolist() if len(self.pseudo) else [])


def assemble(
    step: int,
    images: StepImages,
    labels: Sequence[PseudoLogits],
    table: LabelTable | None,
    *,
    version: int | None,
    num_classes: int,
) -> tuple[ClassBatch, LogitStats]:
    """Give every unlabelled image its pseudo-logits: the learned ones, or those of its new label."""
    ages = [step - label.teacher.version for label in labels]
    fresh = {label.image_id: label.logits for label in labels}
    ids = images.ids[len(images.classes) :]
    known = torch.full((len(ids), num_classes), torch.nan)
    if table is not None:
        known = table.read(torch.from_numpy(images.unlabeled_rows))
    pseudo = known.clone()
    for place, image_id in enumerate(ids):
        if image_id in fresh:
            pseudo[place] = fresh[image_id]
    stats = LogitStats(len(images.classes), pseudo, ages, repredicted=len(fresh))
    rows = learned = None
    if table is not None and len(ids):
        is_fresh = torch.tensor([image_id in fresh for image_id in ids])
        judged = is_fresh & ~known.isnan().any(dim=-1)
        stats.had_a_label = int(judged.sum())
        stats.changed = int((pseudo.argmax(dim=-1) != known.argmax(dim=-1))[judged].sum())
        rows, learned = _rows(images, table, version)
    batch = ClassBatch(step, images.ids, images.pixels, images.classes, pseudo, learned, rows)
    return batch, stats


def _rows(images: StepImages, table: LabelTable, version: int | None) -> tuple[StepRows, Tensor | None]:
    """Return the rows of the table that the step is about, and what was learned of labelled images, if anything is."""
    assert version is not None, "a step with unlabelled images and without labels"
    everybodys = torch.from_numpy(images.all_unlabeled_rows)
    own = torch.tensor(images.unlabeled_slots)
    if not table.learns_labeled:
        return StepRows(everybodys, own, version), None
    learned = table.read(table.num_unlabeled + torch.from_numpy(images.labeled_rows))
    rows = torch.cat([everybodys, table.num_unlabeled + torch.from_numpy(images.all_labeled_rows)])
    places = torch.cat([len(everybodys) + torch.tensor(images.labeled_slots), own])
    return StepRows(rows, places, version), learned
