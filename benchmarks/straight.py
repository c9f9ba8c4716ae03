"""A semi-supervised step with ResNet-50 beside the loop that one would write on torchvision alone: CPU time and memory.

    python benchmarks/straight.py
    python benchmarks/straight.py --repeats 3 --rounds 4

Unbiased Teacher, frozen norms, pictures of 320 x 320 pixels, 2 labelled (each as strong and as weak view) and 2
unlabelled ones a step: 6 student and 2 teacher forwards, forward and backward, SGD, EMA. One thread, each variant in
processes of its own, in turn; CPU seconds per step, and the most memory that the process ever had.

  straight   torchvision's FasterRCNN twice, its own losses and samplers, PyTorch's defaults
  fp32       raydet's loop, labels inline
  bf16       the same with `optim.precision: bf16`

Weights are random, with small residual branches: as large as torchvision starts them, frozen norms let maps grow until
losses saturate, and gradients that are denormal numbers slow the straight loop down tenfold.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torchvision
from common import NEVER, SteppedTrainer, machine, spread
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.transforms import v2

from raydet.cluster.process import set_up_process
from raydet.data.decode import decode
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import BOXES
from raydet.settings import resolve
from raydet.train.rundir import RunFolder

SIDE, CLASSES, THRESHOLD, KEEP = 320, 6, 0.7, 0.9996
VARIANTS = ("straight", "fp32", "bf16")
SHAPES = {"path": "shapes", "shapes": {"num_images": 40, "height": SIDE, "width": SIDE}}
STRONG = v2.Compose(
    [
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(9, (0.1, 2.0))], p=0.5),
        v2.RandomErasing(0.7, (0.05, 0.2)),
        v2.RandomErasing(0.5, (0.02, 0.2)),
        v2.RandomErasing(0.3, (0.02, 0.2)),
    ]
)


def body_weights(folder: Path) -> Path:
    """Write weights of a ResNet-50 that frozen norms can bear; the same every time."""
    torch.manual_seed(0)
    body = torchvision.models.resnet50(weights=None)
    for module in body.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            nn.init.constant_(module.bn3.weight, 0.2)
    file = folder / "resnet50.pth"
    torch.save(body.state_dict(), file)
    return file


def config_of(folder: Path, precision: str) -> DetectionConfig:
    """Return raydet's run."""
    tree = {
        "run": {"dir": str(folder / "run")},
        "data": {
            "labeled": SHAPES,
            "labeled_count": 20,
            "views": {"short_side": [SIDE], "max_long_side": SIDE, "eval_short_side": SIDE},
            "loader_threads": 0,
        },
        "model": {"backbone": "resnet50_fpn", "weights": str(body_weights(folder)), "trainable_stages": 3},
        "method": {"name": "unbiased_teacher", "burn_in_steps": 0, "score_threshold": THRESHOLD, "ema_keep_rate": KEEP},
        "optim": {
            "labeled_batch": 2,
            "unlabeled_batch": 2,
            "steps": NEVER,
            "lr": 1e-3,
            "clip_norm": 10.0,
            "precision": precision,
        },
        "eval": {"every": NEVER},
        "checkpoint": {"every": NEVER},
    }
    config = resolve(tree, {})
    assert isinstance(config, DetectionConfig)
    return config


class Straight:
    """Unbiased Teacher on torchvision, without anything of raydet's but the pictures and who is in which set."""

    def __init__(self, folder: Path) -> None:
        config = config_of(folder, "fp32")
        self.data = BOXES.prepare(config.data, RunFolder(config.run.dir).data)
        file = body_weights(folder)
        self.student, self.teacher = self._model(file).train(), self._model(file).eval()
        self.teacher.load_state_dict(self.student.state_dict())
        trained = [p for p in self.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9, weight_decay=1e-4)
        self.step = 0

    def _model(self, file: Path) -> FasterRCNN:
        # torchvision's `fasterrcnn_resnet50_fpn` freezes norms of its own weights alone, and passes over `norm_layer`.
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
        model = FasterRCNN(
            backbone, num_classes=CLASSES + 1, min_size=SIDE, max_size=SIDE, rpn_post_nms_top_n_train=1000
        )
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        tensors = torch.load(file, weights_only=True)
        model.backbone.body.load_state_dict(tensors, strict=False)
        for name, parameter in model.backbone.body.named_parameters():
            parameter.requires_grad_(name.startswith(("layer2", "layer3", "layer4")))
        return model

    def __call__(self) -> None:
        pictures, targets = [], []
        for i in ((2 * self.step) % 20, (2 * self.step + 1) % 20):
            truth = self.data.labeled.target_at(i)
            target = {"boxes": truth.boxes, "labels": truth.classes + 1}
            weak = self._weak(self.data.labeled.file_at(i), target)
            pictures += [STRONG(weak), weak]
            targets += [target, target]
        unlabeled = [self._weak(self.data.unlabeled.file_at((2 * self.step + k) % 20), None) for k in range(2)]
        with torch.no_grad():
            said = self.teacher(unlabeled)
        for picture, each in zip(unlabeled, said, strict=True):
            sure = each["scores"] > THRESHOLD
            pictures.append(STRONG(picture))
            targets.append({"boxes": each["boxes"][sure], "labels": each["labels"][sure]})
        losses = self.student(pictures, targets)
        loss = sum(losses.values())
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 10.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                old.mul_(KEEP).add_(new, alpha=1 - KEEP)
        self.step += 1

    def _weak(self, file: Path, target: dict[str, Tensor] | None) -> Tensor:
        pixels = decode(file).float() / 255
        if torch.rand(()) < 0.5:
            pixels = pixels.flip(-1)
            if target is not None:
                x1, y1, x2, y2 = target["boxes"].unbind(1)
                target["boxes"] = torch.stack([SIDE - x2, y1, SIDE - x1, y2], dim=1)
        return pixels


def measure(variant: str, rounds: int, warm_up: int) -> dict[str, object]:
    """Return CPU seconds of each step, and the peak of memory in GB, of this process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        if variant == "straight":
            torch.set_num_threads(1)
            step = Straight(folder)
        else:
            set_up_process(1)
            step = SteppedTrainer(config_of(folder, variant))
        seconds = []
        for number in range(warm_up + rounds):
            start = time.process_time()
            step()
            if number >= warm_up:
                seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": seconds, "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2, help="processes per variant")
    parser.add_argument("--rounds", type=int, default=4, help="steps that count, per process")
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.rounds, options.warm_up)), flush=True)
        os._exit(0)  # the loop's thread waits for a next step
    print(machine(), flush=True)
    found: dict[str, list[dict[str, list[float]]]] = {variant: [] for variant in VARIANTS}
    for _ in range(options.repeats):
        for variant in VARIANTS:
            command = [sys.executable, *sys.argv, "--child", variant]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[variant].append(json.loads(output.splitlines()[-1]))
    base = statistics.median(s for each in found["straight"] for s in each["seconds"])
    print("\n| variant | CPU s per step: median (quartiles) | ratio of medians | peak memory, GB |\n|---|---|---|---|")
    for variant, runs in found.items():
        seconds = [s for each in runs for s in each["seconds"]]
        peak = max(float(each["peak"]) for each in runs)  # type: ignore[arg-type]
        print(f"| {variant} | {spread(seconds, digits=2)} | {statistics.median(seconds) / base:.2f} | {peak:.2f} |")


if __name__ == "__main__":
    main()
