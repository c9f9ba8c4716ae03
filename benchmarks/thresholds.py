"""How long `raydet thresholds` computes: generated labels on 20 x 20 settings, and optionally a real run.

python benchmarks/thresholds.py
python benchmarks/thresholds.py --run runs/mine     # a copy: thresholds.json and .html are not written
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from common import machine

from raydet.families.detection.thresholds.axes import read_axes, selections
from raydet.families.detection.thresholds.count import TrueLabel, threshold_grid
from raydet.families.detection.thresholds.result import try_thresholds
from raydet.records import PseudoBoxes, TeacherRef
from raydet.registry import build_method
from raydet.settings import resolve

GRID = ["score=0.05:0.95:20", "quality=0.05:0.95:20"]
CLASSES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="a run with stored labels and hidden truth, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    data = {"labeled": {"path": "shapes"}, "labeled_count": 10}
    method = {"name": "il_net", "score_threshold": 0.7, "iou_filter_threshold": 0.4}
    config = resolve({"run": {"dir": "never"}, "data": data, "method": method}, {})
    thresholds = build_method(config).thresholds
    assert thresholds is not None
    grid = read_axes(config, thresholds, GRID)
    for most in (100, 300, 1000):
        images = labels(options.images, most, options.seed)
        stored = sum(len(each.label) for each in images) / len(images)
        wall, cpu = time.perf_counter(), time.process_time()
        found = threshold_grid(images, grid.scores, selections(config, grid), CLASSES)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        shape = f"{len(found.scores)} x {len(found.qualities)}"
        print(f"| generated | {len(images)} | {stored:.0f} | {shape} | {cpu:.1f} | {wall:.1f} |")
    if options.run is not None:
        wall, cpu = time.perf_counter(), time.process_time()
        result = try_thresholds(options.run, GRID)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        stored = sum(len(each.label) for each in result.evidence.images) / result.grid.images
        shape = f"{len(result.grid.scores)} x {len(result.grid.qualities)}"
        print(f"| {options.run.name} | {result.grid.images} | {stored:.0f} | {shape} | {cpu:.1f} | {wall:.1f} |")


def labels(number: int, most: int, seed: int) -> list[TrueLabel]:
    """Return images of 4 to 12 objects with half to all of `most` candidates: clusters around objects, and clutter."""
    draw = np.random.default_rng(seed)
    return [_label(draw, f"{i}", int(draw.integers(most // 2, most + 1))) for i in range(number)]


def _label(draw: np.random.Generator, image_id: str, number: int) -> TrueLabel:
    objects = int(draw.integers(4, 13))
    corner, side = draw.uniform(0, 500, (objects, 2)), draw.uniform(30, 200, (objects, 2))
    truth, classes = np.concatenate([corner, corner + side], axis=1), draw.integers(0, CLASSES, objects)
    of = draw.integers(0, objects, number)
    boxes = truth[of] + draw.normal(0, 15, (number, 4))
    clutter = draw.random(number) < 0.4
    boxes[clutter] += draw.uniform(-150, 150, (int(clutter.sum()), 1))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 2)
    guessed = np.where(draw.random(number) < 0.7, classes[of], draw.integers(0, CLASSES, number))
    scores = np.sort(0.05 + 0.95 * draw.beta(0.6, 2.0, number))[::-1].copy()  # many low, few high
    quality = draw.beta(2.0, 2.0, number)
    label = PseudoBoxes(
        image_id,
        TeacherRef(0, "generated"),
        torch.from_numpy(boxes.astype(np.float32)),
        torch.from_numpy(guessed),
        torch.from_numpy(scores.astype(np.float32)),
        torch.from_numpy(quality.astype(np.float32)),
        0.05,
    )
    return TrueLabel(label, truth, classes)


if __name__ == "__main__":
    main()
