"""Algorithm 1's rectangles of a batch, beside a loop over its images: CPU seconds of both, and their ratio.

    python benchmarks/attention.py --rounds 7

Maps as InceptionV3 gives of 448-pixel images, without the network. The loop follows the paper's steps one by one, as
the reference of the tests does; both give the same boxes, or this script fails.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from raydet.cluster.process import set_up_process
from raydet.families.localization.attention import AttentionRule, regions

SIZE = (448, 448)
CELLS = 26


def one_by_one(attention: Tensor, threshold: float) -> Tensor:
    """Return the boxes `[B, 4]` of maps `[B, h, w]`, image by image."""
    boxes = []
    for each in attention:
        enlarged = F.interpolate(each[None, None], SIZE, mode="bilinear", align_corners=False)[0, 0]
        low, high = enlarged.min(), enlarged.max()
        rows, columns = torch.nonzero((enlarged - low) / (high - low) > threshold).unbind(1)
        boxes.append([int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1])
    return torch.tensor(boxes, dtype=torch.float32)


def cpu_seconds(work: Callable[[], Tensor]) -> float:
    """Return what one call takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    set_up_process(1)
    attention = torch.rand(arguments.batch, CELLS, CELLS, generator=torch.Generator().manual_seed(0)) ** 4
    rule = AttentionRule(arguments.threshold)
    assert torch.equal(regions(attention, SIZE, rule).boxes, one_by_one(attention, arguments.threshold))
    ratios = []
    for _ in range(arguments.rounds):
        batch = cpu_seconds(lambda: regions(attention, SIZE, rule).boxes)
        loop = cpu_seconds(lambda: one_by_one(attention, arguments.threshold))
        ratios.append(loop / batch)
        print(f"batch {1e3 * batch:7.2f} ms   one by one {1e3 * loop:7.2f} ms   ratio {ratios[-1]:.1f}")
    print(f"ratio: median {statistics.median(ratios):.1f}, from {min(ratios):.1f} to {max(ratios):.1f}")


if __name__ == "__main__":
    main()
