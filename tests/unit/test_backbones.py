from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision.models as tv
from safetensors.torch import save_file
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from raydet.config.detector import ModelConfig
from raydet.errors import CheckpointError
from raydet.vision.backbones import build_backbone
from raydet.vision.detector import Detector
from raydet.vision.images import collate

SMALL = ModelConfig(backbone="small_gn", fpn_channels=64, box_head_dim=256, anchor_sizes=((16.0,), (48.0,), (128.0,)))


def resnet(weights: Path | None = None, **config: object) -> ModelConfig:
    return ModelConfig.model_validate(
        {"backbone": "resnet18_fpn", "fpn_channels": 16, "weights": str(weights) if weights else None, **config}
    )


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file such as torchvision's ResNet-18 weights: classifier and batch counters included."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(tv.resnet18(weights=None).state_dict(), file)
    return file


def test_the_small_backbone_has_levels_at_strides_8_16_32():
    maps = build_backbone(SMALL)(torch.zeros(2, 3, 64, 96))
    assert [tuple(level.shape) for level in maps.values()] == [(2, 64, 8, 12), (2, 64, 4, 6), (2, 64, 2, 3)]
    assert SMALL.pooled_strides == (8, 16, 32)


def test_the_small_detector_has_about_1_7_million_parameters():
    assert sum(p.numel() for p in Detector(SMALL, 3).parameters()) == pytest.approx(1.7e6, rel=0.05)


def test_the_small_backbone_has_no_batch_statistics():
    assert not any("running" in name for name in build_backbone(SMALL).state_dict())


def test_resnets_have_levels_at_strides_4_to_64():
    config = resnet()
    maps = build_backbone(config).eval()(torch.zeros(1, 3, 64, 128))
    assert [tuple(level.shape[-2:]) for level in maps.values()] == [(16, 32), (8, 16), (4, 8), (2, 4), (1, 2)]
    assert config.pooled_strides == (4, 8, 16, 32)


@pytest.mark.parametrize("name", ["resnet50_fpn", "resnet101_fpn"])
def test_large_resnets_can_be_built(name: str):
    with torch.device("meta"):
        backbone = build_backbone(ModelConfig.model_validate({"backbone": name, "weights": None}))
    assert "fpn.inner_blocks.3.0.weight" in backbone.state_dict()


def test_loaded_resnets_have_frozen_norms_and_a_frozen_bottom(imagenet: Path):
    backbone = build_backbone(resnet(imagenet))
    assert any(isinstance(m, FrozenBatchNorm2d) for m in backbone.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    trained = {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad and "body" in name}
    assert trained == {"layer2", "layer3", "layer4"}
    assert torch.equal(backbone.state_dict()["body.conv1.weight"], tv_state(imagenet)["conv1.weight"])


@pytest.mark.parametrize(("stages", "expected"), [(0, set()), (5, {"conv1", "layer1", "layer2", "layer3", "layer4"})])
def test_trainable_stages_count_from_the_top(imagenet: Path, stages: int, expected: set[str]):
    backbone = build_backbone(resnet(imagenet, trainable_stages=stages))
    assert {n.split(".")[1] for n, p in backbone.named_parameters() if p.requires_grad and "body" in n} == expected


def test_resnets_without_weights_train_everything_with_plain_norms():
    backbone = build_backbone(resnet())
    assert all(p.requires_grad for p in backbone.parameters())
    assert any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())


def test_weights_saved_by_torch_are_read_too(imagenet: Path, tmp_path: Path):
    torch.save(tv_state(imagenet), tmp_path / "resnet18.pth")
    state = build_backbone(resnet(tmp_path / "resnet18.pth")).state_dict()
    assert torch.equal(state["body.layer4.1.bn2.running_var"], tv_state(imagenet)["layer4.1.bn2.running_var"])


def test_weights_of_another_network_are_refused_by_name(imagenet: Path):
    with pytest.raises(CheckpointError, match=r"resnet18\.safetensors \(resnet50_fpn\) do not fit.*conv3"):
        build_backbone(resnet(imagenet, backbone="resnet50_fpn"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.pth", None, "no file"),
        ("broken.safetensors", b"not a safetensors file", "cannot be read"),
        ("broken.pth", b"not a torch file", "cannot be read"),
    ],
)
def test_unreadable_weights_are_refused(tmp_path: Path, name: str, content: bytes | None, message: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        build_backbone(resnet(tmp_path / name))


def test_a_whole_checkpoint_instead_of_a_state_dict_is_refused(tmp_path: Path):
    torch.save({"model": {"conv1.weight": torch.zeros(1)}, "epoch": 3}, tmp_path / "run.pth")
    with pytest.raises(CheckpointError, match="flat dict of tensors"):
        build_backbone(resnet(tmp_path / "run.pth"))


def tv_state(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(file)


def test_resnets_have_only_the_levels_asked_for(imagenet: Path):
    backbone = build_backbone(resnet(imagenet, fpn_strides=[8, 16])).eval()
    maps = backbone(torch.zeros(1, 3, 64, 128))
    assert [tuple(level.shape[-2:]) for level in maps.values()] == [(8, 16), (4, 8)]
    assert "body.layer4.0.conv1.weight" not in backbone.state_dict()
    assert torch.equal(backbone.state_dict()["body.conv1.weight"], tv_state(imagenet)["conv1.weight"])


def test_a_detector_of_few_levels_finds_its_boxes_on_them():
    detector = Detector(resnet(fpn_strides=[8, 16, 32], box_head_dim=16), 2).eval()
    found = detector.candidates(collate([torch.zeros(3, 60, 90, dtype=torch.uint8)], "cpu"), proposals="test",
                                score_floor=0.0, top_k=5)  # fmt: skip
    assert len(found[0].boxes) == 5
