"""EfficientNet-Lite0 as a classifier's network, which can start from weights trained on ImageNet."""

from __future__ import annotations

from torch import Generator, Tensor, nn

from raydet.vision.efficientnet_lite import WIDTH, EfficientNetLite0, without_classifier
from raydet.vision.weights import COUNTER, load_tensors


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 up to its last layer; `body` has the published file's names."""

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.body = EfficientNetLite0(has_head=True)

    def forward(self, x: Tensor, rng: Generator | None) -> Tensor:
        """Return features `[B, 1280]` of pixels `[B, 3, S, S]`; draws nothing."""
        return self.body.features(x)

    def load(self, tensors: dict[str, Tensor], last: nn.Linear, where: str) -> None:
        """Take published weights; `last` takes those of the file's last layer if the classes are as many.

        Raises CheckpointError, which names `where` they come from, unless they fit.
        """
        counters = {name: value for name, value in self.body.state_dict().items() if name.endswith(COUNTER)}
        own = {**counters, **without_classifier(tensors)}
        load_tensors(self.body, own, f"model.weights: the tensors of {where} (efficientnet_lite0)")
        fc = {name.removeprefix("_fc."): value for name, value in tensors.items() if name.startswith("_fc.")}
        if "weight" in fc and fc["weight"].shape[:1] == (last.out_features,):
            load_tensors(last, fc, f"model.weights: the last layer (_fc) of {where} (efficientnet_lite0)")
