"""LVIS's rules of average precision, worked by hand and by two engines; and what background says in its losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet.data.boxes.federated import Federated
from raydet.families.detection.box_pairs import SaidBoxes, TrueBoxes
from raydet.families.detection.coco import coco_metrics
from raydet.families.detection.lvis import MOST, lvis_numpy, lvis_precision
from raydet.families.detection.methods.soft_teacher import SoftTeacher
from raydet.families.detection.passes import ABSENT, looked_for
from raydet.records import Target
from raydet.registry import build_method
from raydet.vision.losses import focal_cross_entropy
from raydet.vision.roi import SampledRois
from tests.helpers import tiny_soft
from tests.parity.test_gradient_sampling_ranks import CLASSES, batch_of
from tests.unit.test_evaluate import together

ENGINES = ("pycocotools", "numpy", "hotcoco")


def truth(boxes: list[tuple[int, int, list[float]]], images: int, classes: int) -> dict[str, Any]:
    """Boxes are (image, class, xywh), counted from 1."""
    return {
        "images": [{"id": i + 1, "height": 100, "width": 100} for i in range(images)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": k, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, (i, k, box) in enumerate(boxes, start=1)
        ],
        "categories": [{"id": k + 1, "name": f"c{k}"} for k in range(classes)],
    }


def precision(
    boxes: list[tuple[int, int, list[float]]],
    images: int,
    classes: int,
    rows: np.ndarray,
    federated: Federated,
    engine: str,
) -> np.ndarray:
    if engine != "numpy":
        return lvis_precision(truth(boxes, images, classes), rows, federated, engine)
    of, kinds = (np.array([box[column] for box in boxes], dtype=np.int64) for column in (0, 1))
    places = np.array([box for *_, box in boxes])

    def corners(places: np.ndarray) -> np.ndarray:
        return np.hstack([places[:, :2], places[:, :2] + places[:, 2:]])

    crowd, sides = np.zeros(len(of), dtype=bool), places[:, 2:]
    true = TrueBoxes(of, corners(places), kinds - 1, crowd, sides, sides.prod(axis=1))
    images_of, classes_of = rows[:, 0].astype(np.int64), rows[:, 6].astype(np.int64) - 1
    said = SaidBoxes(images_of, corners(rows[:, 1:5]), classes_of, rows[:, 5], rows[:, 3:5])
    return lvis_numpy(true, said, np.arange(1, images + 1), federated, classes)


def lists(*each: list[int]) -> list[np.ndarray]:
    return [np.array(one, dtype=np.int64) for one in each]


def means(precision: np.ndarray) -> list[float]:
    """AP of each class, over all areas; -1 where it has no box."""
    return [float(precision[:, :, k, 0].mean()) for k in range(precision.shape[2])]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_case_worked_by_hand(engine: str):
    if engine == "hotcoco":
        pytest.importorskip("hotcoco")
    boxes = [(1, 1, [0.0, 0, 10, 10]), (2, 1, [0.0, 0, 10, 10]), (2, 2, [50.0, 50, 20, 20])]
    rows = np.array(
        [
            [1, 0, 0, 10, 10, 0.9, 1],  # right
            [2, 60, 60, 10, 10, 0.8, 1],  # finds nothing, where not all of class 1 have boxes: neither
            [2, 0, 0, 10, 10, 0.7, 1],  # right: AP of class 1 is 1
            [1, 50, 50, 9, 9, 0.95, 2],  # class 2 was looked for in image 1 and is not there: wrong
            [2, 50, 50, 20, 20, 0.5, 2],  # right, behind a wrong one: AP of class 2 is .5
            [1, 3, 3, 5, 5, 0.99, 3],  # nobody looked for class 3: does not count, and has no AP
        ],
        dtype=np.float64,
    )
    federated = Federated(lists([1], []), lists([], [0]), ("r", "f", "c"))
    assert means(precision(boxes, 2, 3, rows, federated, engine)) == pytest.approx([1.0, 0.5, -1.0])


@pytest.mark.parametrize("engine", ENGINES)
def test_only_the_best_300_detections_of_an_image_count(engine: str):
    if engine == "hotcoco":
        pytest.importorskip("hotcoco")
    boxes = [(1, 1, [0.0, 0, 10, 10])]
    wrong = [[1, 50, 50, 9, 9, 0.9 - n / 1000, 2] for n in range(MOST)]
    found = [[1, 0, 0, 10, 10, 0.1, 1]]  # right, and the 301st of its image
    federated = Federated(lists([1]), lists([]), ("r", "f"))
    for rows, expected in ((wrong[1:] + found, 1.0), (wrong + found, 0.0)):
        precision_of = precision(boxes, 1, 2, np.array(rows, dtype=np.float64), federated, engine)
        assert means(precision_of)[0] == pytest.approx(expected)


@pytest.mark.parametrize("engine", ENGINES[1:])
@pytest.mark.parametrize("seed", range(5))
def test_engines_agree_with_the_reference(seed: int, engine: str):
    if engine == "hotcoco":
        pytest.importorskip("hotcoco")
    rng = np.random.default_rng(seed)
    images, classes = 12, 6
    boxes, rows, negative, partial = [], [], [], []
    for i in range(1, images + 1):
        there = rng.choice(classes, 3, replace=False)
        negative.append(np.setdiff1d(rng.choice(classes, 2, replace=False), there).astype(np.int64))
        partial.append(there[rng.random(3) < 0.4].astype(np.int64))
        for k in there:
            for _ in range(rng.integers(1, 4)):
                corner, side = rng.uniform(0, 60, 2), rng.uniform(6, 39, 2)
                boxes.append((i, int(k) + 1, [*corner.tolist(), *side.tolist()]))
        for _, k, box in [each for each in boxes if each[0] == i]:
            rows.append([i, *(np.array(box) + rng.normal(0, 2, 4)), rng.random(), k])
        for _ in range(15):
            rows.append([i, *rng.uniform(0, 60, 2), *rng.uniform(5, 30, 2), rng.random(), rng.integers(1, classes + 1)])
    federated = Federated(negative, partial, ("r", "c", "f", "r", "c", "f"))
    found = [precision(boxes, images, classes, np.array(rows), federated, each) for each in ("pycocotools", engine)]
    assert found[0].shape == found[1].shape
    np.testing.assert_allclose(found[0], found[1], atol=1e-9)
    assert 0.05 < means(found[0])[0] < 0.95


def test_groups_of_classes_have_means_of_their_own():
    class Index:
        class_names = ("a", "b", "c")
        federated = Federated(lists([], []), lists([], []), ("r", "f", "f"))

        def __len__(self) -> int:
            return 2

        def id_at(self, row: int) -> str:
            return f"i{row}"

        def size_at(self, row: int) -> tuple[int, int]:
            return 100, 100

        def truth_at(self, row: int) -> Any:
            from raydet.data.boxes.index import Truth

            boxes = np.array([[0.0, 0, 10, 10], [50, 50, 70, 70], [20, 20, 40, 40]])
            return Truth(boxes, np.array([0, 1, 2]), np.zeros(3, bool), np.array([100.0, 400, 400]))

        def truth_of(self, rows: list[int]) -> Any:
            return together([self.truth_at(row) for row in rows])

    from raydet.families.detection.judged_boxes import Detections

    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 70, 70]])
    said = [Detections(f"i{row}", boxes, torch.tensor([0, 1]), torch.tensor([0.9, 0.8])) for row in range(2)]
    found = coco_metrics(Index(), said, engine="pycocotools", minority=("c",))  # type: ignore[arg-type]
    assert (found.APr, found.APc, found.APf) == pytest.approx((1.0, None, 0.5))
    assert (found.APmaj, found.APmin) == pytest.approx((1.0, 0.0))
    assert pytest.approx(2 / 3) == found.AP
    assert "APmin" in found.as_text() and "APc" not in found.as_text()


# --- losses ----------------------------------------------------------------------------------------------------------


def test_background_says_nothing_of_classes_that_nobody_looked_for():
    # Two images of two RoIs, foreground first. In the first, classes 0 and 2 of four were looked for.
    rois = [SampledRois(torch.zeros(2, 4), torch.tensor([2, 0]), torch.zeros(1, 4)) for _ in range(2)]
    logits = torch.arange(20.0).reshape(4, 5)
    found = looked_for(logits, rois, [torch.tensor([0, 2]), None])
    assert torch.equal(found[[0, 2, 3]], logits[[0, 2, 3]])  # foreground, and the image in which all were looked for
    assert found[1].tolist() == [5.0, 6.0, ABSENT, 8.0, ABSENT]
    assert looked_for(logits, rois, [None, None]) is logits
    trained = logits.clone().requires_grad_()
    focal_cross_entropy(
        looked_for(trained, rois, [torch.tensor([0, 2]), None]), torch.tensor([2, 0, 2, 0]), 1.5
    ).sum().backward()
    assert trained.grad is not None and bool(torch.isfinite(trained.grad).all())
    assert trained.grad[1].tolist()[2::2] == [0, 0] and bool((trained.grad[1, [0, 1, 3]] != 0).all())


def test_a_step_does_not_push_down_what_may_be_there():
    method = build_method(tiny_soft(Path("unused")))
    assert isinstance(method, SoftTeacher)
    torch.manual_seed(1)
    student = method.build_model(CLASSES).train()
    batch = batch_of(0, 0, 1)
    # No box at all in the labelled images, of which only class 1 was looked for.
    empty = Target(
        *(column[:0] for column in (batch.targets[0].boxes, batch.targets[0].classes)), torch.zeros(0), torch.zeros(0)
    )
    blank = Target(empty.boxes, empty.classes, empty.scores, empty.quality, verified=torch.tensor([1]))
    targets = tuple(blank if i < 4 else each for i, each in enumerate(batch.targets))
    seen = type(batch)(batch.step, batch.views, targets, 4, batch.seen, batch.labels)
    term = method.losses(student, seen, student, None).losses["sup/roi_cls"].total
    weight = student.roi_heads.box_predictor.cls_score.bias
    (slope,) = torch.autograd.grad(term, weight)
    assert slope[[1, 3, 4, 5, 6]].tolist() == [0] * 5 and float(slope[2]) > 0 > float(slope[0])
