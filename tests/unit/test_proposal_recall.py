"""Recall and AR of region proposals, with literal numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raydet.config.box_data import ViewsConfig
from raydet.data.boxes.index import Truth
from raydet.errors import UserError
from raydet.families.classification.family import FAMILY as CLASSIFICATION
from raydet.families.detection.proposal_recall import ProposalRecall, proposal_recall
from raydet.group import Group
from raydet.vision.images import ImageBatch, collate
from raydet.vision.recall import average_recalls, best_ious, recalls
from raydet.vision.rpn import AnchorScores
from tests.helpers import tiny_classes


class Images:
    """Pictures of 40 x 40 pixels with true boxes (box, crowd)."""

    def __init__(self, *truths: list[tuple[list[float], bool]]) -> None:
        self.truths = truths

    def rows_to_judge(self, max_images: int | None) -> list[int]:
        return list(range(len(self.truths)))[:max_images]

    def size_at(self, row: int) -> tuple[int, int]:
        return 40, 40

    def pixels_at(self, row: int) -> torch.Tensor:
        return torch.full((3, 40, 40), row, dtype=torch.uint8)

    def truth_at(self, row: int) -> Truth:
        boxes = np.array([box for box, _ in self.truths[row]], dtype=np.float64).reshape(-1, 4)
        crowd = np.array([each for _, each in self.truths[row]], dtype=np.bool_)
        return Truth(boxes, np.zeros(len(boxes), dtype=np.int64), crowd, np.ones(len(boxes)))


class Proposer(nn.Module):
    """Proposes the same boxes in every image, in view pixels, best first."""

    def __init__(self, boxes: list[list[float]]) -> None:
        super().__init__()
        self.boxes = torch.tensor(boxes)
        self.config = SimpleNamespace(rpn_nms=0.7)

    def framed(self, pixels: list[torch.Tensor]) -> ImageBatch:
        return collate(pixels, "cpu")

    def features(self, images: Any) -> int:
        assert not self.training
        return len(images.sizes)

    def score_anchors(self, number: int) -> AnchorScores:
        count = len(self.boxes)
        scores = -torch.arange(float(count)).expand(number, count)
        return AnchorScores(scores, torch.zeros(number, count, 4), self.boxes, (count,))


def judged(boxes: list[list[float]], index: Images, **other: Any) -> ProposalRecall:
    views = ViewsConfig(short_side=(80,), max_long_side=80, eval_short_side=80)  # twice as large as the images
    data = SimpleNamespace(views=views, loader_threads=2, prefetch_steps=1)
    method: Any = SimpleNamespace(run=SimpleNamespace(data=data))
    model, group = Proposer(boxes), Group(device=torch.device("cpu"))
    found = proposal_recall(method, model, index, group, **other)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_proposals_are_judged_in_original_pixels_best_first():
    # In original pixels: [0, 0, 10, 10], which is the first true box, and [20, 20, 30, 36] with 100 / 160 = 0.625 of
    # the second, a hit at .5, .55 and .6. In the second image, without boxes, nothing is to be found.
    boxes = [[0.0, 0, 20, 20], [40.0, 40, 60, 72]]
    index = Images([([0, 0, 10, 10], False), ([20, 20, 30, 30], False), ([0, 30, 10, 40], True)], [])
    found = judged(boxes, index)
    assert (found.images, found.boxes) == (2, 2)
    assert (found.recall_10, found.recall_100, found.recall_1000) == (1.0, 1.0, 1.0)
    assert (found.ar_10, found.ar_100, found.ar_1000) == pytest.approx((13 / 20, 13 / 20, 13 / 20))
    assert found.as_text().splitlines() == [
        "region proposals of 2 images, 2 true boxes",
        "best         10    100  1,000",
        "recall    100.0  100.0  100.0",
        "AR         65.0   65.0   65.0",
    ]


def test_a_box_counts_at_the_budgets_that_reach_it():
    # Twelve proposals apart from each other; true boxes are the first and the eleventh.
    boxes = [
        [float(5 * (n % 8) * 2), float(10 * (n // 8) * 2), 5 * (n % 8) * 2 + 8.0, 10 * (n // 8) * 2 + 8.0]
        for n in range(12)
    ]
    index = Images([([0, 0, 4, 4], False), ([10, 10, 14, 14], False)])
    found = judged(boxes, index)
    assert (found.recall_10, found.recall_100, found.recall_1000) == (0.5, 1.0, 1.0)
    assert (found.ar_10, found.ar_100) == (0.5, 1.0)
    assert judged(boxes, Images([]), max_images=1).recall_10 is None
    assert judged(boxes, Images([], [([0, 0, 4, 4], False)]), max_images=1).boxes == 0


def test_average_recall_counts_ious_of_ten_thresholds():
    # IoU 1 at ten of ten, 0.72 at five (.5, .55, .6, .65, .7), 0.4 at none: 15 of 30.
    best = np.array([[1.0, 1.0, 1.0], [0.0, 0.72, 0.72], [0.0, 0.0, 0.4]], dtype=np.float32)
    assert average_recalls(best) == pytest.approx({"ar_10": 10 / 30, "ar_100": 15 / 30, "ar_1000": 15 / 30})
    assert recalls(best, 0.4) == pytest.approx(
        {"recall_10": 1 / 3, "recall_100": 2 / 3, "recall_1000": 1.0, "ar_100": 15 / 30}
    )
    assert set(average_recalls(best[:0]).values()) == {None}
    assert best_ious(torch.zeros(0, 4), torch.zeros(2, 4)).tolist() == [[0.0] * 3] * 2


def test_a_classifier_has_no_proposals(tmp_path: Path):
    method = SimpleNamespace(run=tiny_classes(tmp_path / "run"))
    group = Group(device=torch.device("cpu"))
    with pytest.raises(UserError, match="--proposals is for detectors and for pre-training; method.name=r2d2 trains a"):
        CLASSIFICATION.evaluate_proposals(method, None, None, group, max_images=None)
