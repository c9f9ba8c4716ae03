"""Frozen norms inside the convolutions before them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from raydet.vision.efficientnet_lite import EfficientNetLite0
from raydet.vision.folding import FoldedConv, fold_frozen_norms


def network() -> nn.Sequential:
    """A convolution and a norm that differ per channel, in float64."""
    torch.manual_seed(0)
    norm = FrozenBatchNorm2d(4)
    for buffer in norm.buffers():
        buffer.uniform_(0.5, 2.0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), norm).double()


def answers(module: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output, and the gradient of the first weight for the sum of its squares."""
    weight = next(module.parameters())
    out = module(pixels)
    (gradient,) = torch.autograd.grad(out.square().sum(), [weight])
    return out, gradient


def test_a_folded_norm_gives_the_same_numbers_and_gradients():
    apart, folded = network(), network()
    fold_frozen_norms(folded, [("0", "1")])
    pixels = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    for found, expected in zip(answers(folded, pixels), answers(apart, pixels), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_by_hand():
    # weight 3, input 2: 3 * 2 = 6; mean 1, variance 4 (eps 0), factor 5, summand 7: (6 - 1) / 2 * 5 + 7 = 19.5
    folded = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), FrozenBatchNorm2d(1, eps=0.0))
    nn.init.constant_(folded[0].weight, 3.0)
    for name, value in {"running_mean": 1.0, "running_var": 4.0, "weight": 5.0, "bias": 7.0}.items():
        getattr(folded[1], name).fill_(value)
    fold_frozen_norms(folded, [("0", "1")])
    assert folded(torch.full((1, 1, 1, 1), 2.0)).item() == 19.5


def test_names_in_the_state_dict_stay():
    folded = network()
    before = list(folded.state_dict())
    fold_frozen_norms(folded, [("0", "1")])
    assert list(folded.state_dict()) == before
    assert [name for name, _ in folded.named_modules()] == ["", "0", "1"]


def test_a_copy_folds_its_own_norm():
    original = network()
    fold_frozen_norms(original, [("0", "1")])
    duplicate = copy.deepcopy(original)
    original[1].bias.fill_(100.0)
    assert duplicate[0].norms[0] is duplicate[1]
    assert duplicate(torch.zeros(1, 3, 4, 4, dtype=torch.float64)).abs().max() < 50


def test_statistics_loaded_later_count():
    folded, other = network(), network()
    fold_frozen_norms(folded, [("0", "1")])
    other[1].running_mean.add_(3.0)
    folded.load_state_dict(other.state_dict())
    pixels = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(folded(pixels), other(pixels))


def test_a_norm_that_learns_is_left_alone():
    learning = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
    fold_frozen_norms(learning, [("0", "1")])
    assert not isinstance(learning[0], FoldedConv)
    assert type(learning[1]) is nn.BatchNorm2d


def test_every_convolution_of_efficientnet_lite_is_folded_and_its_maps_stay():
    torch.manual_seed(0)
    frozen, learning = EfficientNetLite0(FrozenBatchNorm2d), EfficientNetLite0().eval()
    for buffer in (b for name, b in frozen.named_buffers() if "running_mean" in name):
        buffer.uniform_(-0.1, 0.1)
    learning.load_state_dict(frozen.state_dict(), strict=False)
    convs = [module for module in frozen.modules() if isinstance(module, nn.Conv2d)]
    assert all(isinstance(conv, FoldedConv) for conv in convs)
    assert len(convs) == 48  # the stem; one block without widening (2), fifteen with (3 each): 1 + 2 + 45
    pixels = torch.randn(1, 3, 64, 96)
    expected = learning.maps(pixels)  # a BatchNorm2d in eval mode does what a frozen one does
    for stride, found in frozen.maps(pixels).items():
        torch.testing.assert_close(found, expected[stride], rtol=1e-3, atol=1e-4)
