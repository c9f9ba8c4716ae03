"""Gradient-based sampling on Unbiased Teacher: what the host decides, and what is left to the method."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raydet.contract import DataSizes
from raydet.families.detection.batch import StudentBatch
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.hosts import UnbiasedHost
from raydet.families.detection.methods.gradient_sampling import GradientSampling
from raydet.families.detection.methods.unbiased_teacher import UnbiasedTeacher
from raydet.registry import build_method
from raydet.train.launch import launch
from raydet.train.saved import load_saved
from raydet.vision.losses import focal_cross_entropy
from tests.helpers import tiny_config, tiny_soft
from tests.integration.runs import losses, saved
from tests.parity.test_gradient_sampling_ranks import CLASSES, batch_of

# Low enough that a model of a few steps has pseudo-boxes on both sides.
BELOW = {"burn_in_steps": 3, "ema_keep_rate": 0.5, "teacher_proposals": "test"}
PLAIN = {"name": "unbiased_teacher", "score_threshold": 0.16, "unsup_cls_weight": 2.5, **BELOW}
OFF: dict[str, object] = {
    "name": "gradient_sampling",
    "host": "unbiased_teacher",
    "pseudo_score_floor": 0.15,
    "cls_pseudo_threshold": 0.16,
    "unsup_weight": 2.5,
    "gbr_enabled": False,
    "gbt_enabled": False,
    "labeled_sampling": "random",
    "unlabeled_sampling": "random",
    **BELOW,
}


def hosted(**method: object) -> GradientSampling:
    found = build_method(tiny_config(Path("unused"), method={**OFF, **method}))
    assert isinstance(found, GradientSampling)
    return found


def plain() -> UnbiasedTeacher:
    found = build_method(tiny_config(Path("unused"), method=PLAIN))
    assert isinstance(found, UnbiasedTeacher)
    return found


def gated(batch: StudentBatch, theta: list[float]) -> StudentBatch:
    """Drop by hand the pseudo-boxes that are not above the threshold of their class."""
    targets = list(batch.targets)
    for i in range(batch.num_labeled, len(targets)):
        each = targets[i]
        pairs = zip(each.classes.tolist(), each.scores.tolist(), strict=True)
        targets[i] = each.where(torch.tensor([score > theta[c] for c, score in pairs], dtype=torch.bool))
    return replace(batch, targets=tuple(targets))


def test_on_unbiased_teacher_with_every_part_off_it_is_unbiased_teacher_to_the_bit(tmp_path: Path):
    def run(name: str, method: dict[str, object]) -> DetectionConfig:
        return tiny_config(tmp_path / name, method=method, model__rpn_post_nms_test=10)  # fewer than in training

    mine, theirs = launch(run("mine", OFF)).path, launch(run("theirs", PLAIN)).path
    found, expected = saved(mine), saved(theirs)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    # How many boxes an image has is written beside the losses, and trained on by nobody.
    logged = [{k: v for k, v in line.items() if "boxes_cls" not in k} for line in losses(mine)]
    assert logged == losses(theirs) and len(logged) == 8
    boxes = [line["loss/unsup/boxes_cls/raw"] for line in losses(mine)]
    assert boxes[:3] == [0, 0, 0] and max(boxes[3:]) > 0  # not until the burn-in's end, step 3


@pytest.mark.parametrize(
    ("theta", "kept"),
    [
        ([0.17] * 6, 12),  # of classes 0 to 4: 4 + 1 + 2 + 2 + 3
        ([0.17, 0.17, 2.0, 0.17, 0.17, 0.17], 10),  # without class 2
        ([0.5, 0.17, 0.17, 0.17, 0.17, 0.17], 10),  # of class 0 the .889 and the .984, not the .429 and the .453
        ([2.0, 2.0, 2.0, 0.17, 0.17, 2.0], 5),  # classes 3 and 4
        ([2.0] * 6, 0),
    ],
)
def test_a_threshold_per_class_decides_which_boxes_train_rpn_and_rois(theta: list[float], kept: int):
    method, below = hosted(), plain()
    torch.manual_seed(1)
    student = method.build_model(CLASSES).train()
    batch = batch_of(0, 0, 1)
    found = method.host.forward(student, batch, None, torch.tensor(theta))
    assert (float(found.terms["unsup/boxes_cls"].total), int(found.terms["unsup/boxes_cls"].count)) == (kept, 4)
    expected = below.losses(student, gated(batch, theta), None, None).losses
    for name, term in expected.items():
        assert torch.equal(found.terms[name].total, term.total), name
        assert torch.equal(found.terms[name].count, term.count), name
    whole, is_all = below.losses(student, batch, None, None).losses, kept == 12
    for name in ("unsup/rpn_cls", "unsup/roi_cls"):  # both of what is trained on
        assert torch.equal(found.terms[name].total, whole[name].total) == is_all, name


def test_thresholds_of_the_method_reach_the_host():
    # w = 7 softmax(a) = (1, .5, 2, .5, 1, 1, 1), background first: theta / w = .4 .1 .4 .2 .2 .2 of the classes, which
    # are clamped to .15 (the floor) and .2 (theta)
    method = hosted(
        gbt_enabled=True,
        gbt_use_class_score=False,
        gbt_warmup_steps=0,
        cls_pseudo_threshold=0.2,
        pseudo_score_floor=0.15,
        burn_in_steps=0,
    )
    torch.manual_seed(1)
    student = method.build_model(CLASSES).train()
    state = method.build_state(DataSizes(4, 4, CLASSES))
    state.matrix = -torch.eye(CLASSES + 1)
    state.weight_logits = torch.tensor([1, 0.5, 2, 0.5, 1, 1, 1]).log()
    theta = [0.2, 0.15, 0.2, 0.2, 0.2, 0.2]
    assert method.thresholds_at(state, 0).tolist() == pytest.approx(theta)
    batch = batch_of(0, 0, 1)
    for each in batch.targets[4:]:  # between floor and theta: class 1 alone is to be trained on
        each.scores.fill_(0.18)
    terms = method.losses(student, batch, None, state).losses
    ones = sum(each.classes.tolist().count(1) for each in batch.targets[4:])
    assert float(terms["unsup/boxes_cls"].total) == ones > 0
    expected = plain().losses(student, gated(batch, theta), None, None).losses
    assert torch.equal(terms["unsup/rpn_cls"].total, expected["unsup/rpn_cls"].total)


def test_background_of_unlabelled_images_counts_fully_whatever_a_teacher_says():
    method = hosted()
    torch.manual_seed(1)
    student = method.build_model(CLASSES).train()
    batch = batch_of(0, 0, 1)
    found = method.host.forward(student, batch, student, 0.17)
    assert found.weights.tolist() == [1.0] * 128  # 4 + 4 views, 16 RoIs each: omega = 1
    state = method.build_state(DataSizes(4, 4, CLASSES))
    terms = method.losses(student, batch, student, state).losses
    rows = focal_cross_entropy(found.roi.logits.detach(), found.roi.labels, 1.5)  # (1 - p)^1.5 * -log p
    assert bool((found.roi.labels[64:] == 0).any())
    for name, part in (("sup", slice(0, 64)), ("unsup", slice(64, 128))):
        assert float(terms[f"{name}/roi_cls"].total.detach()) == pytest.approx(float(rows[part].sum()), rel=1e-5)
        assert float(terms[f"{name}/roi_cls"].count) == 64


def test_classifiers_alone_have_the_weight_of_unlabelled_images():
    method = hosted(unsup_weight=2.5)
    assert isinstance(method.host, UnbiasedHost)
    assert {name: each for name, each in method.loss_weights.items() if name.startswith("unsup/")} == {
        "unsup/rpn_cls": 2.5,
        "unsup/rpn_reg": 0.0,
        "unsup/roi_cls": 2.5,
        "unsup/roi_reg": 0.0,
        "unsup/boxes_cls": 0.0,
    }


def test_a_teacher_follows_the_statistics_of_batch_norms_that_train(tmp_path: Path):
    # Those that it was copied with (mean 0, variance 1) would stay for ever, and it labels with them.
    run = launch(tiny_soft(tmp_path / "run", model__fpn_norm="batch", optim__steps=3)).path
    weights = load_saved(run, role="teacher").model.state_dict()
    means = [value for name, value in weights.items() if name.endswith("running_mean")]
    assert len(means) == 6  # three levels of the pyramid, before and after they are added up
    assert all(mean.abs().max() > 0 for mean in means)
