"""What the IoU branch is trained on: the decoded box of the RoI's own class, and that class's logit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raydet.config.detector import ModelConfig
from raydet.families.detection.config import IoUBranchConfig
from raydet.families.detection.iou_branch import IoUDetector, iou_pass
from raydet.families.detection.passes import compared
from raydet.vision.roi import RoiScores, SampledRois

FEATURES = 8
Q = [0.9, 0.8, 0.3]  # what the branch says of every RoI: background, class 0 (column 1), class 1 (column 2)

# Image 0: a well placed RoI whose box moves away from the truth. The RoI: 20 * 38 / (20 * 40) = .95. Decoded:
# (10.948, 8.975, 33.052, 47.025), .788 (fact 6 of IL-net's).
ROI_0, TRUTH_0, DELTAS_0 = [10.0, 10, 30, 50], [10.0, 10, 30, 48], [1.0, -0.5, 0.5, -0.25]
IOU_0 = 0.787577
# Image 1: an RoI of half the truth, IoU .5, whose box becomes the truth: the centre moves by 5 / 10 of its height of
# 10, from y = 5 to 10, and the height grows by e^(5 ln 2 / 5) = 2.
ROI_1, TRUTH_1, DELTAS_1 = [0.0, 0, 10, 10], [0.0, 0, 10, 20], [0.0, 5.0, 0.0, 3.4657359]
IOU_1 = 1.0
BACKGROUND_ROI = [50.0, 50, 60, 60]


def model(**branch: object) -> IoUDetector:
    """A detector of two classes whose branch says `Q` of every RoI; mu is .9, between the IoUs of RoI and box."""
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "backbone": "small_gn",
            "small_channels": (8, 8, 8, 8, 8),
            "fpn_channels": 4,
            "box_head_dim": FEATURES,
            "anchor_sizes": ((16.0,), (32.0,), (64.0,)),
        }
    )
    settings = IoUBranchConfig.model_validate({"hidden": 4, **branch})
    found = IoUDetector(config, 2, branch=settings, target_threshold=0.9)
    with torch.no_grad():
        found.iou_branch.score.weight.zero_()
        found.iou_branch.score.bias.copy_(torch.logit(torch.tensor(Q)))
    return found


def said() -> RoiScores:
    """What the head says of four RoIs, foreground and background of each image; deltas of other classes are 0."""
    deltas = torch.zeros(4, 3, 4)
    deltas[0, 2], deltas[2, 1] = torch.tensor(DELTAS_0), torch.tensor(DELTAS_1)
    return RoiScores(torch.ones(4, FEATURES), torch.zeros(4, 3), deltas.reshape(4, 12).requires_grad_())


def rois() -> tuple[SampledRois, ...]:
    """Image 0 has a foreground RoI of class 1, image 1 one of class 0; inside, background is class 0."""
    return (
        SampledRois(torch.tensor([ROI_0, BACKGROUND_ROI]), torch.tensor([2, 0]), torch.tensor([TRUTH_0])),
        SampledRois(torch.tensor([ROI_1, BACKGROUND_ROI]), torch.tensor([1, 0]), torch.tensor([TRUTH_1])),
    )


def terms(
    of: IoUDetector, scores: RoiScores | None = None, *, beside: list[list[float]] | None = None
) -> tuple[Tensor, Tensor]:
    """Return losses and numbers of targets per image; `beside`: more true boxes of image 0."""
    truth = [torch.tensor([*(beside or []), TRUTH_0]), torch.tensor([TRUTH_1])]
    found = iou_pass(of, compared(of.config, rois(), said() if scores is None else scores), truth)
    return found.loss, found.positives


def test_the_target_looks_at_the_decoded_box_and_the_loss_at_the_own_classs_logit():
    loss, positives = terms(model())
    # .788 is not above .9, and 1 is: of the RoIs themselves, .95 and .5, it is the other way round.
    assert positives.tolist() == [0, 1]
    # image 0: q = .3, t = 0: .3^1.5 * -ln .7 = .164317 * .356675; image 1: q = .8, t = 1: .2^1.5 * -ln .8
    assert loss.tolist() == pytest.approx([0.058608, 0.019959], abs=2e-6)


def test_the_loss_by_distance_is_of_the_same_box_and_logit():
    loss, positives = terms(model(loss="smooth_l1"))
    # (.3 - .787577)^2 / 2 = .118866; (.8 - 1)^2 / 2 = .02
    assert loss.tolist() == pytest.approx([0.118866, 0.02], abs=2e-6)
    assert positives.tolist() == [0, 1]


def test_a_soft_target_is_the_iou_of_the_decoded_box():
    loss, _ = terms(model(loss="focal_soft"))
    # image 0: BCE = -(.787577 ln .3 + .212423 ln .7) = 1.023987, p_t = e^-BCE = .359160, (1 - p_t)^1.5 * BCE = .525314
    # image 1: .2^1.5 * -ln .8
    assert loss.tolist() == pytest.approx([0.525314, 0.019959], abs=2e-6)


def test_the_best_true_box_of_the_image_counts_where_that_is_asked_for():
    decoded = [10.948291, 8.975412, 33.051708, 47.024590]
    beside = [[100.0, 100, 110, 110], decoded]
    assert terms(model(), beside=beside)[1].tolist() == [0, 1]  # against the matched box
    loss, positives = terms(model(target_gt="max"), beside=beside)
    assert positives.tolist() == [1, 1]
    assert loss.tolist() == pytest.approx([0.705121, 0.019959], abs=2e-6)  # q = .3, t = 1: .7^1.5 * -ln .3


def test_only_the_own_classs_logit_and_no_box_is_trained():
    detector, scores = model(), said()
    loss, _ = terms(detector, scores)
    for image, column in ((0, 2), (1, 1)):
        detector.zero_grad()
        loss[image].backward(retain_graph=True)
        trained = detector.iou_branch.score.bias.grad.nonzero()[:, 0].tolist()
        assert trained == [column], image
    assert scores.box_deltas.grad is None or scores.box_deltas.grad.abs().max() == 0
