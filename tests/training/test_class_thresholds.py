"""Score thresholds of single classes: what a grid says of them is what `select` gives, and which are recommended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.families.detection.method import Thresholds, detection_method
from raydet.families.detection.pseudo_quality import LabelPair, pseudo_label_quality
from raydet.families.detection.thresholds.axes import Axes, read_axes, selections
from raydet.families.detection.thresholds.choice import recommend
from raydet.families.detection.thresholds.count import ThresholdGrid, threshold_grid
from raydet.families.detection.thresholds.inputs import Evidence
from raydet.families.detection.thresholds.result import ThresholdResult, as_text
from raydet.families.detection.thresholds.write import write_thresholds
from raydet.settings import resolve
from raydet.train.rundir import RunFolder
from tests.helpers import tiny_config
from tests.training.test_thresholds import CLASSES, candidates, true_label, truths


@pytest.mark.parametrize("name", ["il_net", "unbiased_teacher"])
@settings(max_examples=30)
@given(
    images=st.lists(st.tuples(st.lists(candidates, max_size=12), truths), min_size=1, max_size=3),
    own=st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7]), min_size=CLASSES, max_size=CLASSES),
)
def test_a_row_for_each_class_is_what_select_gives_with_thresholds_of_classes(name: str, images: list, own: list):
    names = ["a", "b", "c"]
    method = {"name": name, "burn_in_steps": 1, "score_threshold": 0.5}
    base = tiny_config(Path("never"), **{"model.test_detections": 5}).model_dump(mode="json")
    config = resolve(base | {"method": method | {"class_thresholds": dict(zip(names, own, strict=True))}}, {})
    labels = [true_label(*image) for image in images]
    chosen = detection_method(config, "a test")
    chosen.know_classes(names)
    assert chosen.thresholds is not None
    axes = read_axes(config, chosen.thresholds, ["score=0.2", *(["quality=0.4"] if name == "il_net" else [])])
    assert set(axes.scores) == {0.2, 0.5, *own}
    grid = threshold_grid(labels, axes.scores, selections(config, axes), CLASSES)
    rows = [axes.scores.index(each) for each in own]
    column = axes.qualities.index(axes.quality) if axes.quality is not None else 0
    kept = [chosen.select(image.label).kept for image in labels]
    pairs = [
        LabelPair(each.boxes.numpy(), each.classes.numpy(), image.boxes, image.classes)
        for each, image in zip(kept, labels, strict=True)
    ]
    counts, found = pseudo_label_quality(pairs, CLASSES), grid.at(rows, column)
    assert (found.boxes, found.hits) == (counts.boxes.sum(), counts.hits.sum())
    assert (found.precision, found.recall) == (counts.precision, counts.recall)
    assert found.score == min(own)
    assert found.highest_score == (max(own) if max(own) > min(own) else None)


def test_each_class_gets_the_row_that_suits_it_at_the_recommended_quality(tmp_path: Path):
    # Scores .3 .5 .7 .9; of class a 100 true boxes, of b 50, of c 5: too few to say.
    # a: 100 boxes at .7, 95 right: close, most precise.  b: 50 boxes at .3, 45 right; 25 at .5 and above are too few.
    boxes = np.array([[[300, 50, 9]], [[200, 25, 9]], [[100, 10, 9]], [[20, 0, 9]]])
    hits = np.array([[[98, 45, 1]], [[97, 24, 1]], [[95, 10, 1]], [[20, 0, 1]]])
    truths, scores = np.array([100, 50, 5]), (0.3, 0.5, 0.7, 0.9)
    grid = ThresholdGrid(scores, (0.4,), 100, boxes, hits, hits * 0.8, truths, np.zeros(4, np.int64))
    config = tiny_config(tmp_path, method__score_threshold=0.5, method__iou_filter_threshold=0.4)
    keys = Thresholds("method.score_threshold", "method.iou_filter_threshold", by_class="method.class_thresholds")
    axes = Axes(keys, scores, (0.4,), 0.5, 0.4)
    evidence = Evidence(("a", "b", "c"), [], "counts", ())
    result = ThresholdResult(RunFolder(tmp_path), config, axes, evidence, grid, (1, 0), [], recommend(grid, (1, 0)))
    # All: 359, 234, 119, 29 boxes against 155: only 119 lie within 1.25 (124 to 194)? 155 / 119 = 1.30: the nearest.
    assert result.choice is not None and result.choice.point == (2, 0)
    assert result.own_rows == {0: 2, 1: 0}
    assert result.recommended() == {"method.score_threshold": 0.7, "method.iou_filter_threshold": 0.4}
    assert result.recommended(per_class=True) == result.recommended() | {"method.class_thresholds": {"b": 0.3}}
    assert result.by_class is not None
    # a at .7, b at .3, c at .7 with all others: 100 + 50 + 9 boxes, 95 + 45 + 1 of them right, 141 of 155 found
    assert (result.by_class.boxes, result.by_class.hits) == (159, 141)
    assert (result.by_class.score, result.by_class.highest_score) == (0.3, 0.7)
    text = as_text(result)
    assert "or by class  0.3 to 0.7" in text
    assert "method.score_threshold=0.7 method.iou_filter_threshold=0.4 'method.class_thresholds={\"b\": 0.3}'" in text
    write_thresholds(result)
    assert "0.3 to 0.7" in (tmp_path / "thresholds.html").read_text()
    assert result.undecided == ["c"]
    assert "No threshold of its own for c: fewer than 20 true boxes here" in text
    # Of the 40 boxes of b that .3 adds to the 10 at .7, 19 are right: it stays where all others are.
    worse = replace(grid, hits=np.array([[[98, 29, 1]], [[97, 15, 1]], [[95, 10, 1]], [[20, 0, 1]]]))
    assert replace(result, grid=worse).own_rows == {0: 2}
    # A run that has such thresholds is judged with them, and a recommendation for all takes them away.
    own = replace(result, axes=replace(axes, of_classes={"b": 0.3}))
    assert own.now == grid.at([1, 0, 1], 0)
    assert own.recommended()["method.class_thresholds"] == {}
