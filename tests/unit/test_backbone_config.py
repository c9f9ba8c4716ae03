"""What a configuration says about backbone, weights, strides and anchors, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.config.classifier import ClassifierConfig
from raydet.config.detector import ModelConfig
from raydet.errors import ConfigError
from raydet.settings import dump, load, parse, resolve
from raydet.train.launch import with_absolute_paths
from tests.helpers import tiny_config


def refused(**model: object) -> str:
    with pytest.raises(ValueError) as error:
        ModelConfig.model_validate(model)
    return str(error.value)


def test_the_default_backbone_comes_with_its_weights_and_levels():
    model = ModelConfig()
    assert (model.backbone, model.weights, model.fpn_strides) == ("efficientnet_lite0_fpn", "imagenet", (8, 16, 32))
    assert model.anchor_sizes == ((16, 32), (64, 128), (256, 512))


def test_anchors_follow_the_levels():
    assert ModelConfig(backbone="resnet18_fpn", weights="none").anchor_sizes == ((32,), (64,), (128,), (256,), (512,))
    two = ModelConfig(backbone="timm/x", weights="none", fpn_strides=(16, 32))
    assert two.anchor_sizes == ((16, 32, 64), (128, 256, 512))
    assert two.pooled_strides == (16, 32)
    assert ModelConfig(backbone="resnet18_fpn", weights="none").pooled_strides == (4, 8, 16, 32)


@pytest.mark.parametrize("backbone", ["resnet18_fpn", "resnet50_fpn", "resnet101_fpn", "timm/convnext_tiny"])
def test_a_backbone_without_weights_is_refused_with_what_to_write(backbone: str):
    said = refused(backbone=backbone)
    assert f"backbone {backbone} without `weights`" in said
    assert all(way in said for way in ("weights: imagenet", "weights: FILE", "weights: none"))


def test_a_classifiers_resnet_without_weights_is_refused_with_what_to_write():
    with pytest.raises(ValueError, match=r"network resnet18 without `weights`: write `weights: imagenet`.*none"):
        ClassifierConfig(network="resnet18")


def test_none_is_a_word_and_null_what_older_runs_wrote():
    assert ModelConfig(backbone="resnet50_fpn", weights="none").weights is None
    assert ModelConfig(backbone="resnet50_fpn", weights=None).weights is None
    assert ModelConfig(backbone="small_gn").weights is None


@pytest.mark.parametrize("model", [{"backbone": "resnet50_fpn", "weights": "none"}, {}])
def test_a_resolved_configuration_is_read_back_equal(tmp_path: Path, model: dict[str, object]):
    config = tiny_config(tmp_path / "run", model=model)
    (tmp_path / "again.yaml").write_text(dump(config), encoding="utf-8")
    assert load(tmp_path / "again.yaml") == config
    assert parse(config.model_dump_json()) == config


def test_what_is_missing_in_yaml_is_said_under_its_section():
    with pytest.raises(ConfigError, match=r"^c: model: backbone resnet50_fpn without `weights`: write"):
        resolve(
            {"run": {"dir": "x"}, "data": {"labeled": "shapes", "labeled_count": 5}, "method": {"name": "il_net"}},
            {"model.backbone": "resnet50_fpn"},
            where="c",
        )


def test_imagenet_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    model = {"backbone": "resnet50_fpn", "weights": "imagenet"}
    assert with_absolute_paths(tiny_config(tmp_path / "run", model=model)).model.weights == "imagenet"
    local = with_absolute_paths(tiny_config(tmp_path / "run", model={**model, "weights": "./imagenet"}))
    assert local.model.weights == str(tmp_path / "imagenet")


@pytest.mark.parametrize(
    ("model", "fragment"),
    [
        ({"backbone": "resnet5_fpn"}, "did you mean resnet50_fpn?"),
        ({"backbone": "timm/"}, "timm/NAME for a network of timm"),
        ({"backbone": "small_gn", "weights": "imagenet"}, "trains from scratch"),
        ({"backbone": "small_gn", "fpn_strides": (4, 8)}, "remove `fpn_strides`"),
        ({"fpn_strides": (8, 32)}, "each must be twice the one before it"),
        ({"fpn_strides": (16, 8)}, "finest first"),
        ({"fpn_strides": (2, 4)}, "give some of [4, 8, 16, 32, 64]"),
        ({"fpn_strides": (64,)}, "add 32"),
        ({"anchor_sizes": ((8,), (16,))}, "anchor_sizes has 2 levels, backbone efficientnet_lite0_fpn has 3"),
        ({"anchor_sizes": ((8,), (16,), (32, 64))}, "equally many sizes"),
        ({"weights": " "}, "write imagenet, a local file, or none"),
        ({"backbone": "small_gn", "small_channels": [8, 8, 4, 8, 8]}, "small_channels wants 8 or more each, got 4"),
    ],
)
def test_what_cannot_be_is_refused(model: dict[str, object], fragment: str):
    assert fragment in refused(**model)


def test_a_classifier_sees_pixels_as_its_published_weights_want_them():
    assert ClassifierConfig(network="efficientnet_lite0").mean == (0.498, 0.498, 0.498)
    assert ClassifierConfig(network="resnet18", weights="imagenet").std == (0.229, 0.224, 0.225)
    assert ClassifierConfig(network="resnet18", weights="imagenet", mean=(0.5, 0.5, 0.5)).mean == (0.5, 0.5, 0.5)
    # A file may be anybody's, an exported run's say: nothing is known of its pixels.
    assert ClassifierConfig(network="resnet18", weights="mine.pth").mean == (0.4914, 0.4822, 0.4465)
