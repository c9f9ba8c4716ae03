"""What numbers as good as zero cost a step: a small network whose gradients have become denormal.

    python benchmarks/denormals.py --rounds 5

A classifier that is sure of every image has gradients of its loss of 1e-40: below float32's smallest normal number,
which a processor multiplies many times as slowly. Every process of raydet takes them for zero
(`raydet.cluster.process`). Each variant trains in a process of its own, by turns, with one thread and with two.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydet.cluster.process import computing

STEPS = 3


class Saturated(nn.Module):
    """Convolutions and a classifier: where it is sure, every gradient on the way back is denormal."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())))
        self.last = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.last(self.body(images).mean(dim=(2, 3)))
        return found


def seconds(margin: float, flushes: bool, threads: int) -> float:
    """Return CPU seconds of a step whose losses are as good as zero from a margin of 90 on."""
    torch.set_num_threads(threads)  # what `computing` does, too
    network, images = Saturated(), torch.randn(4, 64, 56, 56, generator=torch.Generator().manual_seed(1))
    sure = torch.zeros(10)
    sure[3] = margin
    with computing(threads) if flushes else nullcontext():
        for step in range(STEPS + 1):
            if step == 1:
                begun = time.process_time()
            network.zero_grad()
            F.cross_entropy(network(images) + sure, torch.full((4,), 3)).backward()  # type: ignore[no-untyped-call]
    return (time.process_time() - begun) / STEPS


def main() -> None:
    """Time every variant in processes of their own, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=3, metavar=("MARGIN", "FLUSHES", "THREADS"))
    options = parser.parse_args()
    if options.child:
        margin, flushes, threads = options.child
        print(seconds(float(margin), flushes == "1", int(threads)))
        return
    variants = {
        "gradients of usual size": ("0", "1"),
        "denormal gradients, taken for zero": ("90", "1"),
        "denormal gradients as they are": ("90", "0"),
    }
    print("| | threads | CPU s per step: median (least .. most) | over usual ones |\n|---|---|---|---|")
    for threads in ("1", "2"):
        found: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(options.rounds):
            for name, (margin, flushes) in variants.items():
                command = [sys.executable, __file__, "--child", margin, flushes, threads]
                found[name].append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        usual = statistics.median(found["gradients of usual size"])
        for name, each in found.items():
            middle = statistics.median(each)
            print(f"| {name} | {threads} | {middle:.3f} ({min(each):.3f} .. {max(each):.3f}) | {middle / usual:.2f} |")


if __name__ == "__main__":
    main()
