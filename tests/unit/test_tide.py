"""Errors by kind, on cases worked out by hand and beside hotcoco's."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from raydet.families.detection.box_pairs import SaidBoxes, TrueBoxes, judgeable
from raydet.families.detection.tide import KINDS, NAMES, TideErrors, tide_errors
from raydet.families.detection.tide_kinds import CLS, Judged, judge

A, B = (0, 0, 100, 100), (100, 100, 200, 200)
TRUTH = tuple[int, tuple[int, ...], int, bool]  # image, box, class, crowd
SAID = tuple[int, tuple[int, ...], int, float]  # image, box, class, score


def judged(truth: list[TRUTH], said: list[SAID], classes: int = 2) -> TideErrors:
    def columns(rows: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, box, label = ([row[n] for row in rows] for n in range(3))
        return np.array(image, np.int64), np.array(box, np.float64).reshape(-1, 4), np.array(label, np.int64)

    crowd, scores = np.array([row[3] for row in truth], bool), np.array([row[3] for row in said], np.float64)
    return errors(true_boxes(*columns(truth), crowd), said_boxes(*columns(said), scores), classes)


def true_boxes(images: np.ndarray, boxes: np.ndarray, classes: np.ndarray, crowd: np.ndarray) -> TrueBoxes:
    sides = boxes[:, 2:] - boxes[:, :2]
    return TrueBoxes(images, boxes, classes, crowd, sides, sides.prod(axis=1))


def said_boxes(images: np.ndarray, boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray) -> SaidBoxes:
    return SaidBoxes(images, boxes, classes, scores, boxes[:, 2:] - boxes[:, :2])


def errors(truth: TrueBoxes, said: SaidBoxes, classes: int) -> TideErrors:
    return tide_errors(truth, said, judgeable(truth, said), classes)


def judgement(truth: TrueBoxes, said: SaidBoxes) -> Judged:
    return judge(truth, said, judgeable(truth, said))


def said_of(found: TideErrors) -> tuple[dict[str, float], dict[str, int]]:
    """What is not zero."""
    gains = {name: gain for name, gain in found.gains.items() if gain is None or abs(gain) > 1e-12}
    return gains, {name: number for name, number in found.counts.items() if number}


# IoU of A with (0, 0, 100, h) is h / 100. One class unless said: AP50 of "right, wrong" is 1, of "wrong, right" 1/2.
CASES = {
    "perfect": ([(0, A, 0, False)], [(0, A, 0, 0.9)], {}, {}),
    # Class 0: nothing right, AP 0. Class 1: wrong at .9, right at .8: AP 1/2. Mean 1/4. Mended, A is a cat: both 1.
    # Without the wrong one class 1 has 1: mean 1/2. Without the box that was not found class 0 is no more: mean 1/2.
    "class": (
        [(0, A, 0, False), (0, B, 1, False)],
        [(0, A, 1, 0.9), (0, B, 1, 0.8)],
        {"Cls": 0.75, "FalsePos": 0.25, "FalseNeg": 0.25},
        {"Cls": 1},
    ),
    "place": ([(0, A, 0, False)], [(0, (0, 0, 100, 30), 0, 0.9)], {"Loc": 1.0}, {"Loc": 1}),
    # The object is found below: mending takes the bad box away, and from 1/2 AP is 1.
    "place of what is found": (
        [(0, A, 0, False)],
        [(0, (0, 0, 100, 30), 0, 0.9), (0, A, 0, 0.8)],
        {"Loc": 0.5, "FalsePos": 0.5},
        {"Loc": 1},
    ),
    # Two bad boxes on one object: the better score is mended, the other one goes. AP 0 becomes 1.
    "places of one object": (
        [(0, A, 0, False)],
        [(0, (0, 0, 100, 30), 0, 0.9), (0, (0, 0, 100, 40), 0, 0.8)],
        {"Loc": 1.0},
        {"Loc": 2},
    ),
    # As "class", but badly placed too: it is taken away, 1/4 becomes 1/2, and A is missed by all.
    "both": (
        [(0, A, 0, False), (0, B, 1, False)],
        [(0, (0, 0, 100, 30), 1, 0.9), (0, B, 1, 0.8)],
        {"Both": 0.25, "Miss": 0.25, "FalsePos": 0.25, "FalseNeg": 0.25},
        {"Both": 1, "Miss": 1},
    ),
    # Right, double, right: precision 1 up to recall 1/2 (51 of 101 points), then 2/3: (51 + 50 * 2/3) / 101 = 0.8350.
    "double": (
        [(0, A, 0, False), (0, B, 0, False)],
        [(0, A, 0, 0.9), (0, (0, 0, 100, 90), 0, 0.8), (0, B, 0, 0.7)],
        {"Dupe": 50 / 303, "FalsePos": 50 / 303},
        {"Dupe": 1},
    ),
    # The first takes its best box (IoU 1, not .6), so that the second finds the one left: 40 / 60, beside A 40 / 100.
    "best of two": (
        [(0, (0, 0, 100, 60), 0, False), (0, A, 0, False)],
        [(0, A, 0, 0.9), (0, (0, 0, 100, 40), 0, 0.8)],
        {},
        {},
    ),
    "background": (
        [(0, A, 0, False)],
        [(0, (150, 150, 160, 160), 0, 0.9), (0, A, 0, 0.8)],
        {"Bkg": 0.5, "FalsePos": 0.5},
        {"Bkg": 1},
    ),
    # One of two found: 51 of 101 points.
    "missed": (
        [(0, A, 0, False), (0, B, 0, False)],
        [(0, A, 0, 0.9)],
        {"Miss": 50 / 101, "FalseNeg": 50 / 101},
        {"Miss": 1},
    ),
    # Class 1 is never said: AP 1 and 0. Without its box there is no such class: from 1/2 to 1.
    "missed class": (
        [(0, A, 0, False), (0, B, 1, False)],
        [(0, A, 0, 0.9)],
        {"Miss": 0.5, "FalseNeg": 0.5},
        {"Miss": 1},
    ),
    # A place in the image of another object is no place: images are apart.
    "other image": (
        [(0, A, 0, False), (1, B, 0, False)],
        [(1, A, 0, 0.9), (1, B, 0, 0.8), (0, B, 0, 0.7)],
        # AP: wrong, right, wrong of two boxes: precision 1/2 on 51 points. Bkg gone: 1 on 51. Missed off: 1/2 on all.
        {"Bkg": 51 / 202, "Miss": 0.5 - 51 / 202, "FalsePos": 51 / 202, "FalseNeg": 0.5 - 51 / 202},
        {"Bkg": 2, "Miss": 1},
    ),
    "in a crowd": ([(0, A, 0, False), (0, B, 0, True)], [(0, (120, 120, 150, 150), 0, 0.95), (0, A, 0, 0.9)], {}, {}),
    # A crowd of another class is no excuse, and no object to be badly placed on.
    "in another class's crowd": (
        [(0, A, 0, False), (0, B, 1, True)],
        [(0, (100, 100, 200, 130), 0, 0.95), (0, A, 0, 0.9)],
        {"Bkg": 0.5, "FalsePos": 0.5},
        {"Bkg": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_errors_are_told_apart_and_cost_what_was_worked_out_by_hand(case: str):
    truth, said, gains, counts = CASES[case]
    found = judged(truth, said)
    assert tuple(found.gains) == NAMES and tuple(found.counts) == KINDS
    assert said_of(found) == (pytest.approx(gains), counts)


@pytest.mark.parametrize(
    ("side", "kind"), [(51, None), (50, None), (49, "Loc"), (10, "Loc"), (9, "Bkg")], ids=lambda value: str(value)
)
def test_the_bounds_of_a_place_belong_to_the_better_kind(side: int, kind: str | None):
    # IoU = side / 100 with the right class.
    found = judged([(0, A, 0, False)], [(0, (0, 0, 100, side), 0, 0.9)])
    assert [name for name, number in found.counts.items() if number and name != "Miss"] == ([kind] if kind else [])


@pytest.mark.parametrize(("side", "kind"), [(50, "Cls"), (49, "Both"), (11, "Both"), (10, "Bkg")])
def test_so_do_those_of_a_class(side: int, kind: str):
    found = judged([(0, A, 0, False)], [(0, (0, 0, 100, side), 1, 0.9)])
    assert [name for name, number in found.counts.items() if number and name != "Miss"] == [kind]


def test_without_detections_or_boxes_there_is_nothing_to_gain():
    assert said_of(judged([], [(0, A, 0, 0.9)])) == (dict.fromkeys(NAMES), {"Bkg": 1})
    gains, counts = said_of(judged([(0, A, 0, False)], []))
    # Without its only box no class is left that could have an AP.
    assert (gains, counts) == ({"Miss": None, "FalseNeg": None}, {"Miss": 1})
    assert said_of(judged([], [])) == (dict.fromkeys(NAMES), {})


def test_only_a_hundred_detections_of_a_class_in_an_image_count():
    far = [(0, (150, 150, 160, 160), 0, 0.9 - n / 1000) for n in range(100)]
    found = judged([(0, A, 0, False)], [*far, (0, A, 0, 0.1)])
    assert found.counts["Bkg"] == 100 and found.counts["Miss"] == 1
    assert judged([(0, A, 0, False)], [*far[1:], (0, A, 0, 0.1)]).counts["Miss"] == 0


@pytest.mark.parametrize("seed", range(40))
def test_errors_are_those_of_hotcoco_where_every_class_is_said_and_there_is_no_crowd(seed: int):
    # A class without detections stays in hotcoco's mean when its boxes are taken off; it judges places by crowds too.
    hotcoco = pytest.importorskip("hotcoco")
    rng = np.random.default_rng(seed)
    truth: list[TRUTH] = []
    said: list[SAID] = [(0, (190, 190, 191, 191), label, 0.001 * (label + 1)) for label in range(3)]
    for image in range(int(rng.integers(1, 6))):
        for _ in range(int(rng.integers(1, 6))):
            x, y, w, h = (int(n) for n in rng.integers([0, 0, 10, 10], [60, 60, 60, 60]))
            truth.append((image, (x, y, x + w, y + h), int(rng.integers(3)), False))
        for _ in range(int(rng.integers(0, 25))):
            _, box, label, _ = truth[int(rng.integers(len(truth)))]
            x, y, right, bottom = (int(n) for n in np.array(box) + rng.integers(-14, 15, 4))
            near = (x, y, max(right, x + 2), max(bottom, y + 2))
            said.append((image, near, label if rng.random() < 0.6 else int(rng.integers(3)), float(rng.random())))
    images = [{"id": n + 1, "height": 200, "width": 200} for n in range(6)]
    annotations = [
        {"id": n + 1, "image_id": i + 1, "category_id": c + 1, "iscrowd": 0, "area": float((r - x) * (b - y)),
         "bbox": [x, y, r - x, b - y]}
        for n, (i, (x, y, r, b), c, _) in enumerate(truth)
    ]  # fmt: skip
    categories = [{"id": n + 1, "name": str(n)} for n in range(3)]
    rows = np.array([[i + 1, x, y, r - x, b - y, score, c + 1] for i, (x, y, r, b), c, score in said], np.float64)
    side = hotcoco.COCO({"images": images, "annotations": annotations, "categories": categories})
    run = hotcoco.COCOeval(side, side.load_res(rows), "bbox")
    run.evaluate()
    theirs = run.tide_errors(pos_thr=0.5, bg_thr=0.1)
    ours = judged(truth, said, 3)
    assert ours.counts == {name: theirs["counts"][name] for name in KINDS}
    their_name = {"FalsePos": "FP", "FalseNeg": "FN"}
    assert ours.gains == pytest.approx({name: theirs["delta_ap"][their_name.get(name, name)] for name in NAMES})


@pytest.mark.parametrize("pairs", [1, 20, 200])
def test_how_many_images_are_judged_at_once_changes_nothing(pairs: int, monkeypatch: pytest.MonkeyPatch):
    # Crowds, equal scores and overlaps, images without boxes and without detections among them.
    rng = np.random.default_rng(pairs)

    def boxes(number: int) -> np.ndarray:
        low = rng.integers(0, 4, (number, 2)) * 20.0
        return np.concatenate([low, low + rng.integers(1, 4, (number, 2)) * 20.0], axis=1)

    crowd, scores = rng.random(60) < 0.2, np.round(rng.random(300), 1)
    truth = true_boxes(rng.integers(0, 20, 60), boxes(60), rng.integers(0, 3, 60), crowd)
    said = said_boxes(rng.integers(5, 25, 300), boxes(300), rng.integers(0, 3, 300), scores)
    at_once = errors(truth, said, 3)
    monkeypatch.setattr("raydet.families.detection.box_pairs.MOST_PAIRS", pairs)
    assert errors(truth, said, 3) == at_once
    apart = [judgement(*(of_image(each, image) for each in (truth, said))) for image in range(25)]
    assert sum(int((each.kinds == CLS).sum()) for each in apart) == at_once.counts["Cls"] > 0
    assert sum(int(each.found.sum()) for each in apart) == int(judgement(truth, said).found.sum()) > 0


def of_image(boxes, image: int):
    rows = boxes.images == image
    return type(boxes)(*(getattr(boxes, field.name)[rows] for field in fields(boxes)))
