"""Soft Teacher's engine against a straight line, and numbers worked out by hand for its formulas."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from raydet.families.detection.data import BOXES
from raydet.families.detection.gates import by_quality
from raydet.families.detection.methods.soft_teacher import SoftTeacher, cls_terms, jittered, spread
from raydet.families.detection.soft_config import SoftTeacherConfig
from raydet.records import Target
from raydet.registry import build_method
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.launch import launch
from tests.helpers import tiny_soft
from tests.parity.soft_reference import Rules, reference


def test_fact_11_the_class_loss_is_a_weighted_mean():
    # .2 + .7 + .1 * .9 + .3 * .5 + 2.0 * .1 = 1.34; 1 + 1 + .9 + .5 + .1 = 3.5; 1.34 / 3.5 = .382857
    rows, weights = torch.tensor([0.2, 0.7, 0.1, 0.3, 2.0]), torch.tensor([1, 1, 0.9, 0.5, 0.1])
    roi = type("Roi", (), {"counts": [5, 0]})()
    batch = type("Batch", (), {"rows": lambda self, group: slice(0, 1) if group == "labeled" else slice(1, 2)})()
    term = cls_terms(batch, roi, rows * weights, weights)["sup/roi_cls"]  # type: ignore[arg-type]
    assert float(term.total / term.count) == pytest.approx(0.382857, abs=1e-6)
    plain = cls_terms(batch, roi, rows, torch.ones(5))["sup/roi_cls"]  # type: ignore[arg-type]
    assert float(plain.total / plain.count) == pytest.approx(0.66)


def test_fact_12_the_spread_of_three_versions_of_a_box_and_what_becomes_of_it():
    # Unbiased deviations (2, 0, 0, 1), mean (12, 20, 50, 61), sides 38 and 41:
    # (2 / 38 + 0 + 0 + 1 / 41) / 4 = (.052632 + .024390) / 4 = .019255, below .02; the biased ones would give .015722.
    versions = torch.tensor([[10.0, 20, 50, 60], [12, 20, 50, 61], [14, 20, 50, 62]])[:, None]
    found = spread(versions)
    assert found.tolist() == pytest.approx([0.019255], abs=1e-6)
    # A label's quality is 1 - spread: .980745 exceeds 1 - .02; that of a spread of .0201 does not.
    quality = 1 - torch.cat([found, torch.tensor([0.0201])])
    boxes = Target(torch.zeros(2, 4), torch.tensor([0, 1]), torch.ones(2), quality)
    kept = by_quality(boxes, 1 - SoftTeacherConfig().box_spread_threshold)
    assert kept.classes.tolist() == [0] and kept.quality.tolist() == pytest.approx([0.980745], abs=1e-6)


def test_boxes_are_jittered_relative_to_their_sides_which_count_as_one_pixel_at_least():
    boxes = torch.tensor([[10.0, 20.0, 60.0, 40.0], [5.0, 5.0, 5.5, 5.5]])
    noise = torch.ones(1, 2, 4)
    # sides 50 and 20, times .06: 3 and 1.2; a side of half a pixel counts as 1: .06
    assert jittered(boxes, noise, 0.06)[0].tolist() == [
        pytest.approx([13.0, 21.2, 63.0, 41.2]),
        pytest.approx([5.06, 5.06, 5.56, 5.56]),
    ]


def test_the_teacher_forgets_fast_at_first():
    method = build_method(tiny_soft(Path("unused")))
    teacher = method.teacher()
    assert teacher is not None and teacher.first_step == 0
    # The update before step t keeps min(.999, 1 - 1 / (t + 1)); the engine makes it at the end of step t - 1.
    assert [teacher.keep_at(t - 1) for t in (1, 2, 9, 999, 5000)] == pytest.approx([0.5, 2 / 3, 0.9, 0.999, 0.999])
    later = build_method(tiny_soft(Path("unused"), method={"burn_in_steps": 3})).teacher()
    assert later is not None and later.first_step == 3 and later.keep_at(3) == pytest.approx(0.5)


def test_the_engine_trains_exactly_as_soft_teacher_says(tmp_path: Path):
    # The reference sees images one by one, the engine all views in one frame: with one short side, padding is the same.
    config = tiny_soft(
        tmp_path / "run",
        model__roi_fg_iou=0.3,
        optim__lr=3e-3,
        method={"views": {"short_side": [64, 64]}},
    )
    folder = launch(config)
    data = BOXES.open(folder.data)
    expected, student, gates = reference(config, data, Rules(config, len(data.class_names)))
    assert gates["carried"] > gates["cls"] > gates["rpn"] > 0, gates
    assert 0 < gates["reg"] < gates["carried"], gates
    assert gates["foreground"] > 0, gates
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == config.optim.steps
    for line, terms in zip(steps, expected, strict=True):
        for key, value in terms.items():
            assert line[f"loss/{key}/raw"] == pytest.approx(value, rel=5e-4, abs=2e-6), (line["step"], key)
    checkpoint = latest_checkpoint(folder.checkpoints)
    assert checkpoint is not None
    for key, weight in checkpoint.tensors("student").items():
        torch.testing.assert_close(weight, student.state_dict()[key], rtol=2e-3, atol=5e-5)


def test_soft_teacher_is_a_method_of_its_own_with_its_papers_defaults():
    method = build_method(tiny_soft(Path("unused")))
    assert isinstance(method, SoftTeacher)
    fresh = type(method.config)()
    assert (fresh.cls_pseudo_threshold, fresh.rpn_pseudo_threshold, fresh.pseudo_score_floor) == (0.9, 0.9, 0.5)
    assert (fresh.box_spread_threshold, fresh.jitter_times, fresh.jitter_scale) == (0.02, 10, 0.06)
    assert (fresh.unsup_weight, fresh.ema_keep_rate, fresh.burn_in_steps) == (4.0, 0.999, 0)
