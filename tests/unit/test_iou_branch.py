from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raydet.errors import ConfigError
from raydet.families.detection.config import IoUBranchConfig
from raydet.families.detection.iou_branch import BACKGROUND, IoUBranch, gate_quality, placement

FEATURES, CLASSES = 6, 2


def branch(**config: object) -> IoUBranch:
    torch.manual_seed(0)
    return IoUBranch(
        IoUBranchConfig.model_validate({"hidden": 8, **config}),
        feature_dim=FEATURES,
        num_classes=CLASSES,
        target_threshold=0.75,
    )


def head_output() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    shapes = [(4, FEATURES), (4, CLASSES + 1), (4, 4 * (CLASSES + 1))]
    shared, logits, deltas = (torch.randn(shape, requires_grad=True) for shape in shapes)
    return shared, logits, deltas


@pytest.mark.parametrize(
    ("inputs", "width"),
    [
        (("roi_features",), 6),
        (("roi_features", "class_logits"), 6 + 3),
        (("roi_features", "box_deltas"), 6 + 8),  # 4 deltas for each of 2 classes, none for background
        (("roi_features", "class_logits", "box_deltas"), 6 + 3 + 8),
        (("box_deltas", "roi_features"), 6 + 8),
    ],
)
def test_the_branch_reads_what_it_is_told_to(inputs: tuple[str, ...], width: int):
    f = branch(inputs=inputs)
    assert f.hidden.in_features == width
    values = dict(zip(("roi_features", "class_logits", "box_deltas"), head_output(), strict=True))
    out = f(*values.values())
    assert out.shape == (4, CLASSES + 1)
    out.sum().backward()
    for name, value in values.items():
        assert (value.grad is not None) == (name in inputs)
    if "box_deltas" in inputs:
        assert values["box_deltas"].grad[:, :4].abs().max() == 0  # background's deltas are not read
        assert values["box_deltas"].grad[:, 4:].abs().max() > 0


def test_the_order_of_the_inputs_in_the_config_changes_nothing():
    one, other = branch(inputs=("roi_features", "class_logits")), branch(inputs=("class_logits", "roi_features"))
    assert torch.equal(one(*head_output()), other(*head_output()))


def test_a_branch_without_roi_features_is_refused():
    with pytest.raises(ConfigError, match="roi_features is mandatory"):
        branch(inputs=("class_logits",))


def test_detached_inputs_get_no_gradient_but_the_branch_does():
    f = branch(detach_inputs=True)
    shared, logits, deltas = head_output()
    f(shared, logits, deltas).sum().backward()
    assert shared.grad is None and logits.grad is None
    assert f.hidden.weight.grad.abs().max() > 0


def test_without_activation_the_branch_is_affine():
    f = branch(activation="none", inputs=("roi_features",))
    x = head_output()[0].detach()
    zero = torch.zeros(4, 3)
    double, single, none = f(2 * x, zero, zero), f(x, zero, zero), f(0 * x, zero, zero)
    torch.testing.assert_close(double - single, single - none)


def test_initial_weights_are_small_and_biases_zero():
    f = IoUBranch(IoUBranchConfig(), feature_dim=1024, num_classes=80, target_threshold=0.75)
    assert float(f.hidden.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert f.hidden.bias.abs().max() == 0 and f.score.bias.abs().max() == 0


def test_the_three_losses():
    # q = sigmoid(0) = .5; IoUs .9 and .3, targets 1 and 0 at mu = .75
    logits, iou = torch.zeros(2), torch.tensor([0.9, 0.3])
    focal, targets = branch(loss="focal_bce").loss_rows(logits, iou)
    assert focal.tolist() == pytest.approx([0.245065] * 2, abs=1e-6)  # .5^1.5 * ln 2
    assert targets.tolist() == [1.0, 0.0]
    smooth, targets = branch(loss="smooth_l1").loss_rows(logits, iou)
    assert smooth.tolist() == pytest.approx([0.08, 0.02])  # .4^2 / 2, .2^2 / 2
    assert targets.tolist() == [1.0, 0.0]
    # q = .8 with soft target .9: BCE = -(.9 ln .8 + .1 ln .2) = .361773, p_t = .696441, (1 - p_t)^1.5 * BCE = .060507
    soft, _ = branch(loss="focal_soft").loss_rows(torch.logit(torch.tensor([0.8])), torch.tensor([0.9]))
    assert soft.tolist() == pytest.approx([0.060507], abs=1e-5)


def test_the_gate_reads_the_best_class_and_lets_background_pass():
    # background first; best: class 2, background, class 1
    class_logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 5.0, 2.0]])
    branch_logits = torch.logit(torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.9, 0.6, 0.3]]))
    assert gate_quality(class_logits, branch_logits).tolist() == pytest.approx([0.3, 1.0, 0.6])


def test_a_quality_of_one_means_background():
    class_logits = torch.tensor([[0.0, 3.0], [3.0, 0.0]])  # the best class is foreground, is background
    branch_logits = torch.full((2, 2), 40.0)  # a sigmoid of 1 - 4e-18, in float32 1
    quality = gate_quality(class_logits, branch_logits)
    assert (quality == BACKGROUND).tolist() == [False, True]
    assert quality[0].item() == 1 - 2**-24


def test_placement_against_the_matched_or_the_best_box():
    decoded = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8]], requires_grad=True)
    truth = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8]])
    swapped = truth[[1, 0]]
    matched = placement(decoded, swapped, truth, best=False)
    assert matched.tolist() == pytest.approx([0.8, 0.8])
    best = placement(decoded, swapped, truth, best=True)
    assert best.tolist() == pytest.approx([1.0, 1.0])
    assert not matched.requires_grad and not best.requires_grad


@pytest.mark.parametrize("best", [False, True])
def test_placement_of_nothing_is_nothing(best: bool):
    nothing = torch.zeros(0, 4)
    assert placement(nothing, nothing, torch.zeros(3, 4), best=best).shape == (0,)
    assert placement(nothing, nothing, nothing, best=best).shape == (0,)
