"""What gradient-based sampling's statistics cost: each part alone, and all of them inside real steps.

    python benchmarks/long_tail_cost.py --parts        # matrix, weights, solvers, listings, at the paper's batch
    python benchmarks/long_tail_cost.py --step --backbone resnet50_fpn --classes 1203
    python benchmarks/long_tail_cost.py --step --backbone efficientnet_lite0_fpn --classes 80
    python benchmarks/long_tail_cost.py --rebuild 100000   # one rebuild of a listing, with its labels read from a store

A real step is raydet's own, 1 labelled and 4 unlabelled images as each of the paper's GPUs has them, on generated
images of COCO's size and with the views of Soft Teacher; weights are random, which takes the same time. CPU seconds,
one thread, no threads beside it. The batch is an eighth of the paper's: what does not grow with it weighs more here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import NEVER, Clock, SteppedTrainer, machine
from sections import Sections
from torchvision.io import write_jpeg

from raydet.data.order import RepeatedOrder
from raydet.families.detection.gradient_balance import (
    Bounds,
    class_thresholds,
    direct_weights,
    gradient_matrix,
    jacobi_targets,
    met,
    softmax_weights,
    stationary_weights,
)
from raydet.families.detection.methods.gradient_sampling import GradientSampling
from raydet.families.detection.repeats import (
    class_factors,
    class_frequencies,
    crs_image_factor,
    images_per_class,
    sure_boxes,
)
from raydet.labels.convert import to_table
from raydet.labels.recall import recall
from raydet.labels.store import PseudoLabelStore
from raydet.records import PseudoBoxes, TeacherRef
from raydet.settings import resolve
from raydet.train.loop import Trainer
from raydet.train.step import StepModule

PAPER_ROIS = 40 * 512
IMAGES, HEIGHT, WIDTH, BOXES = 24, 480, 640, 7  # COCO's size, and its boxes per image
PARTS = (
    (GradientSampling, "_sums", "gradients and sums"),
    (GradientSampling, "weights_at", "weights, thresholds, the average, Jacobi step"),
    (GradientSampling, "thresholds_at", "weights, thresholds, the average, Jacobi step"),
    (GradientSampling, "update", "weights, thresholds, the average, Jacobi step"),
    (GradientSampling, "rebuild", "listing"),
    (StepModule, "forward", "student forward"),
    (torch.Tensor, "backward", "backward"),
    (GradientSampling, "annotate", "teacher's labels"),
    (Trainer, "optimizer_step", "optimiser"),
)


def parts() -> str:
    """Return a Markdown table of what the parts take alone, in CPU milliseconds."""
    lines = ["| classes | RoIs | what | CPU ms |", "|---|---|---|---|"]
    for classes, rois in ((31, 12 * 64), (80, PAPER_ROIS), (1203, PAPER_ROIS)):
        draw = torch.Generator().manual_seed(0)
        logits = torch.randn(rois, classes + 1, generator=draw)
        there = torch.randperm(classes, generator=draw)[: min(classes, 100)] + 1  # a step's images hold so many classes
        own = there[torch.randint(len(there), (rois,), generator=draw)]
        labels = torch.where(torch.rand(rois, generator=draw) < 0.8, 0, own)
        matrix = gradient_matrix(logits, torch.arange(rois) % (classes + 1), 1.0)
        weights = torch.ones(classes + 1)
        scores = np.random.default_rng(0).random(10_000)
        factors = class_factors(np.full(classes, 0.01), 0.5)
        numbers = np.arange(10_000) % classes
        found: dict[str, Callable[[], Any]] = {
            "loss of the RoI classes itself, with its gradient": lambda x=logits, y=labels: _loss(x, y),
            "gradients of the classes": lambda x=logits, y=labels: gradient_matrix(x, y, 1.0),
            "average, Jacobi step, weights, thresholds": lambda c=matrix, w=weights: _balance(c, w),
            "direct solution (every 100 steps)": lambda c=matrix: direct_weights(c),
            "stationary solution (every 100 steps)": lambda c=matrix: stationary_weights(c),
            "listing, 10,000 boxes (every rebuild)": lambda k=numbers, s=scores, f=factors: [
                crs_image_factor(k[i : i + 1], s[i : i + 1], f) for i in range(len(k))
            ],
        }
        lines += [f"| {classes} | {rois:,} | {name} | {1e3 * _median(part):.2f} |" for name, part in found.items()]
    return "\n".join(lines)


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> None:
    logits = logits.clone().requires_grad_()
    torch.nn.functional.cross_entropy(logits, labels).backward()


def _balance(matrix: torch.Tensor, weights: torch.Tensor) -> None:
    kept = 0.999 * matrix + 0.001 * matrix
    jacobi_targets(kept, weights, Bounds())
    class_thresholds(0.9, 0.5, softmax_weights(weights.log(), met(kept))[1:], weights[1:])


def _median(part: Callable[[], Any], seconds: float = 2.0) -> float:
    part()
    times: list[float] = []
    while sum(times) < seconds and len(times) < 50 or len(times) < 3:
        begun = time.process_time()
        part()
        times.append(time.process_time() - begun)
    return statistics.median(times)


def generated(folder: Path, classes: int) -> Path:
    """Write images of noise with boxes of all classes in turn, as COCO JSON, and return that."""
    file = folder / f"{classes}.json"
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    images, boxes = [], []
    for i in range(IMAGES):
        pixels = np.repeat(np.repeat(draw.integers(0, 256, (3, HEIGHT // 20, WIDTH // 20)), 20, 1), 20, 2)
        write_jpeg(torch.from_numpy(pixels.astype(np.uint8)), str(folder / f"{i}.jpg"))
        images.append({"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH})
        for _ in range(BOXES):
            number, (x, y) = len(boxes), draw.integers(0, [WIDTH - 200, HEIGHT - 200])
            box = [int(x), int(y), 150, 120]
            kind = number % classes + 1
            boxes.append(
                {"id": number + 1, "image_id": i, "category_id": kind, "bbox": box, "area": 18000, "iscrowd": 0}
            )
    kinds = [{"id": i + 1, "name": f"class {i:04d}"} for i in range(classes)]
    file.write_text(json.dumps({"images": images, "annotations": boxes, "categories": kinds}))
    return file


def real_steps(backbone: str, classes: int, steps: int, out: Path) -> str:
    """Return a Markdown table: where the CPU time of real steps goes; the last of them lists images anew."""
    tree = {
        "run": {"dir": str(out / f"{backbone}-{classes}")},
        "data": {"labeled": str(generated(out / "images", classes)), "labeled_count": 8, "loader_threads": 0},
        "model": {"backbone": backbone, "weights": "none"},
        "method": {
            "name": "gradient_sampling",
            **{f"{part}_warmup_steps": 0 for part in ("gbr", "gbt", "crs")},
            "crs_rebuild_steps": steps,
        },
        "optim": {"name": "sgd", "lr": 1e-5, "steps": NEVER, "labeled_batch": 1, "unlabeled_batch": 4},
        "labels": {"source": "inline", "lookahead": 0, "publish_every": 1},
        "cluster": {"backend": "process", "cpus_per_worker": 1},
        "checkpoint": {"every": NEVER},
        "eval": {"every": NEVER},
    }
    step = SteppedTrainer(resolve(tree, {}))
    sections, whole = Sections(), []
    for place in PARTS:
        sections.watch(*place)
    for _ in range(steps + 1):
        begun = time.process_time()
        step()
        whole.append(time.process_time() - begun)
        sections.end_step(whole[-1])
    step.end()
    names = [*dict.fromkeys(name for *_, name in PARTS), "everything else"]
    total = statistics.mean(whole)
    lines = [
        f"{backbone}, {classes} classes, {len(whole)} steps",
        "",
        "| what | CPU ms per step | share |",
        "|---|---|---|",
    ]
    for name in names:
        mean = statistics.mean(sections.steps[name])
        lines.append(f"| {name} | {1e3 * mean:.1f} | {100 * mean / total:.2f} % |")
    return "\n".join([*lines, f"| whole step | {1e3 * total:.0f} | 100 % |"])


def rebuild(images: int, folder: Path, *, batch: int = 32, classes: int = 80) -> str:
    """Return a Markdown table: one rebuild of the listing of `images` unlabelled images, in CPU seconds.

    Each image was labelled twice in the window, in listed order, by the teacher of its step; a label has 20
    candidates, as stored above the score floor. One process, which has all of it; ranks would share reading.
    """
    steps, draw = 2 * images // batch, torch.Generator().manual_seed(0)
    order = RepeatedOrder(np.full(images, 1.0), batch, 0, "unlabeled")
    store, digests = PseudoLabelStore(folder, "writer"), dict[int, str]()
    for step in range(steps):
        ref = TeacherRef(step, digests.setdefault(step, f"{step:016x}"))
        store.append(to_table([_label(f"{row:012d}.jpg", ref, classes, draw) for row in order.positions(step)]))
    store.flush()
    theta = torch.full((classes,), 0.9)
    clock = Clock()

    def newest() -> dict[int, dict[str, int]]:
        when = np.full(images, -1, np.int64)
        for step in range(steps):
            when[order.positions(step)] = step
        wanted: dict[int, dict[str, int]] = {}
        for row in range(images):
            wanted.setdefault(int(when[row]), {})[f"{row:012d}.jpg"] = row
        return wanted

    wanted = clock.measure(newest)
    labels = clock.measure(lambda: list(recall(folder, wanted, digests)))
    pool = clock.measure(lambda: sure_boxes(labels, theta))

    def count() -> list[float]:
        counted = images_per_class((kinds for kinds, _ in pool.values()), classes)
        factors = class_factors(class_frequencies(counted, len(pool)), 0.5)
        return [crs_image_factor(*boxes, factors) for boxes in pool.values()]

    clock.measure(count)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
    names = ("newest step of each image", "labels read back", "sure boxes", "frequencies and factors")
    rows = [f"| {name} | {cpu:.2f} |" for name, cpu in zip(names, clock.cpu, strict=True)]
    stored = f"{2 * images:,} labels in {size:.0f} MiB, window of {steps:,} steps"
    head = f"{images:,} images, {stored}; {len(pool):,} with sure boxes"
    return "\n".join([head, "", "| what | CPU s |", "|---|---|", *rows, f"| a rebuild | {sum(clock.cpu):.2f} |"])


def _label(image_id: str, ref: TeacherRef, classes: int, draw: torch.Generator) -> PseudoBoxes:
    number = 20
    corner = torch.rand(number, 2, generator=draw) * 400
    boxes = torch.cat([corner, corner + 20 + 100 * torch.rand(number, 2, generator=draw)], dim=1)
    kinds = torch.randint(classes, (number,), generator=draw)
    scores = torch.rand(number, generator=draw).sort(descending=True).values
    return PseudoBoxes(image_id, ref, boxes, kinds, scores, torch.rand(number, generator=draw), 0.05)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", action="store_true", help="measure the parts alone")
    parser.add_argument("--step", action="store_true", help="measure them in real steps")
    parser.add_argument("--rebuild", type=int, default=0, metavar="IMAGES", help="measure one rebuild of a listing")
    parser.add_argument("--backbone", default="resnet50_fpn")
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--steps", type=int, default=3, help="before images are listed anew")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/long_tail_cost"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    if options.parts:
        print(parts())
    if options.rebuild:
        with TemporaryDirectory() as folder:
            print(rebuild(max(options.rebuild, 32), Path(folder)))
    if options.step:
        print(real_steps(options.backbone, options.classes, options.steps, options.out))


if __name__ == "__main__":
    main()
