"""What several tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raydet.families.classification.config import ClassificationConfig
from raydet.families.detection.config import DetectionConfig
from raydet.families.localization.config import LocalizationConfig
from raydet.families.pretraining.config import PretrainingConfig
from raydet.settings import resolve
from raydet.vision.geometry import View


def data_folder(name: str) -> Path:
    """Return a real data set's folder, or skip the calling test where it is not there."""
    root = Path(os.environ.get("RAYDET_DATA", Path(__file__).parents[2] / "shared" / "data"))
    folder = root / name
    if not folder.is_dir():
        pytest.skip(f"real data set {name!r} is not at {folder}; set RAYDET_DATA to the folder that holds it")
    return folder


def scaled(view: View, x: float, y: float) -> View:
    """Return a view followed by a scaling about the centre of its frame, which stays; above 1 enlarges."""
    left, top = (1 - x) * view.width / 2, (1 - y) * view.height / 2
    return view.then(View((x, 0.0, left, 0.0, y, top), view.height, view.width))


TINY = {
    "seed": 3,
    "data": {
        "labeled": {"path": "shapes", "shapes": {"num_images": 24, "height": 64, "width": 96, "max_objects": 3}},
        "labeled_count": 10,
        "val": {"path": "shapes", "shapes": {"num_images": 6, "seed": 1, "height": 64, "width": 96, "max_objects": 3}},
        "views": {"short_side": [64], "max_long_side": 96, "eval_short_side": 64},
        "loader_threads": 0,
    },
    "model": {
        "backbone": "small_gn",
        "small_channels": [8, 8, 16, 16, 16],
        "fpn_channels": 16,
        "box_head_dim": 32,
        "anchor_sizes": [[12], [24], [48]],
        "rpn_batch": 32,
        "rpn_pre_nms_train": 60,
        "rpn_pre_nms_test": 60,
        "rpn_post_nms_train": 40,
        "rpn_post_nms_test": 40,
        "roi_batch": 16,
        "roi_sampling_ratio": 2,
    },
    # A model of a few steps is sure of nothing: a low threshold lets pseudo-boxes through all the same.
    "method": {
        "name": "il_net",
        "burn_in_steps": 3,
        "ema_keep_rate": 0.5,
        "score_threshold": 0.16,
        "iou_filter_threshold": 0.2,
        "iou_branch": {"hidden": 16},
    },
    "optim": {
        "name": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.01,
        "warmup_steps": 0,
        "steps": 8,
        "labeled_batch": 4,
        "unlabeled_batch": 4,
        "precision": "fp32",
    },
    "checkpoint": {"every": 100},
    "eval": {"every": 100, "engine": "pycocotools"},
    "log": {"every": 1, "tensorboard": False},
}


# Soft Teacher has views of its own, and so low thresholds that a model of a few steps has boxes on both sides of each.
SOFT_VIEWS = {"max_long_side": 96, "eval_short_side": 64}
TINY_SOFT = {
    "name": "soft_teacher",
    "pseudo_score_floor": 0.17,
    "cls_pseudo_threshold": 0.19,
    "rpn_pseudo_threshold": 0.21,
    "box_spread_threshold": 0.05,
    "views": {"short_side": [52, 72]},
}


def tiny_soft(run_dir: Path, *, method: dict[str, object] | None = None, **overrides: object) -> DetectionConfig:
    """Return a run on Soft Teacher; `method` changes its settings, see `tiny_config`."""
    settings = {**TINY_SOFT, **(method or {})}
    return tiny_config(run_dir, **{"data__views": SOFT_VIEWS, **overrides}, method=settings)


def tiny_config(run_dir: Path, **overrides: object) -> DetectionConfig:
    """Return a run that trains for a few steps in about a second; overrides by dotted key with `__` for the dots."""
    dotted = {"run.dir": str(run_dir), **{key.replace("__", "."): value for key, value in overrides.items()}}
    config = resolve(TINY, dotted, where="tiny_config")
    assert isinstance(config, DetectionConfig)
    return config


# Stages of R2-D2 in steps done: 0 supervised, 4 D2, 10 and 13 repredictions, 16 fine-tuning, 20 the end.
TINY_CLASSES = {
    "seed": 3,
    "data": {
        "labeled": {"path": "patterns", "patterns": {"num_images": 54, "size": 16, "num_classes": 3}},
        "labeled_per_class": 4,  # 42 are left: an epoch of 3 steps in stage 2
        "val": {"path": "patterns", "patterns": {"num_images": 12, "seed": 1, "size": 16, "num_classes": 3}},
        "views": {"size": 16, "max_translate": 2, "cutout_size": 6},
        "loader_threads": 0,
    },
    "model": {"network": "small_conv", "norm": "group", "channels": [4, 8, 8, 8]},
    "method": {
        "name": "r2d2",
        "burn_in_steps": 4,
        "burn_in_batch": 8,
        "d2_steps": 6,
        "reprediction_interval_steps": 3,
        "repeat_lrs": [0.05, 0.02],
        "finetune_steps": 4,
        "finetune_batch": 16,
        "label_step_override": 0.78125,
    },
    "optim": {
        "lr": 0.05,
        "nesterov": True,
        "warmup_steps": 0,
        "steps": 20,
        "labeled_batch": 4,
        "unlabeled_batch": 12,
        "precision": "fp32",
    },
    "checkpoint": {"every": 100},
    "eval": {"every": 100},
    "log": {"every": 1, "tensorboard": False},
}


def tiny_classes(run_dir: Path, **overrides: object) -> ClassificationConfig:
    """Return a run of a classifier that takes a second, by R2-D2; `method` may be another one; see `tiny_config`."""
    tree = {**TINY_CLASSES, "method": overrides.pop("method", TINY_CLASSES["method"])}
    dotted = {"run.dir": str(run_dir), **{key.replace("__", "."): value for key, value in overrides.items()}}
    config = resolve(tree, dotted, where="tiny_classes")
    assert isinstance(config, ClassificationConfig)
    return config


# Initialisation until 4, refinement until 8.
TINY_PLACES = {
    "seed": 3,
    "data": {
        "labeled": {"path": "shapes", "shapes": {"num_images": 24, "height": 48, "width": 64, "max_objects": 1}},
        "val": {"path": "shapes", "shapes": {"num_images": 8, "seed": 1, "height": 48, "width": 64, "max_objects": 1}},
        "views": {"resize": 40, "size": 32},
        "loader_threads": 0,
    },
    "model": {
        "classifier_backbone": "small",
        "localizer_backbone": "small",
        "channels": [8, 8, 16, 16],
        "num_attention_maps": 4,
        "cam_channels": 8,
        "hidden": 16,
    },
    "method": {"name": "lchp", "burn_in_steps": 4, "crop_confidence_threshold": 0.2, "classifier_decay_steps": 3},
    "optim": {"lr": 0.002, "steps": 8, "labeled_batch": 6, "precision": "fp32"},
    "checkpoint": {"every": 100},
    "eval": {"every": 100},
    "log": {"every": 1, "tensorboard": False},
}


def tiny_places(run_dir: Path, **overrides: object) -> LocalizationConfig:
    """Return a run of a localizer that takes a second, by LCHP; `method` may be another one; see `tiny_config`."""
    tree = {**TINY_PLACES, "method": overrides.pop("method", TINY_PLACES["method"])}
    dotted = {"run.dir": str(run_dir), **{key.replace("__", "."): value for key, value in overrides.items()}}
    config = resolve(tree, dotted, where="tiny_places")
    assert isinstance(config, LocalizationConfig)
    return config


TINY_VIEWS = {
    "seed": 3,
    "data": {
        "images": {"path": "shapes", "shapes": {"num_images": 12, "height": 64, "width": 80, "max_objects": 3}},
        "val": {"path": "shapes", "shapes": {"num_images": 4, "seed": 1, "height": 64, "width": 80, "max_objects": 3}},
        "proposals": "grid",
        "views": {"size": 64, "small_size": 32},
        "loader_threads": 0,
    },
    "model": {
        "backbone": "small_gn",
        "small_channels": [8, 8, 16, 16, 16],
        "fpn_channels": 16,
        "box_head_dim": 32,
        "anchor_sizes": [[12], [24], [48]],
        "level_bounds": [16, 32],
        "rpn_batch": 32,
        "roi_pool_size": 3,
        "projector_hidden": 32,
        "projector_dim": 16,
    },
    "method": {"name": "adept"},
    "optim": {"name": "sgd", "lr": 0.05, "steps": 6, "warmup_steps": 0, "labeled_batch": 4, "precision": "fp32"},
    "checkpoint": {"every": 100},
    "eval": {"every": 100},
    "log": {"every": 1, "tensorboard": False},
}


def tiny_views(run_dir: Path, **overrides: object) -> PretrainingConfig:
    """Return a pre-training run that takes a second, by ADePT; `method` may be another one; see `tiny_config`."""
    tree = {**TINY_VIEWS, "method": overrides.pop("method", TINY_VIEWS["method"])}
    dotted = {"run.dir": str(run_dir), **{key.replace("__", "."): value for key, value in overrides.items()}}
    config = resolve(tree, dotted, where="tiny_views")
    assert isinstance(config, PretrainingConfig)
    return config
