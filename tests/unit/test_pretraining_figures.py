"""What is watched while pre-training, and what is said when it goes wrong."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from raydet.families.pretraining.evaluate import PretrainingResult
from raydet.families.pretraining.method import PretrainingMethod
from raydet.families.pretraining.methods.adept import carried
from raydet.families.pretraining.similarity import cosines, moments, spread
from raydet.metrics import read_metrics
from raydet.registry import build_method
from raydet.train.launch import launch
from raydet.vision.geometry import View
from raydet.vision.recall import best_ious, recalls
from raydet.window import Window
from tests.helpers import tiny_views


def test_the_spread_of_projections_is_one_in_all_directions_and_zero_at_one_point():
    axes = torch.cat([torch.eye(4), -torch.eye(4)])  # every dimension: two of eight are +-1: std 1/2 = 1/sqrt(4)
    assert spread(moments(axes)) == pytest.approx(1.0)
    assert spread(moments(7 * axes)) == pytest.approx(1.0)  # lengths do not count
    assert spread(moments(torch.tensor([[3.0, 4.0]]).repeat(5, 1))) == pytest.approx(0.0, abs=1e-3)
    many = torch.randn(20_000, 256, generator=torch.Generator().manual_seed(0))
    assert spread(moments(many)) == pytest.approx(1.0, abs=0.01)
    # the moments of parts add up
    assert spread(moments(axes[:3]) + moments(axes[3:])) == pytest.approx(1.0)


def test_cosines_are_of_each_row_by_itself():
    a, b = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[5.0, 0.0], [1.0, 0.0]])
    assert cosines(a, b).tolist() == pytest.approx([1.0, 1 / math.sqrt(2)])


def method(**changes: object) -> PretrainingMethod:
    return build_method(tiny_views(Path("unused"), **changes))


def window(similarity: float, fallback: float) -> Window:
    found = Window(steps=1)
    found.increase({"sum/similarity": 10 * similarity, "count/similarity": 10})
    found.increase({"sum/fallback": 10 * fallback, "count/fallback": 10})
    return found


@pytest.mark.parametrize(
    ("spread", "similarity", "fallback", "changes", "name", "cause"),
    [
        (0.01, 0.999, 0.0, {}, "collapse", "the target follows too fast"),
        (0.01, 0.999, 0.0, {"model__fpn_norm": "group"}, "collapse", "model.fpn_norm=group sees one image at a time"),
        (0.01, 0.2, 0.0, {}, "collapse", "the optimiser's doing"),
        (0.01, 0.999, 0.9, {}, "collapse", "of 90% of the images no proposal"),
        (0.9, 0.9, 0.6, {}, "few_proposals", "of 60% of the images no proposal"),
    ],
)
def test_an_alarm_names_the_cause(
    spread: float, similarity: float, fallback: float, changes: dict[str, object], name: str, cause: str
):
    own = method(**changes)
    own.spread = spread
    alarm = own.explain_barren(window(similarity, fallback))
    assert alarm is not None
    assert alarm.name == name
    assert cause.lower() in alarm.message.lower()
    assert alarm.after_steps == 200


def test_there_is_no_alarm_where_projections_differ_or_nothing_is_known():
    own = method()
    assert own.explain_barren(window(0.9, 0.1)) is None
    own.spread = 0.9
    assert own.explain_barren(window(0.99, 0.4)) is None


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_collapse_raises_the_alarm_and_nothing_else_does(tmp_path: Path, norm: str):
    """Group norm keeps no box from becoming like all others, batch norm does: with the bound that is the default."""
    method = {"name": "soco", "alarm_after_steps": 3}
    run = launch(tiny_views(tmp_path / "run", model__fpn_norm=norm, method=method)).path
    lines = read_metrics(run / "metrics.jsonl")
    spreads = [line["similarity/projection_spread"] for line in lines if "similarity/projection_spread" in line]
    alarms = [line for line in lines if line["kind"] == "alarm"]
    if norm == "batch":
        assert min(spreads) > 0.2 and not alarms, (spreads, alarms)
        return
    assert max(spreads[-3:]) < 0.2, spreads
    assert {line["name"] for line in alarms} == {"collapse"}
    assert "optim.lr=0.05" in alarms[0]["message"]


def test_recall_counts_true_boxes_that_are_found_among_the_best():
    # the second proposal fits the true box, the first one overlaps it by a third
    proposed = torch.tensor([[0.0, 0, 10, 20], [0.0, 0, 10, 10], [50.0, 50, 60, 60]])
    truth = torch.tensor([[0.0, 0, 10, 10], [50.0, 50, 60, 70]])
    best = best_ious(proposed, truth)
    assert best.tolist() == [[1.0, 1.0, 1.0], [0.5, 0.5, 0.5]]
    many = torch.cat([torch.full((10, 4), 0.0) + torch.tensor([80.0, 80, 90, 90]), proposed])
    assert best_ious(many, truth)[:, 0].tolist() == [0.0, 0.0]  # not among the ten best
    said = recalls(best.numpy(), 0.5)
    # AR: the first box at all ten IoUs, the second at .5 alone
    assert said == {"recall_10": 1.0, "recall_100": 1.0, "recall_1000": 1.0, "ar_100": pytest.approx(11 / 20)}
    assert recalls(np.zeros((0, 3), np.float32), 0.5)["recall_100"] is None
    assert best_ious(proposed[:0], truth).tolist() == [[0.0] * 3] * 2


def test_a_result_without_boxes_has_no_score():
    found = PretrainingResult(4, 0, None, None, None, None, 0.5, None)
    assert found.score is None
    assert "–" in found.as_text()


def test_boxes_of_one_view_are_carried_into_another():
    first = View.identity(60, 90).resized(64, 64)
    second = View.identity(60, 90).cropped(10, 20, 40, 50).resized(64, 64).flipped(horizontal=True)
    original = torch.tensor([[30.0, 20, 60, 40]])
    rows = [(v.matrix[0], v.matrix[2], v.matrix[4], v.matrix[5]) for v in (first, second, second)]
    matrices = torch.tensor([rows], dtype=torch.float64)
    rois = torch.cat([torch.zeros(1, 1), first.to_view(original)], dim=1)
    moved = carried(rois, matrices, 0, 1, 64)
    assert torch.allclose(moved[:, 1:], second.to_view(original), atol=1e-4)
    there = torch.cat([torch.zeros(1, 1), torch.tensor([[0.0, 0, 64, 64]])], dim=1)  # the whole image: clipped
    assert carried(there, matrices, 0, 1, 64).tolist() == [[0, 0, 0, 64, 64]]
