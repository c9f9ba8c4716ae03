from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydet.contract import Method
from raydet.families.detection.assemble import LabelStats, assemble, to_target
from raydet.families.detection.batch import ViewedImage
from raydet.families.detection.loader import StepViews
from raydet.records import PseudoBoxes, Target, TeacherRef
from raydet.registry import build_method
from raydet.vision.geometry import View
from tests.helpers import tiny_config

HEIGHT, WIDTH = 80, 100  # of every original image here


@pytest.fixture
def method() -> Method:
    """IL-net with theta .4 and a score threshold of .5; boxes thinner than 1 pixel in a view are dropped."""
    return build_method(tiny_config(Path("unused"), method__score_threshold=0.5, method__iou_filter_threshold=0.4))


def label(*rows: tuple[list[float], int, float, float], version: int = 4, name: str = "u0") -> PseudoBoxes:
    """Rows of (box, class, score, quality)."""
    boxes, classes, scores, quality = ([row[i] for row in rows] for i in range(4))
    return PseudoBoxes(
        name,
        TeacherRef(version, "digest"),
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(classes, dtype=torch.int64),
        torch.tensor(scores),
        torch.tensor(quality),
        0.05,
    )


def unlabeled(view: View, name: str = "u0") -> ViewedImage:
    pixels = torch.zeros(3, view.height, view.width, dtype=torch.uint8)
    return ViewedImage(name, pixels, view, Target.empty(), "unlabeled", slot=int(name[1:]))


def assembled(method: Method, labels: list[PseudoBoxes], *, step: int = 5, view: View | None = None):
    view = view or View.identity(HEIGHT, WIDTH)
    truth = Target.truth(torch.tensor([[1.0, 2, 30, 40]]), torch.tensor([2]))
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    labeled = tuple(ViewedImage("l0", pixels, view, truth, f"labeled-{copy}", 0) for copy in ("strong", "weak"))
    views = StepViews(labeled, tuple(unlabeled(view, each.image_id) for each in labels), 0)
    return assemble(step, views, labels, method, None, num_classes=3)


def test_selected_boxes_become_targets_of_the_strong_view(method: Method):
    kept = ([10.0, 20, 30, 40], 1, 0.9, 0.8)
    batch, stats = assembled(
        method,
        [
            label(
                kept,
                ([10.0, 20, 30, 41], 1, 0.8, 0.8),  # NMS
                ([60.0, 20, 80, 40], 1, 0.7, 0.4),  # quality must exceed theta
                ([60.0, 50, 80, 70], 2, 0.5, 0.8),  # so must the score
            ),
            label(name="u1"),
        ],
        view=View.identity(HEIGHT, WIDTH).resized(2 * HEIGHT, 2 * WIDTH).flipped(horizontal=True),
    )
    assert (batch.step, batch.sizes) == (5, {"labeled": 2, "unlabeled": 2})
    assert [view.image_id for view in batch.views] == ["l0", "l0", "u0", "u1"]
    assert batch.targets[0].boxes.tolist() == [[1, 2, 30, 40]]  # ground truth is in view pixels already
    assert (batch.targets[0].scores.tolist(), batch.targets[0].quality.tolist()) == ([1], [1])
    # x: 200 - 2 * 30 = 140 to 200 - 2 * 10 = 180
    assert batch.targets[2].boxes.tolist() == [[140, 40, 180, 80]]
    assert batch.targets[2].classes.tolist() == [1]
    assert batch.targets[2].scores.tolist() == pytest.approx([0.9])
    assert batch.targets[2].quality.tolist() == pytest.approx([0.8])
    assert len(batch.targets[3]) == 0  # an image without pseudo-boxes is background, not left out
    assert (stats.images, stats.candidates, stats.kept, stats.degenerate) == (2, 4, 1, 0)
    assert stats.dropped == {"quality": 1, "nms": 1, "score": 1}
    assert stats.per_class == [0, 1, 0]
    assert (stats.best_score, stats.score_sum, stats.quality_sum) == pytest.approx((0.9, 0.9, 0.8))
    assert stats.ages == [1, 1]


def test_what_the_quality_gate_drops_and_what_passes_it_as_background_is_counted(method: Method):
    rows = [
        ([10.0, 20, 30, 40], 1, 0.9, 0.8),
        ([60.0, 20, 80, 40], 1, 0.7, 0.25),
        ([60.0, 20, 80, 40], 2, 0.6, 0.375),
        ([60.0, 50, 80, 70], 2, 0.3, 1.0),  # the best class of its RoI is background
    ]
    _, stats = assembled(method, [label(*rows), label(*rows[2:], name="u1")])
    assert stats.dropped["quality"] == 3
    assert stats.dropped_quality == pytest.approx(1.0)  # .25 + .375 + .375
    assert stats.background == 2
    off = build_method(tiny_config(Path("unused"), method__iou_filter_enabled=False))
    _, stats = assembled(off, [label(*rows)])
    assert (stats.dropped["quality"], stats.dropped_quality, stats.background) == (0, 0.0, None)


def test_a_burn_in_step_has_labelled_views_only(method: Method):
    batch, stats = assembled(method, [])
    assert batch.sizes == {"labeled": 2, "unlabeled": 0}
    assert stats == LabelStats(labeled=1)


@pytest.mark.parametrize("version", [3, 4, 5])
def test_the_age_of_a_label_is_noted(method: Method, version: int):
    _, stats = assembled(method, [label(version=version)])
    assert stats.ages == [5 - version]


def test_as_many_labels_as_unlabelled_views_are_wanted(method: Method):
    views = StepViews((), (unlabeled(View.identity(8, 8)),), 0)
    with pytest.raises(ValueError, match="zip"):
        assemble(5, views, [], method, None, num_classes=3)


def test_boxes_that_vanish_in_the_view_are_dropped():
    # The view is a tenth as large and shows the original from x = 50 on.
    view = View((0.1, 0.0, -5.0, 0.0, 0.1, 0.0), height=8, width=5)
    said = label(
        ([60.0, 10, 90, 40], 0, 0.9, 0.5),  # stays: 1..4 x 1..4
        ([40.0, 0, 70, 80], 1, 0.8, 0.4),  # is cut at the left: 0..2 x 0..8
        ([10.0, 10, 40, 40], 2, 0.7, 0.3),  # lies outside
        ([60.0, 10, 69.9, 40], 0, 0.6, 0.2),  # .99 pixels wide
        ([60.0, 10, 90, 20], 1, 0.5, 0.1),  # exactly 1 pixel high: stays
    )
    target = to_target(said, unlabeled(view), min_side_px=1.0)
    assert target.boxes.flatten().tolist() == pytest.approx([1, 1, 4, 4, 0, 0, 2, 8, 1, 1, 4, 2], abs=1e-5)
    assert target.classes.tolist() == [0, 1, 1]
    assert target.scores.tolist() == pytest.approx([0.9, 0.8, 0.5])  # each box keeps its own
    assert target.quality.tolist() == pytest.approx([0.5, 0.4, 0.1])


def test_vanished_boxes_are_counted_as_degenerate(method: Method):
    view = View.identity(HEIGHT, WIDTH).resized(4, 5)  # a twentieth
    batch, stats = assembled(
        method, [label(([0.0, 0, 60, 60], 0, 0.9, 0.9), ([70.0, 0, 80, 60], 1, 0.8, 0.9))], view=view
    )
    assert batch.targets[2].classes.tolist() == [0]  # the other is half a pixel wide
    assert (stats.kept, stats.degenerate) == (2, 1)
