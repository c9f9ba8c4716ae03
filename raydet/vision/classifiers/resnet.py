"""torchvision's ResNet-18, which can start from weights trained on ImageNet."""

from __future__ import annotations

from pathlib import Path

import torchvision.models as tv
from torch import Generator, Tensor, nn

from raydet.vision.weights import load_tensors, read_tensors

COUNTER = "num_batches_tracked"  # of batch norm; older files of weights have none


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

    def load(self, path: Path, last: nn.Linear) -> None:
        """Take the weights of a ResNet-18 from a local file; `last` takes those of its `fc` if the classes are as many.

        Raises CheckpointError where the file is missing, is neither safetensors nor plain tensors, or does not fit.
        """
        tensors = read_tensors(path)
        fc = {name.removeprefix("fc."): tensors.pop(name) for name in list(tensors) if name.startswith("fc.")}
        counters = {name: value for name, value in self.body.state_dict().items() if name.endswith(COUNTER)}
        load_tensors(self.body, {**counters, **tensors}, f"model.weights: the tensors of {path} (resnet18)")
        if "weight" in fc and fc["weight"].shape[:1] == (last.out_features,):
            load_tensors(last, fc, f"model.weights: the last layer (fc) of {path} (resnet18)")
