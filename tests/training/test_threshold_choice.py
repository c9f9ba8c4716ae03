"""Which thresholds are recommended, of counts made by hand, and what is said where there are none to recommend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raydet.errors import UserError
from raydet.families.detection.method import Thresholds
from raydet.families.detection.thresholds.apply import Target, apply
from raydet.families.detection.thresholds.axes import Axes
from raydet.families.detection.thresholds.choice import pareto_front, recommend
from raydet.families.detection.thresholds.count import ThresholdGrid
from raydet.families.detection.thresholds.inputs import Evidence
from raydet.families.detection.thresholds.result import ThresholdResult, as_json, as_text
from raydet.families.detection.thresholds.write import write_thresholds
from raydet.train.rundir import RunFolder
from tests.helpers import tiny_config


def hand_made(boxes: list, hits: list, *, truths: int = 200, qualities: tuple = (None,)) -> ThresholdGrid:
    """Return a grid of 100 images and one class from counts `[S][T]`."""
    counted = [np.array(rows, dtype=np.int64)[..., None] for rows in (boxes, hits)]
    scores = (0.3, 0.5, 0.7, 0.9)[: len(boxes)]
    ious = counted[1] * 0.75
    return ThresholdGrid(scores, qualities, 100, *counted, ious, np.array([truths]), np.zeros(len(boxes), np.int64))


def test_the_most_precise_of_the_settings_near_the_true_density_is_recommended():
    # Boxes per true box 2.0, 1.2, 0.9, 0.3: the middle two are close. Precision .475, .75, .889 +- .023, .967.
    choice = recommend(hand_made([[400], [240], [180], [60]], [[190], [180], [160], [58]]), (3, 0))
    assert choice is not None
    assert choice.point == (2, 0)
    assert choice.reason.startswith("1.80 pseudo-boxes per image against 2.00 true ones (within a factor of 1.25)")
    assert (choice.reading.recall, choice.reading.f1, choice.reading.mean_iou) == (0.8, 2 * 160 / 380, 0.75)
    assert choice.cautions == ()


def test_where_precision_is_the_same_up_to_noise_recall_decides():
    # Precision 190/214 = .888 and 160/180 = .889 +- .023; recall .95 and .80.
    choice = recommend(hand_made([[400], [214], [180], [60]], [[190], [190], [160], [58]]), (2, 0))
    assert choice is not None
    assert choice.point == (1, 0)


def test_where_nothing_decides_the_present_setting_stays():
    plateau = hand_made([[200, 200, 201]], [[180, 180, 180]], qualities=(0.2, 0.4, 0.6))
    for column in range(3):
        choice = recommend(plateau, (0, column))
        assert choice is not None
        assert choice.point == (0, column)


def test_where_no_setting_is_near_the_true_density_the_nearest_is_taken_and_said():
    # 2.0 and 0.55 boxes per true box: |ln| .69 and .60.
    choice = recommend(hand_made([[400], [110]], [[190], [40]]), (0, 0))
    assert choice is not None
    assert choice.point == (1, 0)
    assert "no setting that finds a true box comes closer" in choice.reason
    assert len(choice.cautions) == 3  # precision below one half, far from the density, at the edge of the grid
    assert recommend(hand_made([[400]], [[0]], truths=0), (0, 0)) is None
    assert recommend(hand_made([[0]], [[0]]), (0, 0)) is None


def test_a_setting_that_finds_nothing_is_not_recommended(tmp_path: Path):
    # The first keeps as many boxes as there are, none of them right; the second is far from that, and finds some.
    choice = recommend(hand_made([[200], [60]], [[0], [30]]), (0, 0))
    assert choice is not None and choice.point == (1, 0)
    assert "No setting that finds a true box keeps as many boxes as there are objects" in " ".join(choice.cautions)
    none = hand_made([[200], [60]], [[0], [0]])
    assert recommend(none, (0, 0)) is None
    assert recommend(replace(hand_made([[200], [60]], [[90], [0]]), incomplete=np.array([1, 0])), (0, 0)) is None
    config = tiny_config(tmp_path, method__iou_filter_enabled=False, method__score_threshold=0.3)
    axes = Axes(Thresholds("method.score_threshold"), none.scores, (), 0.3, None)
    evidence = Evidence(("cat",), [], "counts", ())
    result = ThresholdResult(RunFolder(tmp_path), config, axes, evidence, none, (0, 0), pareto_front(none), None)
    said = "No recommendation: at no setting with complete labels does a pseudo-box find a true one"
    assert said in as_text(result) and as_json(result)["recommended"] is None
    write_thresholds(result)
    assert said in (tmp_path / "thresholds.html").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text("as it was")
    with pytest.raises(UserError, match="there is no recommendation to write, so it was left as it is"):
        apply(result, Target(file, file))
    assert file.read_text() == "as it was"


def test_a_class_that_no_setting_finds_has_no_threshold_of_its_own(tmp_path: Path):
    # All keep 210 and 65 boxes, of 150: the first row. Of b alone the second has as many as there are, none right.
    counts = np.array([[[110, 100]], [[20, 45]]]), np.array([[[90, 0]], [[15, 0]]])
    grid = ThresholdGrid((0.3, 0.5), (None,), 100, *counts, counts[1] * 0.8, np.array([100, 50]), np.zeros(2, np.int64))
    keys = Thresholds("method.score_threshold", by_class="method.class_thresholds")
    axes = Axes(keys, grid.scores, (), 0.3, None)
    config, evidence = tiny_config(tmp_path, method__iou_filter_enabled=False), Evidence(("a", "b"), [], "counts", ())
    result = ThresholdResult(RunFolder(tmp_path), config, axes, evidence, grid, (0, 0), [], recommend(grid, (0, 0)))
    assert (result.own_rows, result.undecided) == ({0: 0}, ["b"])
    assert "No threshold of its own for b: fewer than 20 true boxes here, none of them found, or " in as_text(result)


@pytest.mark.parametrize(("hits", "said"), [(110, True), (139, True), (140, False), (180, False)])
def test_labels_that_are_right_too_seldom_to_pay_are_said_to_be(hits: int, said: bool):
    # of 200 boxes; .7 is the least that paid
    choice = recommend(hand_made([[200]], [[hits]]), (0, 0))
    assert any("from 70% on they paid in most runs" in caution for caution in choice.cautions) == said


def test_settings_at_which_labels_are_cut_off_are_neither_recommended_nor_on_the_front():
    grid = replace(hand_made([[210], [180]], [[200], [160]]), incomplete=np.array([1, 0]))
    choice = recommend(grid, (0, 0))
    assert choice is not None
    assert choice.point == (1, 0)
    assert pareto_front(grid) == [(1, 0)]
    assert not grid.at(0, 0).is_complete


def test_the_front_holds_what_nothing_else_beats():
    # Recall .9, .8, .8, .4 at precision .5, .8, .64, .8: the third loses to the second, and so does the fourth.
    grid = hand_made([[360], [200], [250], [100]], [[180], [160], [160], [80]])
    assert pareto_front(grid) == [(0, 0), (1, 0)]
    assert pareto_front(hand_made([[9]], [[0]])) == []
