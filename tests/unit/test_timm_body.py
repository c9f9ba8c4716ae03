"""Networks of timm as backbones."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from raydet.config.detector import ModelConfig
from raydet.errors import CheckpointError, ConfigError
from raydet.vision.backbones import build_backbone
from raydet.vision.detector import Detector
from raydet.vision.images import collate
from raydet.vision.pretrained import NotFetched, at_hand
from raydet.vision.timm_body import TimmBody

pytestmark = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="pip install 'raydet[timm]'")


def config(name: str, **settings: object) -> ModelConfig:
    return ModelConfig.model_validate(
        {"backbone": f"timm/{name}", "weights": None, "fpn_channels": 16, "box_head_dim": 32, **settings}
    )


def whole(name: str) -> nn.Module:
    import timm

    torch.manual_seed(5)
    network: nn.Module = timm.create_model(name, pretrained=False)
    return network.eval()


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224", "mobilenetv3_small_050"])
def test_a_pyramid_stands_on_the_strides_asked_for(name: str):
    backbone = build_backbone(config(name)).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 64, 128))
    assert [tuple(each.shape) for each in maps.values()] == [
        (1, 16, 16, 32), (1, 16, 8, 16), (1, 16, 4, 8), (1, 16, 2, 4), (1, 16, 1, 2)
    ]  # fmt: skip


def test_levels_that_nobody_asked_for_are_not_built():
    short, full = (build_backbone(config("resnet18", fpn_strides=s)) for s in [(8, 16), (4, 8, 16, 32)])
    assert "layer4" in "".join(full.body.state_dict()) and "layer4" not in "".join(short.body.state_dict())


def test_a_network_without_these_strides_is_refused_with_those_that_it_has():
    with pytest.raises(CheckpointError, match=r"vit_tiny_patch16_224 has maps of strides \[16\], not of \[4, 8, 32\]"):
        build_backbone(config("vit_tiny_patch16_224"))


def test_a_network_for_images_of_one_size_is_refused():
    with pytest.raises(CheckpointError, match=r"cannot look at images of 64 x 96 pixels"):
        build_backbone(config("vit_tiny_patch16_224", fpn_strides=(16,)))


def test_an_unknown_network_is_refused_with_some_that_there_are():
    with pytest.raises(CheckpointError, match=r"timm/convnext_atto\.xyz cannot be built.*Invalid pretrained tag"):
        build_backbone(config("convnext_atto.xyz"))
    with pytest.raises(CheckpointError, match=r"has no such network, such as .*resnet"):
        build_backbone(config("resnet_unheard_of"))


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "efficientnet_lite0"])
def test_a_file_of_the_whole_network_gives_its_maps(name: str, tmp_path: Path):
    network = whole(name)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    side = 224 if name.startswith("swin") else 64
    backbone = build_backbone(config(name, weights=str(tmp_path / "w.pth"), fpn_strides=(8, 16, 32)))
    pixels = torch.rand(1, 3, side, side)
    with torch.no_grad():
        found = backbone.body.maps(pixels)
        expected = network.forward_intermediates(pixels, intermediates_only=True)
    for stride, each in found.items():
        same = [other for other in expected if other.shape[-1] == side // stride]
        torch.testing.assert_close(each, same[-1], atol=1e-4, rtol=1e-4)


def test_a_file_of_another_network_is_refused(tmp_path: Path):
    torch.save(whole("resnet34").state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth \(timm/resnet18\) do not fit the model: layer1\.2.* is unknown"):
        build_backbone(config("resnet18", weights=str(tmp_path / "w.pth")))


@pytest.mark.parametrize(
    ("stages", "trained"),
    [
        (0, set()), (1, {"layer4"}), (3, {"layer2", "layer3", "layer4"}),
        (4, {"layer1", "layer2", "layer3", "layer4"}), (5, {"conv1", "layer1", "layer2", "layer3", "layer4"}),
    ],
)  # fmt: skip
def test_trainable_stages_count_from_the_top_and_norms_are_frozen(tmp_path: Path, stages: int, trained: set[str]):
    torch.save(whole("resnet18").state_dict(), tmp_path / "w.pth")
    backbone = build_backbone(config("resnet18", weights=str(tmp_path / "w.pth"), trainable_stages=stages))
    parameters = list(backbone.body.network.named_parameters())
    assert {name.split(".")[0] for name, value in parameters if value.requires_grad} == trained
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())


def body(name: str, stages: int) -> nn.Module:
    """The network of a body as a checkpoint finds it: norms and stages frozen, no weights read."""
    return TimmBody(name, (4, 8, 16, 32), weights="", trainable_stages=stages).network


@pytest.mark.parametrize(
    ("stages", "frozen_embeddings", "frozen_blocks"),
    [(0, {0, 1, 2, 3}, {0, 1, 2, 3}), (1, {0, 1, 2}, {0, 1, 2}), (3, {0}, {0}), (4, set(), set()), (5, set(), set())],
)
def test_stages_are_found_where_neither_names_nor_order_of_modules_tell_them(
    stages: int, frozen_embeddings: set[int], frozen_blocks: set[int]
):
    # Twins lists all four embeddings, then all four stacks of blocks, and computes them in turns; it calls the ends of
    # its stages block.0 to block.3, which no module is called.
    frozen = [
        name.split(".")[1:3] for name, p in body("twins_svt_small", stages).named_parameters() if not p.requires_grad
    ]
    of = {part: {int(at) for found, at in frozen if found == part} for part in ("patch_embeds", "blocks")}
    assert of == {"patch_embeds": frozen_embeddings, "blocks": frozen_blocks}


@pytest.mark.parametrize(("stages", "trained"), [(0, False), (5, True)])
def test_a_network_of_parallel_branches_is_frozen_as_a_whole_or_not_at_all(stages: int, trained: bool):
    found = {value.requires_grad for value in body("hrnet_w18_small", stages).parameters()}
    assert found == {trained}


def test_parallel_branches_train_above_the_stem_that_they_share():
    # Five stages: the stem up to its map of stride 2 and four; the stem's second convolution leads to the next map.
    names = {name.split(".")[0] for name, p in body("hrnet_w18_small", 4).named_parameters() if not p.requires_grad}
    assert names == {"conv1"}


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_stages_that_cannot_be_told_apart_are_refused_with_what_can_be_set(stages: int):
    with pytest.raises(ConfigError) as error:
        body("hrnet_w18_small", stages)
    said = str(error.value)
    assert said.startswith(f"model.backbone=timm/hrnet_w18_small has no top of model.trainable_stages={stages} that")
    assert "set model.trainable_stages to 0 (all of it is frozen), 4 or 5 (all of it trains)" in said
    assert "\n" not in said


def test_a_stage_without_weights_is_refused_rather_than_everything_frozen():
    # VGG's map of stride 32 is the pooled one of stride 16.
    with pytest.raises(ConfigError, match=r"to 0 \(all of it is frozen\), 2, 3, 4 or 5 \(all of it trains\)"):
        body("vgg11", 1)


def test_without_weights_everything_trains():
    assert all(value.requires_grad for value in build_backbone(config("resnet18")).parameters())


def test_a_step_draws_no_random_numbers():
    backbone = build_backbone(config("swin_tiny_patch4_window7_224", fpn_strides=(16, 32))).train()
    before = torch.get_rng_state()
    backbone(torch.zeros(1, 3, 64, 64))
    assert torch.equal(torch.get_rng_state(), before)


def test_pixels_are_normalised_as_the_network_was_trained():
    backbone = build_backbone(config("tf_efficientnet_lite0", fpn_strides=(8, 16, 32)))
    seen: list[torch.Tensor] = []
    maps = backbone.body.maps
    backbone.body.maps = lambda pixels: seen.append(pixels) or maps(pixels)
    grey = torch.full((3, 64, 64), 51, dtype=torch.uint8)  # 51 / 255 = 0.2; (0.2 - 0.5) / 0.5 = -0.6
    backbone(collate([grey], "cpu").pixels)
    torch.testing.assert_close(seen[0], torch.full((1, 3, 64, 64), -0.6), atol=1e-6, rtol=0)


def test_a_detector_trains_on_it_through_every_parameter():
    detector = Detector(config("convnext_atto"), 2).train()
    sum(each.sum() for each in detector.backbone(torch.rand(1, 3, 64, 64)).values()).backward()
    assert all(value.grad is not None for value in detector.backbone.parameters())


def test_without_timm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "timm" else find(name, *more))
    with pytest.raises(CheckpointError, match=r"^model\.backbone=timm/\.\.\.: timm is not installed: pip install"):
        build_backbone(config("resnet18"))


def test_without_a_network_one_line_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch):
    import timm

    create = timm.create_model

    def offline(name: str, *, pretrained: bool, **settings: object) -> nn.Module:
        if pretrained:
            raise OSError("We couldn't connect to 'https://huggingface.co'\nand more lines")
        return create(name, pretrained=False, **settings)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(CheckpointError) as error:
        build_backbone(config("convnext_atto", weights="imagenet"))
    said = str(error.value)
    assert "weights of timm/convnext_atto cannot be fetched from https://huggingface.co/timm/convnext_atto" in said
    assert said.endswith("write model.weights=FILE") and "\n" not in said


def test_a_network_without_published_weights_is_told_from_one_that_cannot_be_fetched():
    with pytest.raises(CheckpointError) as error:
        build_backbone(config("vovnet57a", weights="imagenet"))
    assert str(error.value) == (
        "model.weights=imagenet: timm has no weights of timm/vovnet57a; write `weights: none` to train from scratch, "
        "or give a local file of the network's weights"
    )


def test_a_network_is_built_from_what_is_at_hand_or_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub
    import timm

    cached: list[str] = []
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda repository, name, *, revision: name if f"{repository}/{name}" in cached else None,
    )
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, *, pretrained, **settings: create(name, **settings))
    with at_hand(), pytest.raises(NotFetched) as away:
        build_backbone(config("convnext_atto", weights="imagenet"))
    assert away.value.url == "https://huggingface.co/timm/convnext_atto.d2_in1k"
    assert away.value.remedy == "without a network, fetch the file elsewhere and write model.weights=FILE"
    cached.append("timm/convnext_atto.d2_in1k/model.safetensors")
    with at_hand():
        build_backbone(config("convnext_atto", weights="imagenet"))
