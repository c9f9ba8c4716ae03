"""One GPU: images per second of IL-net's mutual step with ResNet-50-FPN at 800 pixels, and what of it is the network;
beside it torchvision's own supervised step.

    python benchmarks/gpu.py                              # bf16 and fp32, compiled or not, batches of 2 + 2 and 4 + 4
    python benchmarks/gpu.py --batches 8 --precisions bf16 --compile off --loader-threads 16
    python benchmarks/gpu.py --smoke                      # tiny, fp32, not compiled; also without a GPU
    python benchmarks/gpu.py --smoke --compile on         # the same compiled; wants a C++ compiler, and takes minutes

Generated images of 800 x 1216 pixels, random weights (frozen batch norm, two frozen stages, as with ImageNet weights).
Kinds of steps:

  raydet       its own loop with the teacher inline (lookahead 0): decoding, views, teacher, student, EMA, publish;
               with `model.compile` off and on
  torchvision  a straight supervised loop on its fasterrcnn_resnet50_fpn: forward, backward, SGD. Its images are the
               student's views with their boxes, decoded beforehand; norms and stages frozen alike, nothing compiled

Columns:

  images       of a step; a labelled one enters raydet's as two views
  views        that the trained network sees in a step: what to compare the two kinds by is `network`
  network      forward and backward of the trained network alone, on one batch that is already there
  share        network / step. The rest is the optimiser and, in raydet's, the teacher, the images and the loop
  publish      snapshot, digest and loading of the inline teacher, which raydet's does at every publish step
  peak         most memory that torch had given out on the GPU

All clocks stop after torch.cuda.synchronize(); medians. Random weights find few pseudo-boxes, the network's work is the
same.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from common import SteppedTrainer, machine
from gpu_reference import Supervised
from safetensors.torch import save_file

from raydet.families.detection.batch import StudentBatch
from raydet.families.detection.config import DetectionConfig
from raydet.settings import resolve
from raydet.train.step import backward
from raydet.vision.digests import digest
from raydet.vision.weights import load_weights, weights_of

USUAL = {"batches": [2, 4], "precisions": ["bf16", "fp32"], "compile": ["off", "on"], "steps": 30}
SMOKE = {"batches": [2], "precisions": ["fp32"], "compile": ["off"], "steps": 2}  # many CPUs imitate bf16, slowly
SKIPPED = 5  # first rounds of anything: allocation, cuDNN's choice of algorithms, compiling


def config_for(
    options: argparse.Namespace, batch: int, precision: str, is_compiled: bool, weights: Path | None
) -> DetectionConfig:
    height, width = (64, 96) if options.smoke else (800, 1216)
    small = {
        "backbone": "small_gn",
        "small_channels": [8, 8, 16, 16, 16],
        "fpn_channels": 16,
        "box_head_dim": 32,
        "anchor_sizes": [[12], [24], [48]],
        "rpn_batch": 32,
        "roi_batch": 16,
    }
    model = small if options.smoke else {"backbone": "resnet50_fpn", "weights": str(weights)}
    shapes = {"num_images": 64, "height": height, "width": width, "max_objects": 12}
    return resolve(
        {
            "run": {"dir": str(options.out / f"{precision}-{batch}{'-compiled' if is_compiled else ''}")},
            "data": {
                "labeled": {"path": "shapes", "shapes": shapes},
                "labeled_count": 32,
                "views": {"short_side": [height], "max_long_side": 1333, "eval_short_side": height},
                "loader_threads": options.loader_threads,
            },
            "model": {**model, "compile": is_compiled},
            "method": {"name": "il_net", "burn_in_steps": 0, "score_threshold": 0.05, "iou_filter_threshold": 0.01},
            "labels": {"forward_images": batch},
            "optim": {
                "steps": SKIPPED + options.steps + 100,  # never the last one
                "lr": 1e-9,  # random weights stay where they are: finite
                "labeled_batch": batch,
                "unlabeled_batch": batch,
                "precision": precision,
            },
            "cluster": {"backend": "process"},
            "checkpoint": {"every": 10**9},
            "eval": {"every": 10**9},
            "log": {"every": 1, "tensorboard": False},
        },
        {},
    )


def random_weights(options: argparse.Namespace) -> Path | None:
    """A file of ImageNet's shape with random numbers: with a file, raydet freezes the batch norm as usual."""
    if options.smoke:
        return None
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    path = options.out / "resnet50-random.safetensors"
    save_file(
        {
            name: value.contiguous()
            for name, value in torchvision.models.resnet50(zero_init_residual=True).state_dict().items()
        },
        path,
    )
    return path


COLUMNS = (
    *("step", "precision", "compile", "images", "views", "step ms", "images per s"),
    *("network ms", "share", "publish ms", "peak GiB"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """What a kind of step took; as text, a line of the table."""

    kind: str
    precision: str
    is_compiled: bool
    images: int
    views: int
    step_s: float
    network_s: float
    publish_s: float | None
    peak_gib: float

    def __str__(self) -> str:
        cells = [
            self.kind,
            self.precision,
            "on" if self.is_compiled else "off",
            str(self.images),
            str(self.views),
            f"{1e3 * self.step_s:.1f}",
            f"{self.images / self.step_s:.2f}",
            f"{1e3 * self.network_s:.1f}",
            f"{100 * self.network_s / self.step_s:.0f} %",
            "" if self.publish_s is None else f"{1e3 * self.publish_s:.1f}",
            f"{self.peak_gib:.2f}",
        ]
        return f"| {' | '.join(cells)} |"


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], object], rounds: int) -> float:
    """Return the median of the seconds that the work took."""
    seconds = []
    for _ in range(rounds):
        wait()
        began = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def begin_afresh() -> None:
    """Forget what was compiled and allocated before."""
    torch.compiler.reset()
    gc.collect()  # a trainer and its journal know each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")


def measure(config: DetectionConfig, device: torch.device, steps: int) -> tuple[Row, StudentBatch]:
    """Measure raydet's step; also return the last batch that its student saw."""
    begin_afresh()
    step = SteppedTrainer(config, device=str(device))
    timed(step, SKIPPED)
    step_s, peak = timed(step, steps), peak_gib()
    trainer, batches = step.trainer, []
    trainer.module.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0]))
    step()
    step.end()
    batch: StudentBatch = batches[0]

    def student() -> None:
        backward(trainer.module, batch, trainer.device_weights, trainer.group, names=trainer.names)
        trainer.state.optimizer.zero_grad(set_to_none=True)

    ema = trainer.state.ema
    assert ema is not None

    def publish() -> None:
        weights = weights_of(ema.model)
        digest(weights)
        load_weights(ema.model, weights)

    timed(student, SKIPPED)
    network_s, publish_s = timed(student, steps), timed(publish, steps)
    optim = config.optim
    images, views = optim.labeled_batch + optim.unlabeled_batch, len(batch.views)
    kind = ("raydet", optim.precision, config.model.compile)
    return Row(*kind, images, views, step_s, network_s, publish_s, peak), batch


def measure_torchvision(
    batch: StudentBatch, precision: str, device: torch.device, steps: int, *, is_tiny: bool = False
) -> Row:
    """Measure torchvision's supervised step on the views of a batch."""
    begin_afresh()
    step = Supervised(batch, precision, device, is_tiny=is_tiny)
    timed(step, SKIPPED)
    step_s, peak = timed(step, steps), peak_gib()
    timed(step.network, SKIPPED)
    views = len(batch.views)
    return Row("torchvision", precision, False, views, views, step_s, timed(step.network, steps), None, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/gpu"))
    parser.add_argument("--batches", type=int, nargs="+", help="labelled, and as many unlabelled images")
    parser.add_argument("--precisions", nargs="+", choices=("bf16", "fp32", "fp16"))
    parser.add_argument("--compile", nargs="+", choices=("off", "on"), help="model.compile")
    parser.add_argument("--steps", type=int, help="that count")
    parser.add_argument("--loader-threads", type=int, default=8)
    parser.add_argument("--smoke", action="store_true", help="tiny model, any device; the figures mean nothing")
    options = parser.parse_args()
    defaults = SMOKE if options.smoke else USUAL
    vars(options).update({name: value for name, value in defaults.items() if getattr(options, name) is None})
    options.out = options.out.resolve()
    if not torch.cuda.is_available() and not options.smoke:
        raise SystemExit(
            "benchmarks/gpu.py needs a CUDA device and torch sees none (torch.cuda.is_available() is False). "
            "Run it on a machine with an NVIDIA GPU; --smoke only shows that the script works"
        )
    weights = random_weights(options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    named = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: THE FIGURES MEAN NOTHING"
    print(machine(), named, f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}", sep=", ")
    print(f"TF32 for matrix products: {torch.backends.cuda.matmul.fp32_precision}\n")
    print(f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", sep="\n", flush=True)
    for precision in options.precisions:
        for size in options.batches:
            for compiled in options.compile:
                config = config_for(options, size, precision, compiled == "on", weights)
                row, batch = measure(config, device, options.steps)
                print(row, flush=True)
            row = measure_torchvision(batch, precision, device, options.steps, is_tiny=options.smoke)
            print(row, flush=True)


if __name__ == "__main__":
    main()
