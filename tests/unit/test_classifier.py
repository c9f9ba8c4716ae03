from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models as tv
from safetensors.torch import load_file, save_file
from torch import Tensor

from raydet.config.classifier import ClassifierConfig
from raydet.errors import CheckpointError
from raydet.vision.classifier import Classifier

# Configurations that draw, each on one of the three ways: gates, dropout, input noise.
DRAWING = [{"network": "shake_shake26"}, {"network": "conv_large"}, {"network": "small_conv", "input_noise": 0.15}]
NETWORKS = [
    ("shake_shake26", 8),
    ("conv_large", 12),
    ("resnet18", 32),
    ("efficientnet_lite0", 64),
    ("lenet2d", 20),
    ("small_conv", 8),
]


def build(num_classes: int = 3, **config: object) -> Classifier:
    torch.manual_seed(0)
    # None: from scratch, as the other networks start anyway
    return Classifier(ClassifierConfig.model_validate({"weights": None, **config}), num_classes)


def images(count: int = 4, side: int = 16) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=rng)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=DRAWING, ids=lambda config: config["network"])
def drawing(request: pytest.FixtureRequest) -> Classifier:
    return build(**request.param)


def test_pixels_are_normalised_by_channel():
    model = build(network="small_conv", mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 0.2))
    pixels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    pixels[0, :, 2, 5] = torch.tensor([255, 51, 102])
    seen = model.normalised(pixels)[0, :, 2, 5]
    # (1 - .2) / .5 = 1.6; (51/255 - .4) / .25 = (.2 - .4) / .25 = -.8; (102/255 - .6) / .2 = (.4 - .6) / .2 = -1
    assert seen.tolist() == pytest.approx([1.6, -0.8, -1.0], abs=1e-6)
    # Black: -.2 / .5 = -.4; -.4 / .25 = -1.6; -.6 / .2 = -3
    assert model.normalised(pixels)[0, :, 0, 0].tolist() == pytest.approx([-0.4, -1.6, -3.0], abs=1e-6)


def test_features_are_what_the_last_layer_sees():
    model = build(network="small_conv").eval()
    said = model(images())
    assert said.logits.shape == (4, 3) and said.features.shape == (4, 128)
    assert torch.equal(said.logits, said.features @ model.last.weight.T + model.last.bias)


def test_logits_are_float32_under_autocast():
    model = build(network="shake_shake26")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        said = model(images(), rng())
    assert (said.logits.dtype, said.features.dtype) == (torch.float32, torch.float32)
    said.logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_equal_generators_give_equal_steps_and_others_do_not(drawing: Classifier):
    first, again, other = (drawing(images(), rng(seed)).logits for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


def test_gradients_are_repeatable_too(drawing: Classifier):
    def gradients() -> list[Tensor]:
        drawing.zero_grad()
        drawing(images(), rng(5)).logits.square().sum().backward()
        return [p.grad.clone() for p in drawing.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients(), strict=True))


def test_training_draws_from_the_given_generator_only(drawing: Classifier):
    before = torch.get_rng_state()
    given = rng()
    drawing(images(), given).logits.sum().backward()
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(given.get_state(), rng().get_state())


def test_evaluation_draws_nothing_and_needs_no_generator(drawing: Classifier):
    drawing.eval()
    before, given = torch.get_rng_state(), rng()
    assert torch.equal(drawing(images()).logits, drawing(images(), given).logits)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(given.get_state(), rng().get_state())


def test_training_without_a_generator_is_refused_where_one_is_needed(drawing: Classifier):
    with pytest.raises(ValueError, match="with a generator `rng`"):
        drawing(images())


@pytest.mark.parametrize("config", [{"network": "small_conv"}, {"network": "conv_large", "dropout": 0}])
def test_training_without_a_generator_is_fine_where_nothing_is_drawn(config: dict[str, object]):
    assert build(**config)(images()).logits.isfinite().all()


def test_a_model_can_be_copied_between_steps(drawing: Classifier):
    drawing(images(), rng()).logits.sum().backward()
    twin = copy.deepcopy(drawing)
    assert torch.equal(twin(images(), rng(3)).logits, drawing(images(), rng(3)).logits)


def test_the_state_holds_tensors_only_and_restores_the_model(drawing: Classifier):
    drawing(images(), rng())
    state = drawing.state_dict()
    assert all(type(value) is Tensor for value in state.values())
    assert not {"mean", "std"} & set(state)  # those are configuration
    torch.manual_seed(9)
    other = Classifier(drawing.config, 3)
    other.load_state_dict(state)
    assert torch.equal(other.eval()(images()).logits, drawing.eval()(images()).logits)


@pytest.mark.parametrize(("network", "side"), NETWORKS)
def test_gradients_reach_every_parameter(network: str, side: int):
    model = build(network=network)
    torch.nn.functional.cross_entropy(model(images(6, side), rng()).logits, torch.tensor([0, 1, 2] * 2)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(("network", "side"), NETWORKS)
def test_initial_weights_follow_the_global_seed(network: str, side: int):
    first, again = build(network=network).eval(), build(network=network).eval()
    assert torch.equal(first(images(2, side)).logits, again(images(2, side)).logits)
    assert not first.last.bias.any()


@pytest.mark.parametrize("settings", [{"network": "small_conv"}, {"network": "conv_large", "dropout": 0}])
def test_with_group_norm_an_image_does_not_see_its_neighbours(settings: dict[str, Any]):
    model = build(**settings, norm="group")
    together = model(images(8)).logits
    apart = torch.cat([model(half).logits for half in images(8).chunk(2)])
    assert together.sub(apart).abs().max() < 1e-6


def test_with_batch_norm_it_does():
    model = build(network="small_conv", norm="batch")
    assert model(images(8)).logits[:4].sub(model(images(8)[:4]).logits).abs().max() > 1e-3


@pytest.mark.parametrize(("network", "least"), [("conv_large", 12), ("lenet2d", 20), ("small_conv", 8)])
def test_the_least_size_is_the_least_that_works(network: str, least: int):
    model = build(network=network).eval()
    assert model.config.least_size == least
    assert model(images(1, least)).logits.shape == (1, 3)


# Weights of ResNet-18 from a file.


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file such as torchvision's, of a network with five classes instead of a thousand."""
    torch.manual_seed(4)
    file = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(tv.resnet18(weights=None, num_classes=5).state_dict(), file)
    return file


def torchvisions(file: Path) -> torch.nn.Module:
    from safetensors.torch import load_file

    network: torch.nn.Module = tv.resnet18(weights=None, num_classes=5)
    network.load_state_dict(load_file(file))
    return network.eval()


def test_resnet18_says_what_torchvisions_says(imagenet: Path):
    model = build(5, network="resnet18", weights=str(imagenet)).eval()
    pixels = images(2, 32)
    assert torch.allclose(model(pixels).logits, torchvisions(imagenet)(model.normalised(pixels)), atol=1e-5)


def test_the_last_layer_is_left_out_where_the_classes_are_not_as_many(imagenet: Path):
    model = build(3, network="resnet18", weights=str(imagenet))
    assert torch.equal(model.network.body.layer4[1].conv2.weight, torchvisions(imagenet).layer4[1].conv2.weight)
    assert model(images(2, 32)).logits.shape == (2, 3)


def test_files_without_last_layer_or_batch_counters_are_read(imagenet: Path, tmp_path: Path):
    state = torchvisions(imagenet).state_dict()
    file = tmp_path / "old.pth"
    torch.save({n: v for n, v in state.items() if not n.startswith("fc.") and "num_batches" not in n}, file)
    model = build(5, network="resnet18", weights=str(file))
    assert torch.equal(model.network.body.conv1.weight, state["conv1.weight"])


def test_weights_of_another_resnet_are_refused_by_name(tmp_path: Path):
    file = tmp_path / "resnet34.safetensors"
    save_file(tv.resnet34(weights=None).state_dict(), file)
    with pytest.raises(CheckpointError, match=r"resnet34\.safetensors \(resnet18\) do not fit.*layer1\.2"):
        build(network="resnet18", weights=str(file))


def test_missing_weights_are_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"model\.weights: no file"):
        build(network="resnet18", weights=str(tmp_path / "missing.pth"))


def test_an_exported_resnet18_is_torchvisions_and_can_be_started_from(tmp_path: Path):
    model = build(network="resnet18").eval()
    save_file(model.exported(), tmp_path / "exported.safetensors")
    theirs = tv.resnet18(num_classes=3).eval()
    theirs.load_state_dict(load_file(tmp_path / "exported.safetensors"))
    pixels = images(2, 64)
    assert torch.equal(theirs(model.normalised(pixels)), model(pixels).logits)
    again = build(network="resnet18", weights=str(tmp_path / "exported.safetensors")).eval()
    assert torch.equal(again(pixels).logits, model(pixels).logits)


@pytest.mark.parametrize("network", ["small_conv", "resnet18", "efficientnet_lite0"])
def test_an_exported_classifier_is_read_back_as_the_readme_says(network: str, tmp_path: Path):
    weights = {} if network == "small_conv" else {"weights": "none"}
    model = build(network=network, **weights).eval()
    save_file(model.exported(), tmp_path / "model.safetensors")
    again = build(network=network, **weights).eval()
    for parameter in again.parameters():
        parameter.data.add_(0.1)
    assert not torch.equal(again(images(2, 64)).logits, model(images(2, 64)).logits)
    again.load_exported(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(again(images(2, 64)).logits, model(images(2, 64)).logits)
    with pytest.raises(RuntimeError, match="Missing key"):
        again.load_exported({})
