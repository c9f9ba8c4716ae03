"""IL-net's gate where it acts: in `detect`, at evaluation, and in `select`, on a stored label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.errors import ConfigError, DataError
from raydet.families.detection.method import DetectionMethod, detection_method
from raydet.records import Candidates, PseudoBoxes, TeacherRef
from raydet.vision.images import ImageBatch, collate
from raydet.window import Window
from tests.helpers import tiny_config

# (box, class, score, quality); theta is .5 and must be exceeded.
SURE_BUT_MISPLACED = ([0.0, 0, 10, 10], 1, 0.9, 0.2)
ITS_NEIGHBOUR = ([0.0, 0, 10, 9], 1, 0.8, 0.7)  # IoU of the two: 90 / 100 = .9, NMS keeps the better scored one
AT_THETA = ([20.0, 20, 30, 30], 1, 0.7, 0.5)
ABOVE_THETA = ([40.0, 40, 50, 50], 2, 0.6, 0.5625)
BACKGROUND = ([60.0, 20, 70, 30], 0, 0.3, 1.0)  # the best class of its RoI is background
ROWS = (SURE_BUT_MISPLACED, ITS_NEIGHBOUR, AT_THETA, ABOVE_THETA, BACKGROUND)


def il_net(**changes: object) -> DetectionMethod:
    settings = {"method__iou_filter_threshold": 0.5, "method__score_threshold": 0.25, **changes}
    return detection_method(tiny_config(Path("unused"), **settings), "a test")


def columns() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    boxes, classes, scores, quality = ([row[i] for row in ROWS] for i in range(4))
    return torch.tensor(boxes), torch.tensor(classes), torch.tensor(scores), torch.tensor(quality)


class Says:
    """A detector of which only the answer counts: the same rows for every image."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def candidates(self, images: ImageBatch, **asked: Any) -> list[Candidates]:
        self.asked = asked
        return [Candidates(*columns(), complete_above=0.05) for _ in range(len(images))]


def detected(method: DetectionMethod) -> list[list[tuple[list[float], int]]]:
    """Return the boxes and classes that are left of `ROWS`, for each of two images."""
    model = Says()
    images = collate([torch.zeros(3, 64, 96, dtype=torch.uint8)] * 2, "cpu")
    found = method.detect(model, images)  # type: ignore[arg-type]
    assert model.asked["proposals"] == "test"
    return [list(zip(each.boxes.tolist(), each.classes.tolist(), strict=True)) for each in found]


def test_at_evaluation_the_gate_drops_misplaced_boxes_before_nms_and_keeps_the_others():
    # .2 and .5 do not exceed .5; without the first box nothing suppresses its neighbour; 1 is background and passes.
    left = [([0.0, 0, 10, 9], 1), ([40.0, 40, 50, 50], 2), ([60.0, 20, 70, 30], 0)]
    assert detected(il_net()) == [left, left]


@pytest.mark.parametrize("switch", ["iou_filter_enabled", "iou_branch_enabled"])
def test_at_evaluation_without_the_gate_nms_alone_decides(switch: str):
    left = [([0.0, 0, 10, 10], 1), ([20.0, 20, 30, 30], 1), ([40.0, 40, 50, 50], 2), ([60.0, 20, 70, 30], 0)]
    assert detected(il_net(**{f"method__{switch}": False})) == [left, left]


def stored() -> PseudoBoxes:
    boxes, classes, scores, quality = columns()
    return PseudoBoxes("7", TeacherRef(3, "digest"), boxes, classes, scores, quality, 0.05)


def test_a_sure_but_misplaced_pseudo_box_does_not_suppress_its_neighbour():
    selection = il_net().select(stored())
    assert selection.kept.boxes.tolist() == [[0, 0, 10, 9], [40, 40, 50, 50], [60, 20, 70, 30]]
    assert selection.kept.classes.tolist() == [1, 2, 0]
    # The gate leaves no two that overlap, and every score exceeds .25.
    assert selection.dropped == {"quality": 2, "nms": 0, "score": 0}
    assert selection.dropped_quality == pytest.approx(0.7)  # .2 + .5
    assert selection.background == 1


def test_the_score_threshold_acts_on_what_gate_and_nms_leave():
    selection = il_net(method__score_threshold=0.7).select(stored())
    assert selection.kept.boxes.tolist() == [[0, 0, 10, 9]]  # .8; of .6 and .3 neither exceeds .7
    assert selection.dropped == {"quality": 2, "nms": 0, "score": 2}


@pytest.mark.parametrize("switch", ["iou_filter_enabled", "iou_branch_enabled"])
def test_without_the_gate_the_surest_of_overlapping_pseudo_boxes_stays(switch: str):
    selection = il_net(**{f"method__{switch}": False}).select(stored())
    assert selection.kept.boxes.tolist() == [[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50], [60, 20, 70, 30]]
    assert selection.dropped == {"quality": 0, "nms": 1, "score": 0}
    assert selection.background is None


@pytest.mark.parametrize("name", ["il_net", "unbiased_teacher"])
@pytest.mark.parametrize(("reaches_down_to", "is_complete"), [(0.2, True), (0.25, True), (0.3, False)])
def test_a_label_is_complete_where_its_rows_reach_down_to_the_threshold(
    name: str, reaches_down_to: float, is_complete: bool
):
    settings = {"name": name, "burn_in_steps": 3, "score_threshold": 0.25}
    method = detection_method(tiny_config(Path("unused"), method=settings), "a test")
    assert method.select(replace(stored(), complete_above=reaches_down_to)).is_complete is is_complete


@pytest.mark.parametrize("name", ["il_net", "unbiased_teacher"])
def test_classes_may_have_score_thresholds_of_their_own(name: str):
    gate = {"iou_filter_enabled": False} if name == "il_net" else {}
    settings = {"name": name, "burn_in_steps": 3, "score_threshold": 0.85, "class_thresholds": {"star": 0.5}, **gate}
    method = detection_method(tiny_config(Path("unused"), method=settings), "a test")
    with pytest.raises(DataError, match=r"method.class_thresholds are given, and which classes .* is not known"):
        method.select(stored())
    method.know_classes(["disc", "box", "star"])
    # Of class 1 (.9, .8, .7) only .9 exceeds .85, of class 0 (.3) none; of class 2, the star, .6 exceeds .5.
    kept = method.select(stored()).kept
    assert [(k, round(score, 2)) for k, score in zip(kept.classes.tolist(), kept.scores.tolist(), strict=True)] == [
        (1, 0.9),
        (2, 0.6),
    ]
    assert method.select(replace(stored(), complete_above=0.5)).is_complete
    assert not method.select(replace(stored(), complete_above=0.51)).is_complete
    with pytest.raises(ConfigError, match="the data has no class 'star'; did you mean 'stars'"):
        method.know_classes(["disc", "box", "stars"])


@pytest.mark.parametrize("name", ["il_net", "unbiased_teacher"])
def test_the_alarm_looks_at_the_highest_threshold_where_classes_have_their_own(name: str):
    settings = {"name": name, "burn_in_steps": 3, "score_threshold": 0.7, "class_thresholds": {"star": 0.3}}
    method = detection_method(tiny_config(Path("unused"), method=settings), "a test")
    method.know_classes(["disc", "box", "star"])

    def said(best: float) -> str:
        window = Window()
        window.increase({"images": 4, "candidates": 9, "kept": 0})
        window.raise_to("best_score", best)
        alarm = method.explain_barren(window)
        assert alarm is not None
        return alarm.message

    # .5 may be a disc's, which needs .7: no gate is to blame. Above .7 every class would be kept.
    keys = "the highest of method.score_threshold and method.class_thresholds is 0.7"
    assert f"the teacher's best score is 0.50, {keys}: lower the threshold" in said(0.5)
    assert "candidates score high enough" in said(0.75)


def test_where_every_class_has_its_own_the_common_threshold_says_nothing():
    settings = {"method__score_threshold": 0.2, "method__class_thresholds": {"disc": 0.5, "box": 0.6}}
    method = il_net(**settings)
    method.know_classes(["disc", "box"])
    assert method.select(replace(stored().where(stored().classes < 2), complete_above=0.5)).is_complete


def test_what_the_score_of_unbiased_teacher_drops_is_counted():
    settings = {"name": "unbiased_teacher", "burn_in_steps": 3, "score_threshold": 0.7}
    selection = detection_method(tiny_config(Path("unused"), method=settings), "a test").select(stored())
    sure = [score for score in stored().scores.tolist() if score > 0.7]
    assert selection.kept.scores.tolist() == sure and 0 < len(sure) < len(stored())
    assert selection.dropped == {"score": len(stored()) - len(sure)}


def test_what_nms_and_the_gate_drop_is_counted():
    first_four = stored().where(torch.arange(4))
    counted = il_net(method__iou_filter_enabled=False).select(first_four).dropped
    assert counted["nms"] == 1  # 4 - 3: the neighbour
    # Dropped are .4 and .45; what is left, .51, is less than half of the sum of 1.36.
    three = replace(stored().where(torch.tensor([0, 2, 3])), quality=torch.tensor([0.4, 0.45, 0.51]))
    assert il_net().select(three).dropped_quality == pytest.approx(0.85)
