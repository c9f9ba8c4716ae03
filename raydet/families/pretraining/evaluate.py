"""What a pre-trained network is worth before anybody fine-tunes it, on held-out images.

Region proposals against true boxes, whatever their class: recall among the best 10, 100 and 1000, and average recall
(AR, the mean over IoUs of 0.5 to 0.95) among the best 100. And how alike boxes are in three views.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raydet.data.boxes.index import DatasetIndex
from raydet.errors import DataError
from raydet.families.pretraining.assemble import assemble
from raydet.families.pretraining.loader import StepViews, views_of
from raydet.families.pretraining.method import PretrainingMethod
from raydet.families.pretraining.model import PretrainingModel, normalised
from raydet.families.pretraining.proposals import ImageProposals, checked_proposals_of
from raydet.families.pretraining.similarity import spread
from raydet.families.pretraining.views import plain_view
from raydet.group import Group
from raydet.randomness import stream
from raydet.text import percent, plural
from raydet.vision.mode import evaluating
from raydet.vision.recall import BUDGETS, PRE_NMS, best_ious, recalls
from raydet.vision.rpn import proposals

IMAGES_PER_FORWARD = 32


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """One rank's share of an evaluation; adds up."""

    best: NDArray[np.float32]  # [G, 3] of each true box the largest IoU among the 10, 100, 1000 best; [0, 3] of no RPN
    images: int
    boxes: int  # true ones, whether or not there are region proposals to find them
    similarity: float = 0.0  # summed over `compared` images
    compared: int = 0
    moments: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class PretrainingResult:
    """The figures of one evaluation; shares in [0, 1], None where they cannot be had."""

    images: int
    boxes: int
    recall_10: float | None
    recall_100: float | None
    recall_1000: float | None
    ar_100: float | None
    similarity: float | None
    projection_spread: float | None

    @property
    def score(self) -> float | None:
        """Return the recall at 100."""
        return self.recall_100

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def as_text(self) -> str:
        """Return a table for people."""
        rows = [
            ("recall at 10, 100, 1000", *(percent(x) for x in (self.recall_10, self.recall_100, self.recall_1000))),
            ("AR at 100", percent(self.ar_100)),
            ("similarity of views", "–" if self.similarity is None else f"{self.similarity:.3f}"),
            ("spread of projections", "–" if self.projection_spread is None else f"{self.projection_spread:.3f}"),
        ]
        lines = [
            f"{plural(self.images, 'image')}, {plural(self.boxes, 'true box')}",
            *(f"{a:28} {'  '.join(b)}" for a, *b in rows),
        ]
        return "\n".join(lines)


def known_proposals(index: DatasetIndex, where: str, *, tell: bool) -> ImageProposals | None:
    """Return the proposals of held-out images; None where there are none of all of them: everything else that
    evaluation measures can do without. `tell`: warn, saying why."""
    try:
        return checked_proposals_of(index, where)
    except DataError as error:
        if tell:
            warnings.warn(f"similarity of held-out images is not measured: {error}", stacklevel=2)
        return None


def count_rows(
    method: PretrainingMethod,
    model: PretrainingModel,
    index: DatasetIndex,
    boxes: ImageProposals | None,
    rows: Sequence[int],
    device: torch.device,
) -> Counts:
    """Judge the images at `rows`."""
    best = [np.zeros((0, len(BUDGETS)), np.float32)]
    true_boxes = sum(len(_true_boxes(index, row)) for row in rows)
    similarity, compared, moments = 0.0, 0, None
    for start in range(0, len(rows), IMAGES_PER_FORWARD):
        own = rows[start : start + IMAGES_PER_FORWARD]
        with evaluating(model):
            if model.rpn is not None:
                best.append(_found(method, model, index, own, device))
            if boxes is not None:
                alike, sums = _alike(method, model, index, boxes, own)
                similarity, compared = similarity + alike, compared + len(own)
                moments = sums if moments is None else moments + sums
    return Counts(np.concatenate(best), len(rows), true_boxes, similarity, compared, moments)


def evaluate_sharded(
    method: PretrainingMethod, model: PretrainingModel, index: DatasetIndex, group: Group, *, max_images: int | None
) -> PretrainingResult | None:
    """Evaluate over all ranks; the lead rank gets the figures, the others None. Waits for all ranks."""
    rows = group.share_of(index.rows_to_judge(max_images))
    boxes = known_proposals(index, method.run.data.proposals, tell=group.is_lead)
    own = count_rows(method, model, index, boxes, rows, group.device)
    parts: list[Counts] = group.all_gather(own)
    if not group.is_lead:
        return None
    best = np.concatenate([part.best for part in parts])
    compared = sum(part.compared for part in parts)
    moments = [part.moments for part in parts if part.moments is not None]
    return PretrainingResult(
        images=sum(part.images for part in parts),
        boxes=sum(part.boxes for part in parts),
        **recalls(best, method.run.eval.recall_iou),
        similarity=sum(part.similarity for part in parts) / compared if compared else None,
        projection_spread=spread(torch.from_numpy(sum(moments[1:], moments[0]))) if moments else None,
    )


def _found(
    method: PretrainingMethod, model: PretrainingModel, index: DatasetIndex, rows: Sequence[int], device: torch.device
) -> NDArray[np.float32]:
    """Return the best IoUs `[G, 3]` of the true boxes of some images, each seen whole."""
    size = method.run.data.views.size
    seen = [plain_view(index.pixels_at(row), size) for row in rows]
    scores = model.score_anchors(model.features(normalised(torch.stack([pixels for pixels, _ in seen]), device)))
    every = proposals(
        scores, [(size, size)] * len(rows), pre_nms=PRE_NMS, post_nms=max(BUDGETS), nms_iou=method.run.model.rpn_nms
    )
    found = []
    for row, (_, view), proposed in zip(rows, seen, every, strict=True):
        boxes = view.to_view(torch.from_numpy(_true_boxes(index, row).astype(np.float32)))
        found.append(best_ious(proposed.cpu(), boxes).numpy())
    return np.concatenate(found)


def _true_boxes(index: DatasetIndex, row: int) -> NDArray[np.float64]:
    """Return the boxes `[G, 4]` of an image that are to be found: no crowds."""
    truth = index.truth_at(row)
    return truth.boxes[~truth.crowd]


def _alike(
    method: PretrainingMethod, model: PretrainingModel, index: DatasetIndex, boxes: ImageProposals, rows: Sequence[int]
) -> tuple[float, NDArray[np.float32]]:
    """Return the similarity, summed over images, and the moments of their projections; always the same views."""
    run, number = method.run, method.config.num_boxes
    ids = [index.id_at(row) for row in rows]
    rngs = [stream(run.seed, "held out", image_id) for image_id in ids]
    images = [views_of(index, boxes, run, number, row, rng) for row, rng in zip(rows, rngs, strict=True)]
    batch, _ = assemble(0, StepViews(ids, tuple(range(len(ids))), images))
    _, figures, moments = method.compare(model, batch, method.show(model, batch, (0, 1, 2)))
    return float(figures["similarity"].sum()), moments.float().cpu().numpy()
