from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from raydet.data.boxes.index import Truth
from raydet.errors import UserError
from raydet.families.detection.coco import coco_metrics
from raydet.families.detection.judged_boxes import Detections
from raydet.families.detection.pseudo_quality import LabelPair, pseudo_label_quality


def together(found):
    """What an index says of many images, from what it says of each."""
    nothing = Truth(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0))
    columns = (np.concatenate([getattr(each, field.name) for each in (nothing, *found)]) for field in fields(Truth))
    return np.array([len(each.classes) for each in found], dtype=np.int64), Truth(*columns)


class FakeIndex:
    """Images of 200 x 200 pixels, from a list of (box, class, crowd) per image."""

    class_names = ("cat", "dog")
    federated = None

    def __init__(self, *images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def id_at(self, i):
        return f"image-{i}"

    def size_at(self, i):
        return 200, 200

    def truth_at(self, i):
        boxes = np.array([box for box, _, _ in self.images[i]], dtype=np.float64).reshape(-1, 4)
        classes = np.array([label for _, label, _ in self.images[i]], dtype=np.int64)
        crowd = np.array([crowd for _, _, crowd in self.images[i]], dtype=bool)
        return Truth(boxes, classes, crowd, np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))

    def truth_of(self, rows):
        return together([self.truth_at(i) for i in rows])


def found(i, *rows):
    boxes = torch.tensor([box for box, _, _ in rows], dtype=torch.float32).reshape(-1, 4)
    classes = torch.tensor([label for _, label, _ in rows], dtype=torch.int64)
    return Detections(f"image-{i}", boxes, classes, torch.tensor([score for _, _, score in rows]))


SMALL, MEDIUM = [0, 0, 10, 10], [50, 50, 100, 100]


@pytest.mark.parametrize("engine", ["numpy", "hotcoco", "pycocotools"])
def test_perfect_detections_have_ap_one_and_what_is_undefined_is_none(engine):
    index = FakeIndex([(SMALL, 0, False)], [(MEDIUM, 0, False)])
    result = coco_metrics(index, [found(1, (MEDIUM, 0, 0.9)), found(0, (SMALL, 0, 0.8))], engine=engine)
    figures = (result.AP, result.AP50, result.AP75, result.APs, result.APm, result.APl)
    assert figures == pytest.approx((1.0, 1.0, 1.0, 1.0, 1.0, None))
    assert [each.AP for each in result.per_class.values()] == pytest.approx([1.0, None])
    assert (result.images, result.boxes, result.detections, result.engine) == (2, 2, 2, engine)


@pytest.mark.parametrize("engine", ["numpy", "hotcoco", "pycocotools"])
def test_a_loose_box_counts_at_low_iou_thresholds_only(engine):
    # IoU = 50*50 / (50*80) = 0.625: a hit at 0.50, 0.55, 0.60 of the ten thresholds.
    index = FakeIndex([(MEDIUM, 0, False)])
    result = coco_metrics(index, [found(0, ([50, 50, 100, 130], 0, 0.9))], engine=engine)
    figures = [result.AP50, result.AP75, result.AP]
    assert figures == pytest.approx([1.0, 0.0, 0.3])


@pytest.mark.parametrize("engine", ["numpy", "hotcoco", "pycocotools"])
def test_a_false_positive_above_the_hit_halves_the_precision(engine):
    index = FakeIndex([(MEDIUM, 0, False)])
    rows = (([150, 150, 160, 160], 0, 0.95), (MEDIUM, 0, 0.9))
    result = coco_metrics(index, [found(0, *rows)], engine=engine)
    figures = [result.AP, result.AP50]
    assert figures == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("engine", ["numpy", "hotcoco", "pycocotools"])
def test_detections_on_a_crowd_region_are_ignored(engine):
    index = FakeIndex([(MEDIUM, 0, False), ([0, 0, 40, 40], 0, True)])
    rows = (([0, 0, 20, 20], 0, 0.95), ([20, 20, 40, 40], 0, 0.94), (MEDIUM, 0, 0.9))
    result = coco_metrics(index, [found(0, *rows)], engine=engine)
    figures = (result.AP, result.boxes)
    assert figures == pytest.approx((1.0, 1))


@pytest.mark.parametrize("engine", ["numpy", "hotcoco", "pycocotools"])
def test_no_detections_at_all_is_ap_zero(engine):
    index = FakeIndex([(MEDIUM, 0, False)], [])
    assert coco_metrics(index, [], engine=engine).AP == 0.0
    assert coco_metrics(index, [found(0), found(1)], engine=engine).AP == 0.0


@pytest.mark.parametrize("engine", ["numpy", "hotcoco", "pycocotools"])
def test_without_ground_truth_every_figure_is_undefined(engine):
    result = coco_metrics(FakeIndex([], []), [found(0, (MEDIUM, 0, 0.9))], engine=engine)
    assert [result.AP, result.AP50, result.APs, result.per_class["cat"].AP50] == [None] * 4


def test_positions_restrict_the_images(tmp_path):
    index = FakeIndex([(MEDIUM, 0, False)], [(MEDIUM, 0, False)])
    result = coco_metrics(index, [found(0, (MEDIUM, 0, 0.9))], positions=[0])
    figures = (result.AP, result.images)
    assert figures == pytest.approx((1.0, 1))
    with pytest.raises(ValueError, match="'image-1'.*not among the images"):
        coco_metrics(index, [found(1)], positions=[0])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(MEDIUM, 0, float("nan"))], "scores contain NaN"),
        ([([0, 0, float("inf"), 1], 0, 0.5)], "boxes contain NaN or infinity"),
        ([(MEDIUM, 2, 0.5)], r"outside 0\.\.1"),
    ],
)
def test_impossible_detections_are_refused_with_the_image_named(rows, message):
    with pytest.raises(ValueError, match=f"'image-0': .*{message}"):
        coco_metrics(FakeIndex([(MEDIUM, 0, False)]), [found(0, *rows)])


def test_an_image_given_twice_is_refused():
    with pytest.raises(ValueError, match="'image-0' are given twice"):
        coco_metrics(FakeIndex([]), [found(0), found(0)])


def test_an_engine_that_is_not_installed_is_a_users_mistake(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'raydet\[fast\]'"):
        coco_metrics(FakeIndex([]), [], engine="hotcoco")
    assert coco_metrics(FakeIndex([]), [], engine="auto").engine == "numpy"


def test_the_reference_engine_prints_nothing(capfd):
    coco_metrics(FakeIndex([(MEDIUM, 0, False)]), [found(0)], engine="pycocotools")
    assert capfd.readouterr() == ("", "")


def test_the_result_as_text_and_json():
    result = coco_metrics(FakeIndex([(MEDIUM, 0, False)]), [found(0, (MEDIUM, 0, 0.9))], engine="pycocotools")
    assert result.as_text().splitlines() == [
        "1 image, 1 box, 1 detection, engine pycocotools",
        "AP 100.0  AP50 100.0  AP75 100.0  APs     -  APm 100.0  APl     -",
        "AP50 gained if mended (TIDE): Cls 0.0  Loc 0.0  Both 0.0  Dupe 0.0  Bkg 0.0  Miss 0.0  FalsePos 0.0  "
        "FalseNeg 0.0",
        "  cat  AP 100.0  AP50 100.0",
        "  dog  AP     -  AP50     -",
    ]
    assert result.as_json()["per_class"]["dog"] == {"AP": None, "AP50": None}


def test_kinds_of_errors_are_those_of_what_was_said_and_what_is_true():
    # The cat is called a dog at its very place, a dog is said where nothing is, the dog itself is not found.
    index = FakeIndex([(MEDIUM, 0, False), (SMALL, 1, False)])
    said = [found(0, (MEDIUM, 1, 0.9), ([150, 150, 180, 180], 1, 0.8))]
    result = coco_metrics(index, said, engine="pycocotools")
    assert result.AP50 == 0 and result.tide is not None
    counts = {"Cls": 1, "Loc": 0, "Both": 0, "Dupe": 0, "Bkg": 1, "Miss": 1}
    assert {name: result.tide.counts[name] for name in counts} == counts
    # Mended, the cat is found and AP50 of the two classes is (1 + 0) / 2; to strike out the other one gains nothing.
    assert (result.tide.gains["Cls"], result.tide.gains["Bkg"]) == (0.5, 0.0)
    assert "Cls 50.0  Loc 0.0" in result.as_text()
    assert result.as_json()["tide"]["counts"]["Cls"] == 1


@pytest.mark.parametrize("engine", ["numpy", "hotcoco", "pycocotools"])
def test_novel_and_base_classes_have_means_of_their_own(engine):
    # The dog is found with IoU 1; of the cat 50*50 / (50*80) = 0.625 is a hit at 3 of 10 thresholds.
    index = FakeIndex([(MEDIUM, 0, False), (SMALL, 1, False)])
    rows = (([50, 50, 100, 130], 0, 0.9), (SMALL, 1, 0.8))
    result = coco_metrics(index, [found(0, *rows)], engine=engine, novel=("cat", "unicorn"))
    assert (result.APnovel, result.APbase, result.AP) == pytest.approx((0.3, 1.0, 0.65))
    assert (result.AP50novel, result.AP50base, result.AP50) == pytest.approx((1.0, 1.0, 1.0))
    assert result.APmin is None and "APnovel  30.0" in result.as_text() and "AP50base 100.0" in result.as_text()
    plain = coco_metrics(index, [found(0, *rows)], engine=engine, novel=("unicorn",))
    assert plain.APnovel is None and "novel" not in plain.as_text()


def pair(boxes, classes, truth_boxes, truth_classes):
    return LabelPair(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(classes, dtype=np.int64),
        np.array(truth_boxes, dtype=np.float32).reshape(-1, 4),
        np.array(truth_classes, dtype=np.int64),
    )


def test_pseudo_boxes_are_judged_by_their_best_true_box():
    # A: exact, right class. B: 10x10 in 10x20, IoU 0.5, wrong class. C: touches nothing.
    boxes = [[0, 0, 10, 10], [50, 50, 60, 60], [90, 90, 95, 95]]
    quality = pseudo_label_quality([pair(boxes, [0, 0, 1], [[0, 0, 10, 10], [50, 50, 60, 70]], [0, 1])], 2)
    assert quality.iou_histogram.tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert quality.class_errors.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert quality.mean_iou == pytest.approx((1 + 0.5 + 0) / 3)
    assert (quality.precision, quality.recall) == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    assert quality.class_error_rate == pytest.approx(1 / 3)
    assert (quality.precision_of(0), quality.recall_of(0)) == (0.5, 1.0)
    assert (quality.precision_of(1), quality.recall_of(1)) == (0.0, 0.0)


def test_the_other_match_direction_judges_true_boxes():
    # Two pseudo-boxes on one true box; the other true box is missed.
    example = pair([[0, 0, 10, 10], [0, 0, 10, 8]], [0, 1], [[0, 0, 10, 10], [50, 50, 60, 60]], [0, 1])
    by_box = pseudo_label_quality([example], 2)
    by_truth = pseudo_label_quality([example], 2, match_direction="truth")
    assert by_box.iou_histogram.tolist() == [0] * 8 + [1, 1]  # IoU 0.8 and 1.0
    assert by_box.class_errors.tolist() == [0] * 8 + [1, 0]
    assert by_truth.iou_histogram.tolist() == [1] + [0] * 8 + [1]
    assert by_truth.class_errors.sum() == 0


def test_pseudo_boxes_of_classes_that_nobody_looked_for_are_not_judged():
    # Of class 0 all is known, of 1 nothing, of 2 one object; a class that is verified has no object without a box.
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]
    example = replace(pair(boxes, [0, 1, 2, 2], [[40, 0, 50, 10]], [2]), verified=np.array([0]))
    quality = pseudo_label_quality([example], 3)
    # Wrong: that of class 0. Right: the first of class 2. The other two may be either.
    assert (quality.boxes.tolist(), quality.hits.tolist(), quality.truths.tolist()) == ([1, 0, 1], [0, 0, 1], [0, 0, 1])
    assert quality.precision == 0.5 and quality.iou_histogram.tolist() == [1] + [0] * 8 + [1]
    assert pseudo_label_quality([replace(example, verified=None)], 3).boxes.tolist() == [1, 1, 2]


def test_duplicates_of_one_true_box_hit_once():
    quality = pseudo_label_quality([pair([[0, 0, 10, 10]] * 3, [0, 0, 0], [[0, 0, 10, 10]], [0])], 1)
    assert quality.hits.tolist() == [1] and quality.precision == pytest.approx(1 / 3) and quality.recall == 1.0


def test_nothing_against_nothing_is_undefined_not_zero():
    quality = pseudo_label_quality([pair([], [], [], [])], 2)
    assert quality.images == 1
    assert [quality.precision, quality.recall, quality.mean_iou, quality.class_error_rate] == [None] * 4
    missed = pseudo_label_quality([pair([], [], [[0, 0, 1, 1]], [0])], 2, match_direction="truth")
    assert missed.precision is None and missed.recall == 0.0 and missed.iou_histogram[0] == 1


@pytest.mark.parametrize("tenth", range(1, 10))
def test_an_iou_on_a_bin_edge_belongs_to_the_upper_bin(tenth):
    quality = pseudo_label_quality([pair([[0, 0, tenth, 10]], [0], [[0, 0, 10, 10]], [0])], 1)
    assert quality.iou_histogram[tenth] == 1
