"""Backbones by name: which there are, which strides their pyramids have by default, and what `weights` may say.

No torch here, and no timm: a configuration can be read where neither is installed.
"""

from __future__ import annotations

import difflib
from pathlib import Path

IMAGENET = "imagenet"
NONE = "none"
RESNETS = ("resnet18_fpn", "resnet50_fpn", "resnet101_fpn")
EFFICIENTNET = "efficientnet_lite0_fpn"
SMALL = "small_gn"
TIMM = "timm/"
STRIDES = (4, 8, 16, 32, 64)
"""What a pyramid may have; 64 is made of stride 32 by pooling, for the region proposals only."""
OCTAVES = (16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
HOW_TO_CHOOSE = (
    "write `weights: imagenet` (published weights, downloaded once), `weights: FILE` (a local file of them), or "
    "`weights: none` to train from scratch, which takes many more images and steps"
)

AnchorSizes = tuple[tuple[float, ...], ...]


def check_backbone(name: str) -> str:
    """Return the name. Raises ValueError, with those that there are, for another one."""
    known = (EFFICIENTNET, *RESNETS, SMALL)
    if name in known or (name.startswith(TIMM) and name != TIMM):
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"there is no {name!r}, but {', '.join(known)}, and timm/NAME for a network of timm{hint}")


def default_strides(backbone: str) -> tuple[int, ...]:
    """Return the strides of a backbone's pyramid, finest first."""
    return (8, 16, 32) if backbone in (SMALL, EFFICIENTNET) else STRIDES


def check_strides(backbone: str, strides: tuple[int, ...]) -> None:
    """Raise ValueError unless a pyramid can have these strides."""
    if backbone == SMALL and strides != default_strides(SMALL):
        raise ValueError(f"backbone {SMALL} has strides {list(default_strides(SMALL))}: remove `fpn_strides`")
    if any(stride not in STRIDES for stride in strides) or list(strides) != sorted(set(strides)):
        raise ValueError(f"fpn_strides is {list(strides)}: give some of {list(STRIDES)}, finest first")
    if any(b != 2 * a for a, b in zip(strides, strides[1:], strict=False)):
        raise ValueError(f"fpn_strides is {list(strides)}: each must be twice the one before it, with no gap")
    if strides == (64,):
        raise ValueError("fpn_strides is [64], which only region proposals are made of: add 32")


def default_anchors(strides: tuple[int, ...]) -> AnchorSizes:
    """Return anchor sizes (pixels) per level: from four levels on one each, of 8 strides; fewer share 16 to 512 out."""
    if len(strides) >= 4:
        return tuple((8.0 * stride,) for stride in strides)
    each = len(OCTAVES) // len(strides)
    return tuple(OCTAVES[level * each : (level + 1) * each] for level in range(len(strides)))


def weights_path(weights: str | None) -> Path | None:
    """Return the local file that `model.weights` names; None where it names none."""
    return None if weights in (None, IMAGENET, NONE) else Path(str(weights))
