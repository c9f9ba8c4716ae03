"""torchvision's ResNet-18, which can start from weights trained on ImageNet."""

from __future__ import annotations

import torchvision.models as tv
from torch import Generator, Tensor, nn

from raydet.vision.weights import COUNTER, load_tensors


class ResNet18(nn.Module):
    """ResNet-18 up to its last layer; `body` has torchvision's parameter names and initial weights."""

    width = 512

    def __init__(self) -> None:
        super().__init__()
        self.body = tv.resnet18(weights=None)
        self.body.fc = nn.Identity()

    def forward(self, x: Tensor, rng: Generator | None) -> Tensor:
        """Return features `[B, 512]` of pixels `[B, 3, S, S]`; draws nothing."""
        features: Tensor = self.body(x)
        return features

    def load(self, tensors: dict[str, Tensor], last: nn.Linear, where: str) -> None:
        """Take the weights of a ResNet-18; `last` takes those of its `fc` if the classes are as many.

        Raises CheckpointError, which names `where` they come from, unless they fit.
        """
        own = {name: value for name, value in tensors.items() if not name.startswith("fc.")}
        fc = {name.removeprefix("fc."): value for name, value in tensors.items() if name.startswith("fc.")}
        counters = {name: value for name, value in self.body.state_dict().items() if name.endswith(COUNTER)}
        load_tensors(self.body, {**counters, **own}, f"model.weights: the tensors of {where} (resnet18)")
        if "weight" in fc and fc["weight"].shape[:1] == (last.out_features,):
            load_tensors(last, fc, f"model.weights: the last layer (fc) of {where} (resnet18)")
