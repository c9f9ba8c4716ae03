"""torchvision's own supervised step, what `gpu.py` puts beside raydet's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from raydet.data.boxes.synthetic import CLASS_NAMES
from raydet.families.detection.batch import StudentBatch

LIKE_RAYDET = {"rpn_post_nms_top_n_train": 1000}  # and detectron2's; torchvision's is 2000
FEW = {"rpn_pre_nms_top_n_train": 60, "rpn_post_nms_top_n_train": 40, "box_batch_size_per_image": 16}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


class Supervised:
    """fasterrcnn_resnet50_fpn as a straight loop on the views of a batch of generated shapes; a call is a step."""

    def __init__(self, batch: StudentBatch, precision: str, device: torch.device, *, is_tiny: bool = False) -> None:
        self.device, self.dtype = device, DTYPES[precision]
        self.images = [(view.pixels.float() / 255).to(device) for view in batch.views]
        self.targets = [
            {"boxes": target.boxes.to(device), "labels": (target.classes + 1).to(device)} for target in batch.targets
        ]
        self.model = fasterrcnn_resnet50_fpn(self.images[0].shape[1:], **(FEW if is_tiny else LIKE_RAYDET)).to(device)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=1e-9, momentum=0.9, weight_decay=1e-4)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def __call__(self) -> None:
        self.scaler.scale(self._loss()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def network(self) -> None:
        """Forward and backward alone."""
        self._loss().backward()
        self.optimizer.zero_grad(set_to_none=True)

    def _loss(self) -> Tensor:
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            losses = self.model(self.images, self.targets)
        return sum(losses.values(), start=torch.zeros((), device=self.device))


def fasterrcnn_resnet50_fpn(size: Sequence[int], **numbers: int) -> FasterRCNN:
    """Return what torchvision's function of this name builds for ImageNet weights, with random ones.

    That one, without weights, trains batch norms and all stages. Images of `size` (height, width) stay as they are.
    """
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    for block in backbone.modules():
        if isinstance(block, Bottleneck):
            nn.init.zeros_(block.bn3.weight)  # under frozen norms maps would grow until losses are not finite
    return FasterRCNN(
        backbone, num_classes=len(CLASS_NAMES) + 1, min_size=min(size), max_size=max(size), **numbers
    ).train()
