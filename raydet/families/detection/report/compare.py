"""Pictures where detectors differ most: a section that detection adds to a page that compares runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from raydet.data.boxes.index import DatasetIndex
from raydet.errors import UserError
from raydet.families.detection.data import BOXES
from raydet.families.detection.evaluate import predict
from raydet.families.detection.judged_boxes import Detections
from raydet.families.detection.pseudo_quality import LabelPair, own_truth_iou
from raydet.families.detection.report import errors
from raydet.families.detection.report.gallery import FoundBox, found_picture, truth_picture
from raydet.families.detection.report.history import true_boxes, verified_classes
from raydet.families.detection.saved import SavedDetector, load_detector
from raydet.report.compare.runs import Compared
from raydet.report.page import Pictures, Section, grid, heading, paragraph
from raydet.text import plural

TITLE = "Where they differ most"
MOST_RUNS = 4
SHOWN = 8  # images

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What a model finds in one image, best score first, without what scores below the model's own threshold."""

    boxes: tuple[FoundBox, ...]
    truths: int

    @property
    def right(self) -> int:
        """Return how many true boxes it finds."""
        return sum(box.is_right for box in self.boxes)

    @property
    def f1(self) -> float:
        """Return the harmonic mean of precision and recall; 1 where there is nothing to find and nothing found."""
        total = len(self.boxes) + self.truths
        return 2 * self.right / total if total else 1.0

    @property
    def caption(self) -> str:
        """Return what was found, in words."""
        return f"finds {self.right} of {self.truths}, {len(self.boxes) - self.right} wrong"


def makers_for(max_images: int) -> Sequence[Callable[[Compared, Pictures], Section]]:
    """Return the sections' makers: errors by kind, and pictures where they are wanted."""
    return [errors.compared_section, *([partial(differences, max_images=max_images)] if max_images else [])]


def differences(compared: Compared, pictures: Pictures, *, max_images: int) -> Section:
    """Run the newest models on some validation images and show those where they differ most, beside the truth."""
    runs = compared.examples(MOST_RUNS)
    try:
        index = BOXES.open(runs[0].folder / "data").val
        models = [load_detector(run.folder, "raydet compare") for run in runs]
    except UserError as error:
        return Section(TITLE, [paragraph(f"No pictures: {error}", "absent")])
    assert index is not None  # the runs were evaluated on it
    rows = compared.rows_to_show(index, max_images)
    count = f"{plural(len(models), 'model')} on {plural(len(rows), 'image')}"
    print(f"raydet: looking for pictures where the runs differ: {count}", file=sys.stderr, flush=True)
    try:
        found = [_judged(model, index, rows) for model in models]
    except UserError as error:
        return Section(TITLE, [paragraph(f"No pictures: {error}", "absent")])
    names = [compared.names[run.folder] for run in runs]
    chosen = most_different([judged for judged, _ in found], SHOWN)
    thresholds = ", ".join(f"{name} from {score:.2f} on" for name, (_, score) in zip(names, found, strict=True))
    checkpoints = ", ".join(
        f"{name}: {m.role} of step {m.checkpoint.step}" for name, m in zip(names, models, strict=True)
    )
    lead = (
        f"Of {plural(len(rows), 'validation image')}, those where the F1 of what the newest models find differs most "
        f"({checkpoints}). Blue: the truth. Green: right boxes, IoU 0.5 or more with a true box of their class. Red: "
        f"wrong ones. Each model shows the boxes above the score at which its F1 over these images is highest, as "
        f"scores of two models need not mean the same: {thresholds}."
    )
    body = [paragraph(lead)]
    if len(runs) < len(compared.runs):
        body.append(paragraph(f"{plural(len(runs), 'run')} of {len(compared.runs)}: one for each kind of run."))
    for number, place in enumerate(chosen):
        body += _beside_each_other(number, rows[place], index, names, [judged[place] for judged, _ in found], pictures)
    return Section(TITLE, body if chosen else [*body, paragraph("They find the same in all of them.", "absent")])


def most_different(found: Sequence[Sequence[Judged]], most: int) -> list[int]:
    """Return the images, at most so many, where the models' F1 lie furthest apart; those without difference never."""
    scores = np.array([[each.f1 for each in judged] for judged in found])
    spread = scores.max(axis=0) - scores.min(axis=0)
    order = np.argsort(-spread, kind="stable")
    return [int(place) for place in order[:most] if spread[place] > 0]


def best_threshold(scores: Floats, hits: NDArray[np.bool_], truths: int) -> float:
    """Return the lowest score that is kept where F1 over all images is highest; 1 where there is no detection.

    `scores`, `hits` `[n]`: every detection, and whether it is right. A detection's pairing with the truth does not
    depend on those that score less, so that what is kept above any score is a beginning of the whole.
    """
    if not len(scores):
        return 1.0
    order = np.argsort(-scores, kind="stable")
    kept = np.arange(1, len(scores) + 1)
    f1 = 2 * np.cumsum(hits[order]) / (kept + truths)
    # Equal scores are kept or dropped together: only the last of them is a place to cut.
    ranked = scores[order]
    f1[np.append(ranked[:-1] == ranked[1:], False)] = -1.0
    return float(ranked[f1.argmax()])


def judged_by_truth(
    found: Sequence[Detections], truths: Sequence[tuple[Floats, NDArray[np.int64], NDArray[np.int64] | None]]
) -> tuple[list[Judged], float]:
    """Return what a model finds in each image, above the score at which its F1 over all of them is highest, and it.

    `truths`: boxes, classes, and which classes are verified (`LabelPair`); what cannot be judged is left out.
    """
    columns = []
    for each, truth in zip(found, truths, strict=True):
        order = torch.argsort(each.scores, descending=True, stable=True)
        own, labels, scores = (part[order].numpy() for part in (each.boxes, each.classes, each.scores))
        pair = LabelPair(own, labels, *truth)
        hits = own_truth_iou(pair) > 0
        kept = pair.is_judged(hits)
        columns.append((own[kept], labels[kept], scores[kept].astype(np.float64), hits[kept]))
    total = sum(len(classes) for _, classes, _ in truths)
    every = [np.concatenate([np.zeros(0), *(column[place] for column in columns)]) for place in (2, 3)]
    least = best_threshold(every[0], every[1].astype(np.bool_), total)
    judged = [
        Judged(
            tuple(
                FoundBox(box, int(label), float(score), bool(hit))
                for box, label, score, hit in zip(*column, strict=True)
                if score >= least
            ),
            len(classes),
        )
        for column, (_, classes, _) in zip(columns, truths, strict=True)
    ]
    return judged, least


def _judged(saved: SavedDetector, index: DatasetIndex, rows: list[int]) -> tuple[list[Judged], float]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = predict(saved.method, saved.model.to(device), index, rows)
    ids = [index.id_at(row) for row in rows]
    return judged_by_truth(found, [(*true_boxes(index, each), verified_classes(index, each)) for each in ids])


def _beside_each_other(
    number: int, row: int, index: DatasetIndex, names: Sequence[str], found: Sequence[Judged], pictures: Pictures
) -> list[str]:
    """Return one image's truth and what each model finds in it, side by side; or what is wrong with its file."""
    image_id, classes = index.id_at(row), index.class_names
    try:
        pixels = index.pixels_at(row)
        truth = truth_picture(pixels, *true_boxes(index, image_id), classes)
        shown = [pictures.figure(f"compare_{number}_truth.jpg", truth, "truth")]
        for place, (name, judged) in enumerate(zip(names, found, strict=True)):
            picture = found_picture(pixels, judged.boxes, classes)
            shown.append(pictures.figure(f"compare_{number}_{place}.jpg", picture, f"{name}: {judged.caption}"))
    except UserError as error:
        return [paragraph(f"{image_id}: {error}", "absent")]
    return [heading(f"Image {image_id}"), grid(shown, "row")]
