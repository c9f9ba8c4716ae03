from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from raydet.config.classifier import ClassifierConfig
from raydet.train.step import statistics_of
from raydet.vision.classifier import Classifier
from raydet.vision.classifiers.conv_large import ConvLarge
from raydet.vision.classifiers.layers import MeanOnlyNorm, dropout, gates, noisy
from raydet.vision.classifiers.lenet import LeNet2d
from raydet.vision.classifiers.shake_shake import Block, ShiftedHalves, shake
from raydet.vision.classifiers.small_conv import SmallConv


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parameters(network: str, num_classes: int, **config: object) -> int:
    with torch.device("meta"):
        model = Classifier(ClassifierConfig.model_validate({"network": network, **config}), num_classes)
    return sum(p.numel() for p in model.parameters())


# How large the networks are.


def test_shake_shake_has_the_published_26_2_million_parameters():
    # A block from I to C channels: two branches of convolutions, 2 * 9 * (I * C + C * C), and four norms, 4 * 2 * C.
    # Stage 1, 16 -> 96:    18 * (1536 + 9216)     + 3 * 36 * 9216   + 4 * 8 * 96  =  1_191_936
    # Stage 2, 96 -> 192:   18 * (18432 + 36864)   + 3 * 36 * 36864  + 4 * 8 * 192 =  4_982_784
    # Stage 3, 192 -> 384:  18 * (73728 + 147456)  + 3 * 36 * 147456 + 4 * 8 * 384 = 19_918_848
    # Shortcuts, each with a norm: 16 * 96 + 192, 96 * 192 + 384 (two groups: half of 192 * 192), 192 * 384 + 768
    # = 1728 + 18_816 + 74_496 = 95_040. Stem: 27 * 16 = 432. Last layer: 384 * 10 + 10 = 3850.
    assert parameters("shake_shake26", 10) == 1_191_936 + 4_982_784 + 19_918_848 + 95_040 + 432 + 3850 == 26_192_890
    assert round(parameters("shake_shake26", 10) / 1e6, 1) == 26.2


def test_conv_large_has_3_1_million_parameters():
    # 3x3: 9 * (3 * 128 + 2 * 128 * 128 + 128 * 256 + 2 * 256 * 256 + 256 * 512) = 9 * 328_064 = 2_952_576
    # 1x1: 512 * 256 + 256 * 128 = 163_840. Norms: 2 * (3 * 128 + 3 * 256 + 512 + 256 + 128) = 4096.
    # Last layer: 128 * 10 + 10 = 1290.
    assert parameters("conv_large", 10) == 2_952_576 + 163_840 + 4096 + 1290 == 3_121_802


def test_conv_large_with_weight_norm_has_a_length_for_each_gain_of_batch_norm():
    # Of 2048 filters each has a length instead of a gain, and a bias as before.
    assert parameters("conv_large", 10, norm="weight") == 3_121_802


def test_resnet18_has_as_many_parameters_as_torchvisions():
    assert parameters("resnet18", 1000, weights="none") == 11_689_512


def test_lenet_has_428_102_parameters():
    # (75 + 1) * 20 + (20 * 25 + 1) * 50 + (50 * 16 + 1) * 500 + (500 + 1) * 2 + (2 + 1) * 10
    assert parameters("lenet2d", 10) == 1520 + 25_050 + 400_500 + 1002 + 30 == 428_102


def test_small_conv_has_186_598_parameters():
    # 27 * 32 + 9 * (32 * 64 + 64 * 96 + 96 * 128) = 185_184; norms 2 * (32 + 64 + 96 + 128) = 640; 129 * 6 = 774
    assert parameters("small_conv", 6) == 185_184 + 640 + 774 == 186_598


# What shapes they make.


def last_map(network: nn.Module, layer: nn.Module, side: int) -> tuple[int, ...]:
    """Return the shape of what `layer` says about one square image."""
    said: list[tuple[int, ...]] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: said.append(tuple(output.shape)))
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, side, side), None)
    hook.remove()
    return said[0]


@pytest.mark.parametrize(("side", "left"), [(32, 6), (33, 6), (64, 14)])
def test_conv_large_leaves_a_quarter_of_the_side_less_two(side: int, left: int):
    network = ConvLarge("batch", 0.5)
    assert last_map(network, network.third, side) == (1, 128, left, left)


@pytest.mark.parametrize("side", [28, 32, 45])
def test_lenet_reaches_its_two_features_from_images_of_any_size(side: int):
    network = LeNet2d()
    assert last_map(network, network.layers[3], side) == (1, 50, 4, 4)
    assert network(torch.zeros(2, 3, side, side), None).shape == (2, 2)


def test_lenet_sees_mnist_as_plain_pooling_would_show_it():
    maps = torch.rand(2, 50, 8, 8, generator=rng())
    assert torch.equal(LeNet2d().layers[3](maps), nn.functional.max_pool2d(maps, 2))


def test_small_conv_ends_at_an_eighth_of_the_side():
    network = SmallConv((8, 8, 8, 16), "group")
    assert last_map(network, network.layers, 32) == (1, 16, 4, 4)


@pytest.mark.parametrize(("side", "left"), [(32, 16), (30, 15), (15, 8)])
def test_a_halving_block_of_shake_shake_takes_any_side(side: int, left: int):
    block = Block(4, 8, halve=True).eval()
    assert block(torch.zeros(1, 4, side, side), None).shape == (1, 8, left, left)


# Shake-Shake's parts.


def test_the_shortcut_sees_every_other_pixel_and_those_one_further():
    shortcut = ShiftedHalves(1, 2).eval()
    nn.init.ones_(shortcut.mix.weight)
    image = torch.arange(16.0).reshape(1, 1, 4, 4) - 2  # its first two pixels are negative
    said = shortcut(image)[0] * (1 + 1e-5) ** 0.5  # the norm's share: running variance 1, epsilon 1e-5
    # Rows and columns 0 and 2, after the ReLU: max(-2, 0), 0, 6, 8. Rows and columns 1 and 3: 3, 5, 11, 13.
    assert said.flatten().tolist() == pytest.approx([0, 0, 6, 8, 3, 5, 11, 13], abs=1e-5)


def test_values_and_gradients_are_mixed_by_different_gates():
    a, b = torch.tensor([4.0, 1.0], requires_grad=True), torch.tensor([8.0, 3.0], requires_grad=True)
    mixed = shake(a, b, torch.tensor(0.25), torch.tensor(0.9))
    assert mixed.tolist() == [7.0, 2.5]  # .25 * 4 + .75 * 8; .25 * 1 + .75 * 3
    mixed.backward(torch.tensor([10.0, -1.0]))
    assert a.grad is not None and b.grad is not None
    assert a.grad.tolist() == pytest.approx([9.0, -0.9])  # .9 * 10, .9 * -1
    assert b.grad.tolist() == pytest.approx([1.0, -0.1])  # .1 * 10, .1 * -1


def test_with_one_gate_for_both_the_gradient_is_the_true_one():
    a, b = (torch.rand(3, 2, 2, 2, dtype=torch.float64, generator=rng(i), requires_grad=True) for i in (1, 2))
    gate = torch.rand(3, 1, 1, 1, dtype=torch.float64, generator=rng(3))
    assert torch.autograd.gradcheck(lambda a, b: shake(a, b, gate, gate), (a, b))


def test_every_image_has_two_gates_of_its_own():
    forward, backward = gates(torch.zeros(1000, 2, 3, 3), rng())
    assert forward.shape == backward.shape == (1000, 1, 1, 1)
    both = torch.cat((forward, backward)).flatten()
    assert len(both.unique()) > 1990 and both.min() >= 0 and both.max() <= 1
    # Uniform: mean 1/2, variance 1/12 = .0833; independent: no correlation (standard error .03).
    assert both.mean().item() == pytest.approx(0.5, abs=0.03)
    assert both.var().item() == pytest.approx(1 / 12, abs=0.006)
    assert abs(torch.corrcoef(torch.stack((forward.flatten(), backward.flatten())))[0, 1]) < 0.1


def test_a_block_takes_gates_in_training_and_halves_in_evaluation():
    block = Block(2, 2, halve=False)
    x = torch.randn(4, 2, 5, 5, generator=rng())
    a, b = block.a(x.relu()), block.b(x.relu())
    gate = torch.rand(2, 4, 1, 1, 1, generator=rng(7))[0]
    assert torch.allclose(block(x, rng(7)), x + gate * a + (1 - gate) * b, atol=1e-6)
    block.eval()
    assert torch.allclose(block(x, None), x + 0.5 * (block.a(x.relu()) + block.b(x.relu())), atol=1e-6)


# Weight norm.


def test_with_weight_norm_only_the_direction_of_a_filter_counts_and_its_length_scales_it():
    torch.manual_seed(0)
    conv = ConvLarge("weight", 0.0).first[0]
    length, direction = conv.parametrizations.weight.original0, conv.parametrizations.weight.original1
    assert torch.allclose(length.flatten(), direction.flatten(1).norm(dim=1))  # as drawn: He et al.
    before = conv.weight.detach().clone()
    with torch.no_grad():
        direction *= 7.0
        length *= 2.0
    assert torch.allclose(conv.weight, 2 * before, atol=1e-6)


def test_mean_only_norm_takes_the_mean_away_and_leaves_the_scale():
    norm = MeanOnlyNorm(2)
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([0.0, 10.0]))
    x = torch.tensor([[1.0, 5.0], [3.0, 9.0]])[:, :, None, None]  # two images of one pixel, channel means 2 and 7
    assert norm(x)[:, :, 0, 0].tolist() == [[-1.0, 8.0], [1.0, 12.0]]
    assert norm.running_mean.tolist() == [2.0, 7.0]  # of the only batch so far
    norm(x + 2)  # means 4 and 9
    assert norm.running_mean.tolist() == [3.0, 8.0]
    norm.num_batches_tracked.fill_(100_000)
    norm(x + 1001)  # means 1003 and 1008: a thousandth of the way
    assert norm.running_mean.tolist() == pytest.approx([4.0, 9.0])
    assert norm.eval()(x)[:, :, 0, 0].flatten().tolist() == pytest.approx([-3.0, 6.0, -1.0, 10.0])  # 5 - 9 + 10 = 6


def test_ranks_share_the_running_means_of_mean_only_norms():
    network = ConvLarge("weight", 0.0)
    found = statistics_of(network)
    assert [len(each) for each in found] == [128] * 3 + [256] * 3 + [512, 256, 128]


# The other random layers.


@settings(max_examples=30)
@given(st.floats(0, 0.9), st.integers(0, 2**31))
def test_dropout_keeps_the_expectation(share: float, seed: int):
    x = torch.full((100_000,), 3.0)
    dropped = dropout(x, share, rng(seed))
    # Each value has variance 9 * share / (1 - share): at most 81 at .9, a standard error of 9 / 316 = .028.
    assert dropped.mean().item() == pytest.approx(3.0, abs=0.2)
    scaled = 3 / (1 - share)
    assert torch.isclose(dropped[dropped != 0], torch.tensor(scaled)).all()
    assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=0.01)


def test_dropout_drops_single_values_of_a_map():
    kept: Tensor = dropout(torch.ones(2, 3, 20, 20), 0.5, rng()) != 0
    assert kept.float().mean(dim=(2, 3)).min() > 0 and kept.float().mean(dim=(2, 3)).max() < 1


def test_noise_has_the_given_spread_and_no_mean():
    added = noisy(torch.full((100_000,), 2.0), 0.15, rng()) - 2
    # Standard errors: .15 / 316 = .0005 of the mean, .15 / 447 = .0003 of the standard deviation.
    assert added.mean().item() == pytest.approx(0, abs=0.003)
    assert added.std().item() == pytest.approx(0.15, abs=0.002)
