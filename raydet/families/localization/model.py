"""The networks of localisation: classifiers whose maps show where they look, and a localizer that says one box."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydet.config.localizer import SMALL, LocalizerConfig
from raydet.families.localization.trunks import Trunk, build_trunk, start_from
from raydet.vision.classifiers.layers import Norm, initialise, norm
from raydet.vision.device import to_device

NORM_EPS = 1e-3  # of the norm behind the attention convolution (WS-DAN)
SMALLEST = 1e-12  # added under the signed square root
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a classifier says of B images."""

    logits: Tensor  # [B, N] float32, also under autocast
    maps: Tensor  # [B, M, h, w]
    features: Tensor  # [B, C, h, w] of the trunk


class BapClassifier(nn.Module):
    """Bilinear attention pooling (Hu et al., WS-DAN): every attention map weighs every channel of the trunk."""

    def __init__(self, trunk: Trunk, num_maps: int, num_classes: int, *, scale: float, kind: Norm) -> None:
        super().__init__()
        self.trunk = trunk
        behind = norm(kind, num_maps)
        if isinstance(behind, nn.BatchNorm2d | nn.GroupNorm):
            behind.eps = NORM_EPS
        self.attention = nn.Sequential(nn.Conv2d(trunk.width, num_maps, 1, bias=False), behind, nn.ReLU())
        initialise(self.attention)
        self.scale = scale
        self.last = nn.Linear(num_maps * trunk.width, num_classes, bias=False)

    def look(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return attention maps `[B, M, h, w]` and the trunk's features `[B, C, h, w]` of pixels in [0, 1]."""
        features = self.trunk(pixels)
        return self.attention(features), features

    def forward(self, pixels: Tensor) -> Seen:
        """Classify `pixels` `[B, 3, S, S]` in [0, 1]."""
        maps, features = self.look(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            pooled = bilinear_attention(maps.float(), features.float())
            logits = self.last(signed_root(pooled) * self.scale)
        return Seen(logits, maps, features)


class CamClassifier(nn.Module):
    """A 3 x 3 convolution, an average over the image, a linear layer (Zhou et al.): its maps add up to its logits."""

    def __init__(self, trunk: Trunk, channels: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.conv = nn.Sequential(nn.Conv2d(trunk.width, channels, 3, padding=1), nn.ReLU())
        initialise(self.conv)
        self.last = nn.Linear(channels, num_classes)

    def forward(self, pixels: Tensor) -> Seen:
        """Classify `pixels` `[B, 3, S, S]` in [0, 1]; the maps are those of the convolution."""
        features = self.trunk(pixels)
        maps = self.conv(features)
        with torch.autocast(pixels.device.type, enabled=False):
            return Seen(self.last(maps.float().mean(dim=(2, 3))), maps, features)

    def activation(self, seen: Seen, classes: Tensor) -> Tensor:
        """Return the class activation map `[B, h, w]` of one class `[B]` per image: what its logit is the mean of."""
        return torch.einsum("bk,bkhw->bhw", self.last.weight[classes], seen.maps.float())


class Localizer(nn.Module):
    """One box per image (PSOL): the trunk's mean, a hidden layer, four numbers in (0, 1)."""

    def __init__(self, trunk: Trunk, hidden: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.hidden = nn.Linear(trunk.width, hidden)
        self.last = nn.Linear(hidden, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the encoded box `[B, 4]` float32 of each of `pixels` `[B, 3, S, S]` in [0, 1]."""
        features = self.trunk(pixels).float().mean(dim=(2, 3))
        with torch.autocast(pixels.device.type, enabled=False):
            said: Tensor = torch.sigmoid(self.last(F.relu(self.hidden(features))))
        return said


class LocalizationModel(nn.Module):
    """All networks of a run. The copies follow the networks that are trained; they have no gradients, and stay in
    evaluation mode."""

    def __init__(
        self,
        classifier: BapClassifier | CamClassifier,
        localizer: Localizer | None,
        *,
        momentum_classifier: bool = False,
        target_localizer: bool = False,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.localizer = localizer
        self.pseudo_classifier = _copy(classifier) if momentum_classifier else None
        self.target_localizer = _copy(localizer) if target_localizer and localizer is not None else None

    def train(self, mode: bool = True) -> LocalizationModel:
        """Set the mode of what is trained."""
        super().train(mode)
        for follower in (self.pseudo_classifier, self.target_localizer):
            if follower is not None:
                follower.eval()
        return self

    def exported(self) -> dict[str, Tensor]:
        """Return the weights of classifier and localizer. The copies are for training alone, but for a classifier's
        average where no localizer is there: its maps make the boxes then."""
        followers = ("target_localizer.",) if self.localizer is None else ("pseudo_classifier.", "target_localizer.")
        return {name: value for name, value in self.state_dict().items() if not name.startswith(followers)}


def bap_classifier(config: LocalizerConfig, num_classes: int) -> BapClassifier:
    """Return LCHP's classifier, InceptionV3-BAP by default. Raises CheckpointError where weights cannot be used."""
    kind: Norm = "group" if config.classifier_backbone == SMALL else "batch"
    trunk = _classifier_trunk(config)
    return BapClassifier(trunk, config.num_attention_maps, num_classes, scale=config.bap_scale, kind=kind)


def cam_classifier(config: LocalizerConfig, num_classes: int) -> CamClassifier:
    """Return the classifier of `cam` and `psol`. Raises CheckpointError where weights cannot be used."""
    return CamClassifier(_classifier_trunk(config), config.cam_channels, num_classes)


def build_localizer(config: LocalizerConfig) -> Localizer:
    """Return a localizer. Raises CheckpointError where weights cannot be used."""
    trunk = build_trunk(config.localizer_backbone, config.channels, whole=True)
    start_from(trunk, config.localizer_backbone, config.weights_of("localizer"), _key(config, "localizer"))
    return Localizer(trunk, config.hidden)


def _classifier_trunk(config: LocalizerConfig) -> Trunk:
    trunk = build_trunk(config.classifier_backbone, config.channels, whole=False)
    return start_from(trunk, config.classifier_backbone, config.weights_of("classifier"), _key(config, "classifier"))


def _key(config: LocalizerConfig, network: str) -> str:
    own = f"{network}_weights"
    return f"model.{own}" if getattr(config, own) is not None else "model.weights"


def _copy(network: Network) -> Network:
    return copy.deepcopy(network).eval().requires_grad_(False)


def bilinear_attention(maps: Tensor, features: Tensor) -> Tensor:
    """Return the mean of A_m F_c over the image, `[B, M * C]`, for maps `[B, M, h, w]` and features `[B, C, h, w]`."""
    cells = maps.shape[-1] * maps.shape[-2]
    return (torch.einsum("bmhw,bchw->bmc", maps, features) / cells).flatten(1)


def signed_root(pooled: Tensor) -> Tensor:
    """Return `sign(x) sqrt(|x| + 1e-12)` of rows `[B, F]`, each divided by its length."""
    rooted = pooled.sign() * (pooled.abs() + SMALLEST).sqrt()
    return F.normalize(rooted, dim=1)


def shares(pixels: Tensor, device: torch.device) -> Tensor:
    """Return `pixels` uint8 as float32 in [0, 1] on a device: what all networks here take."""
    assert pixels.dtype == torch.uint8, f"images are uint8, got {pixels.dtype}"
    return to_device(pixels, device).float() / 255
