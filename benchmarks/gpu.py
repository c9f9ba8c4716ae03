"""One GPU: images per second of IL-net's mutual step with ResNet-50-FPN at 800 pixels, and what of it is the network.

    python benchmarks/gpu.py                              # bf16 and fp32, batches of 2 + 2 and 4 + 4
    python benchmarks/gpu.py --batches 8 --precisions bf16 --loader-threads 16
    python benchmarks/gpu.py --smoke                      # tiny, also without a GPU: only shows that the script works

Generated images of 800 x 1216 pixels, random weights (frozen batch norm, two frozen stages, as with ImageNet weights).
For each setting:

  loop        raydet's own loop with the teacher inline (lookahead 0): decoding, views, teacher, student, EMA, publish
  student     forward and backward of the student alone, on one batch that is already there
  share       student / loop. The rest is the teacher, the optimiser, the images, and raydet
  publish     snapshot to the host, digest and loading of the inline teacher, which the loop does at every publish step

All clocks stop after torch.cuda.synchronize(). Random weights find few pseudo-boxes, the network's work is the same.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from common import SteppedTrainer, machine
from safetensors.torch import save_file

from raydet.families.detection.batch import StudentBatch
from raydet.families.detection.config import DetectionConfig
from raydet.settings import resolve
from raydet.train.step import backward
from raydet.vision.digests import digest
from raydet.vision.weights import load_weights, weights_of

SKIPPED = 5  # first steps of a run: allocation, cuDNN's choice of algorithms


def config_for(options: argparse.Namespace, batch: int, precision: str, weights: Path | None) -> DetectionConfig:
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
    shapes = {"num_images": 64, "height": height, "width": width, "max_objects": 12}
    return resolve(
        {
            "run": {"dir": str(options.out / f"{precision}-{batch}")},
            "data": {
                "labeled": {"path": "shapes", "shapes": shapes},
                "labeled_count": 32,
                "views": {"short_side": [height], "max_long_side": 1333, "eval_short_side": height},
                "loader_threads": options.loader_threads,
            },
            "model": small if options.smoke else {"backbone": "resnet50_fpn", "weights": str(weights)},
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


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], object], rounds: int) -> list[float]:
    seconds = []
    for _ in range(rounds):
        wait()
        began = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - began)
    return seconds


def measure(config: DetectionConfig, options: argparse.Namespace) -> list[str]:
    """Return the cells of one line."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step = SteppedTrainer(config, device=device)
    timed(step, SKIPPED)
    seconds = timed(step, options.steps)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    trainer, batches = step.trainer, []
    trainer.module.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0]))
    step()
    step.end()
    batch: StudentBatch = batches[0]

    def student() -> None:
        backward(trainer.module, batch, trainer.weights, trainer.group, names=trainer.names)
        trainer.state.optimizer.zero_grad(set_to_none=True)

    ema = trainer.state.ema

    def publish() -> None:
        weights = weights_of(ema.model)
        digest(weights)
        load_weights(ema.model, weights)

    assert ema is not None
    timed(student, 3)
    loop_s = statistics.median(seconds)
    student_s, publish_s = (statistics.median(timed(work, options.steps)) for work in (student, publish))
    images = config.optim.labeled_batch + config.optim.unlabeled_batch
    return [
        config.optim.precision,
        f"{config.optim.labeled_batch} + {config.optim.unlabeled_batch}",
        f"{1e3 * loop_s:.1f}",
        f"{images / loop_s:.2f}",
        f"{1e3 * student_s:.1f}",
        f"{100 * student_s / loop_s:.0f} %",
        f"{1e3 * publish_s:.1f}",
        f"{peak:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/gpu"))
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[2, 4], help="labelled, and as many unlabelled images"
    )
    parser.add_argument("--precisions", nargs="+", choices=("bf16", "fp32", "fp16"), default=["bf16", "fp32"])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--loader-threads", type=int, default=8)
    parser.add_argument("--smoke", action="store_true", help="tiny model, any device; the figures mean nothing")
    options = parser.parse_args()
    options.out = options.out.resolve()
    if not torch.cuda.is_available() and not options.smoke:
        raise SystemExit(
            "benchmarks/gpu.py needs a CUDA device and torch sees none (torch.cuda.is_available() is False). "
            "Run it on a machine with an NVIDIA GPU; --smoke only shows that the script works"
        )
    weights = random_weights(options)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: THE FIGURES MEAN NOTHING"
    print(machine(), device, f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}", sep=", ")
    print(f"TF32 for matrix products: {torch.backends.cuda.matmul.fp32_precision}")
    lines = [
        "",
        "| precision | images per step | loop ms | images per s | student ms | share | publish ms | peak GiB |",
    ]
    lines.append("|---" * 8 + "|")
    for precision in options.precisions:
        for batch in options.batches:
            cells = measure(config_for(options, batch, precision, weights), options)
            lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
