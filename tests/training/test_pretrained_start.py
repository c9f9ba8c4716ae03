"""From pre-training without labels to every detector and semi-supervised training; presets that fit each other."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from raydet.config.detector import ModelConfig
from raydet.config.proposal_data import ProposalViewsConfig
from raydet.families.detection.transfer import start
from raydet.families.pretraining import photometrics
from raydet.families.pretraining.config import PretrainingModelConfig, PretrainingOptimConfig
from raydet.metrics import read_metrics
from raydet.proposals.sources import SelectiveSearch
from raydet.settings import load
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from raydet.train.saved import load_saved
from raydet.vision.detector import Detector
from tests.helpers import TINY, tiny_config, tiny_views

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
NETWORK = {"fpn_norm": "batch", "box_head": "conv4_fc1"}  # as SoCo and ADePT have it
SUPERVISED = {"name": "supervised", "burn_in_steps": 1}


@pytest.fixture(scope="module")
def adept_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adept") / "run"
    launch(tiny_views(folder, optim__steps=2, **{f"model__{key}": value for key, value in NETWORK.items()}))
    return folder


@pytest.mark.parametrize(
    ("detector", "method"),
    [
        ("faster_rcnn", TINY["method"]),  # IL-net
        ("cascade_rcnn", TINY["method"]),
        ("mask_rcnn", SUPERVISED),
    ],
)
def test_what_adept_learned_starts_every_detector_and_trains_on(
    adept_run: Path, detector: str, method: dict[str, Any], tmp_path: Path
):
    network = {**NETWORK, "detector": detector, "init_from": str(adept_run), "roi_pool_size": 3}
    changes = {f"model__{key}": value for key, value in network.items()}
    run = launch(tiny_config(tmp_path / "run", optim__steps=5, method=method, **changes)).path
    lines = read_metrics(run / "metrics.jsonl")
    notes = " ".join(str(line) for line in lines if line["kind"] == "note")
    assert re.findall(r"  (\w+): \d+ tensors taken", notes) == ["backbone", "fpn", "rpn", "box_head"]
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2, 3, 4, 5]


def statistics(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What batch norms have gathered."""
    return {name: value for name, value in tensors.items() if name.endswith(("running_mean", "running_var"))}


def test_what_batch_norms_have_gathered_arrives_in_the_detector(adept_run: Path):
    same = {key: getattr(RunFolder(adept_run).load_config().model, key) for key in ModelConfig.model_fields}
    config = ModelConfig(**{**same, "init_from": str(adept_run)})
    model = Detector(config, 3)
    start(model, config)
    found, gathered = statistics(model.state_dict()), statistics(load_saved(adept_run).model.state_dict())
    # The pyramid's norms: 3 levels of 2; the box head's: 4. Of each a mean and a variance: 20.
    assert len(found) == 20
    for name, value in found.items():
        assert torch.equal(value, gathered[name]), name
        fresh = torch.zeros_like(value) if name.endswith("running_mean") else torch.ones_like(value)
        assert not torch.equal(value, fresh), name


@pytest.mark.parametrize("norms", [None, "trained"])  # None: the backbone's are frozen
def test_statistics_of_a_backbone_arrive_whether_its_norms_train_or_not(tmp_path: Path, norms: str | None):
    network = {"backbone": "resnet18_fpn", "fpn_channels": 16, "fpn_norm": "batch", "box_head_dim": 8}
    source = Detector(ModelConfig(**network, weights="none"), 2)
    with torch.no_grad():
        for name, value in statistics(source.state_dict()).items():
            value.fill_(7.0 if name.endswith("running_mean") else 4.0)
    file = tmp_path / "source.safetensors"
    save_file({name: value.contiguous() for name, value in source.state_dict().items()}, file)
    config = ModelConfig(**network, init_from=str(file), **({} if norms is None else {"init_norms": norms}))
    model = Detector(config, 2)
    start(model, config)
    found = statistics(model.state_dict())
    assert sum(name.startswith("backbone.body.") for name in found) == 40  # 20 norms of a ResNet-18
    for name, value in found.items():
        assert value.unique().tolist() == [7.0 if name.endswith("running_mean") else 4.0], name


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """What a detector of these settings consists of; nothing is computed or stored."""
    with torch.device("meta"):
        found = Detector(config, 3).state_dict()
    return {name: tuple(each.shape) for name, each in found.items()}


NORMS = ["model.weights=none", "model.fpn_norm=batch", "model.box_head=conv4_fc1", "model.trainable_stages=5"]


@pytest.mark.parametrize(
    ("source", "target", "overrides"),
    [
        ("adept_coco", "supervised_coco1", []),
        ("adept_coco", "supervised_coco10", []),
        ("soco_coco", "supervised_coco10", ["model.init_from=runs/soco_coco"]),
        ("adept_coco", "mask_rcnn_coco", ["model.init_from=runs/adept_coco", *NORMS]),
        ("adept_coco", "cascade_rcnn_soda10m", ["model.init_from=runs/adept_coco", *NORMS]),
        ("adept_coco", "fewshot_voc", []),
        ("adept_foda", "adept_to_il_net_foda", []),
    ],
)
def test_presets_that_follow_each_other_have_one_network(source: str, target: str, overrides: list[str]):
    before = load(CONFIGS / f"{source}.yaml").model
    given = shapes(ModelConfig(**{name: getattr(before, name) for name in ModelConfig.model_fields}))
    after = load(CONFIGS / f"{target}.yaml", overrides).model
    assert after.init_from == f"runs/{source}"
    wanted = shapes(after)
    heads = ("roi_heads.",) if after.detector == "cascade_rcnn" else ()  # one a stage: test_transfer_heads.py
    passed = [
        name
        for name in given
        if "box_predictor" not in name and "num_batches_tracked" not in name and not name.startswith(heads)
    ]
    assert len(passed) > 100
    assert [name for name in passed if wanted.get(name) != given[name]] == []
    if heads:
        own = sorted(shape for name, shape in given.items() if ".box_head." in name and "num_b" not in name)
        theirs = sorted(shape for name, shape in wanted.items() if ".box_head." in name)
        assert theirs == sorted(3 * own)


def test_one_percent_of_coco_is_a_mask_rcnns_as_published():
    for name in ("supervised_coco1", "supervised_coco10"):
        config = load(CONFIGS / f"{name}.yaml")
        assert config.model.detector == "mask_rcnn" and config.data.masks


# --- published settings -----------------------------------------------------------------------------------------------


def test_selective_search_has_the_published_parameters():
    # Scale 500, sigma 0.9, regions of 10 pixels or more (SoCo's and ADePT's text).
    search = SelectiveSearch()
    assert (search.scale, search.sigma, search.min_size) == (500, 0.9, 10)


def test_pre_training_has_the_published_optimiser_and_heads():
    optim = PretrainingOptimConfig()
    assert (optim.name, optim.lr, optim.weight_decay, optim.schedule) == ("lars", 0.1, 1e-5, "cosine")
    assert (optim.labeled_batch, optim.steps, optim.warmup_steps) == (2048, 62_500, 6_250)  # 100 and 10 epochs
    model = PretrainingModelConfig(backbone="resnet50_fpn")
    assert (model.projector_hidden, model.projector_dim) == (4096, 256)
    assert model.level_bounds == (48, 96, 192)


def test_views_have_the_published_probabilities():
    views = ProposalViewsConfig()
    assert (views.size, views.small_size, views.crop_area) == (224, 112, (0.5, 1.0))
    assert (views.horizontal_flip, views.color_jitter, views.grayscale) == (0.5, 0.8, 0.2)
    assert (views.blur, views.solarize) == ((1.0, 0.1, 0.1), (0.0, 0.2, 0.2))  # BYOL's for V1 and V2
    strengths = (photometrics.BRIGHTNESS, photometrics.CONTRAST, photometrics.SATURATION, photometrics.HUE)
    assert strengths == (0.4, 0.4, 0.2, 0.1)  # BYOL


def test_pre_training_runs_with_lars_as_published_and_in_bf16(tmp_path: Path):
    settings = {"optim__name": "lars", "optim__lr": 0.1, "optim__precision": "bf16", "optim__steps": 3}
    run = launch(tiny_views(tmp_path / "run", **settings)).path
    steps = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
    assert len(steps) == 3 and all(math.isfinite(line["loss"]) for line in steps)
