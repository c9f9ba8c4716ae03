"""What grows with a run or a data set: start-up, a step after ten thousand others, evaluation, an index as COCO's.

    python benchmarks/growth.py                                  # all parts
    python benchmarks/growth.py --parts evaluation index
    python benchmarks/growth.py --parts steps --steps 10000

Everything is generated: 5,000 images with 500,000 detections of 80 classes; 118,287 image files with 860,001 boxes, as
many as COCO's train2017 has; a small network on pictures of shapes for the steps. Each part runs in a fresh process.
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
from collections.abc import Callable
from pathlib import Path

import numpy as np

CLASSES = tuple(f"class {number:02d}" for number in range(80))
IMAGES, BOXES = 118_287, 860_001
DETECTIONS, EVALUATED, TRUE = 500_000, 5_000, 36_781  # boxes of COCO's val2017
WINDOW = 500  # steps that are compared


def main() -> None:
    """Run each part in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    if options.here:
        for name in options.parts:
            PARTS[name](options)
        return
    for name in options.parts:
        numbers = ["--steps", str(options.steps), "--repeats", str(options.repeats)]
        subprocess.run([sys.executable, __file__, "--here", "--parts", name, *numbers], check=True)


def start(options: argparse.Namespace) -> None:
    """Print how long a process takes to import raydet, and to be at its first step's end."""
    code = {
        "import raydet": "import raydet",
        "import raydet.train.launch": "import raydet.train.launch",
        "raydet --help": "import sys; sys.argv = ['raydet', '--help']; from raydet.cli import main; main()",
    }
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.repeats):
            code[f"a run of one step, {number}"] = (
                "from raydet.settings import resolve; from raydet.train.launch import launch; "
                f"launch(resolve({small_run(Path(folder) / str(number), 1)!r}, {{}}))"
            )
        for name, text in code.items():
            times = [_process(text) for _ in range(1 if "," in name else options.repeats)]
            print(f"start: {name}: CPU s {_spread([cpu for cpu, _ in times])}, wall s {_spread([w for _, w in times])}")


def steps(options: argparse.Namespace) -> None:
    """Print a step's CPU time and the process's memory at the beginning and the end of a long run."""
    from common import SteppedTrainer

    from raydet.settings import resolve

    with tempfile.TemporaryDirectory() as folder:
        config = resolve(small_run(Path(folder) / "run", options.steps + 1), {})
        trainer, cpu, memory = SteppedTrainer(config), [], []
        for _ in range(options.steps):
            begun = time.process_time()
            trainer()
            cpu.append(time.process_time() - begun)
            memory.append(_resident())
        trainer.end()
    early, late = slice(WINDOW, 2 * WINDOW), slice(-WINDOW, None)  # the first ones warm up
    ratio = statistics.median(cpu[late]) / statistics.median(cpu[early])
    print(f"steps: {options.steps}; CPU ms {1000 * statistics.median(cpu[early]):.1f} after {WINDOW}, ", end="")
    print(f"{1000 * statistics.median(cpu[late]):.1f} at the end: ratio {ratio:.3f}; ", end="")
    marks = [memory[int(share * (len(memory) - 1))] for share in (0.1, 0.25, 0.5, 0.75, 1.0)]
    print("resident MB after 10, 25, 50, 75, 100 %: " + ", ".join(f"{mark / 1e6:.0f}" for mark in marks))


def evaluation(options: argparse.Namespace) -> None:
    """Print how long the figures of many detections take, and how far from pycocotools' they are."""
    from raydet.families.detection import coco

    with tempfile.TemporaryDirectory() as folder:
        index, detections = _judged(Path(folder))
        inner = {"columns": "said_of", "pairs": "judgeable", "AP": "numpy_precision", "TIDE": "tide_errors"}
        times: dict[str, list[float]] = {name: [] for name in ("all", *inner)}
        for name, function in inner.items():
            setattr(coco, function, _timed(getattr(coco, function), times[name]))
        for _ in range(options.repeats):
            found = _timed(coco.coco_metrics, times["all"])(index, detections, engine="numpy")
        for name, seconds in times.items():
            print(f"evaluation: {name}: CPU s {_spread(seconds)}")
        reference = coco.coco_metrics(index, detections, engine="pycocotools")
    far = [
        abs(a - b)
        for a, b in zip(_numbers(found.as_json()), _numbers(reference.as_json()), strict=True)
        if a is not None and b is not None
    ]
    print(f"evaluation: AP {100 * (found.AP or 0):.2f}; {len(far)} figures, at most {max(far):.1e} from pycocotools'")


def index(options: argparse.Namespace) -> None:
    """Print how long the index of a set of COCO's size takes to build and to open, and how large it is."""
    from raydet.families.detection.data import BOXES as FAMILY
    from raydet.settings import resolve

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        file = _coco_size(root)
        config = resolve({**small_run(root / "run", 1), "data": {"labeled": str(file), "labeled_count": 11_828}}, {})
        build: list[float] = []
        _timed(FAMILY.prepare, build)(config.data, root / "data")
        opened: list[float] = []
        for _ in range(options.repeats):
            sets = _timed(FAMILY.open, opened)(root / "data")
        sizes = {each.name: each.stat().st_size / 1e6 for each in sorted((root / "data").iterdir()) if each.is_file()}
        said = ", ".join(f"{name} {size:.1f}" for name, size in sizes.items() if size > 0.05)
        print(f"index: {len(sets.labeled)} labelled, {len(sets.unlabeled or ())} unlabelled images; files, MB: {said}")
        print(f"index: build CPU s {_spread(build)}; open CPU ms {_spread([1000 * each for each in opened])}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"index: JSON {file.stat().st_size / 1e6:.0f} MB; peak memory of the building process {peak:.0f} MB")


def small_run(folder: Path, length: int) -> dict[str, object]:
    """Return a run of IL-net with a tiny network on generated pictures, without evaluation and checkpoints."""
    never = 1_000_000_000
    return {
        "run": {"dir": str(folder)},
        "data": {
            "labeled": {"path": "shapes", "shapes": {"num_images": 64, "height": 48, "width": 64}},
            "labeled_count": 16,
            "views": {"short_side": [48], "max_long_side": 64, "eval_short_side": 48},
            "loader_threads": 0,
        },
        "model": {
            "backbone": "small_gn",
            "small_channels": [8, 8, 16, 16, 16],
            "fpn_channels": 16,
            "box_head_dim": 32,
            "rpn_batch": 32,
            "roi_batch": 16,
            "rpn_pre_nms_train": 50,
            "rpn_post_nms_train": 20,
            "rpn_pre_nms_test": 50,
            "rpn_post_nms_test": 20,
            "roi_sampling_ratio": 1,
        },
        "method": {"name": "il_net", "burn_in_steps": min(100, length - 1)},
        "optim": {"labeled_batch": 1, "unlabeled_batch": 1, "steps": length, "precision": "fp32", "lr": 0.001},
        "cluster": {"cpus_per_worker": 1},
        "checkpoint": {"every": never},
        "eval": {"every": never},
        "log": {"every": 100},
    }


def _judged(root: Path) -> tuple[object, list[object]]:
    """Return an index of images with true boxes, and detections that are those, shaken, and others."""
    import torch

    from raydet.config.box_data import DatasetConfig
    from raydet.data.boxes.index import DatasetIndex
    from raydet.families.detection.data import BOXES as FAMILY
    from raydet.families.detection.judged_boxes import Detections

    rng = np.random.default_rng(0)
    file = _coco_json(root, EVALUATED, TRUE, rng)
    found = FAMILY.prepare_one(DatasetConfig(path=str(file)), root / "one", class_names=CLASSES, settings=None)
    assert isinstance(found, DatasetIndex)
    per_image = DETECTIONS // EVALUATED
    detections: list[object] = []
    for row in range(len(found)):
        truth = found.truth_at(row)
        place = rng.integers(0, max(1, len(truth.boxes)), per_image)
        boxes, classes = _boxes(rng, per_image), rng.integers(0, len(CLASSES), per_image)
        if len(truth.boxes):
            is_near = rng.random(per_image) < 0.3
            near = truth.boxes[place] + rng.normal(0, 6, (per_image, 4))
            boxes[is_near], classes[is_near] = near[is_near], truth.classes[place][is_near]
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        scores = torch.from_numpy(rng.random(per_image)).float()
        places = torch.from_numpy(boxes).float()
        detections.append(Detections(found.id_at(row), places, torch.from_numpy(classes), scores))
    return found, detections


def _coco_size(root: Path) -> Path:
    return _coco_json(root, IMAGES, BOXES, np.random.default_rng(0))


def _coco_json(root: Path, images: int, boxes: int, rng: np.random.Generator) -> Path:
    """Write an annotation file, and pictures that differ in size and content as photographs do."""
    from PIL import Image

    (root / "images").mkdir()
    Image.new("RGB", (640, 480)).save(root / "black.jpg")
    head = (root / "black.jpg").read_bytes()
    for number, size in enumerate(rng.integers(50_000, 300_000, images).tolist()):  # COCO's sizes, mostly holes
        with (root / "images" / f"{number:012d}.jpg").open("wb") as stream:
            stream.write(head)
            stream.seek(size)
            stream.write(number.to_bytes(4, "little") + b"\xff\xd9")
    of, places = np.sort(rng.integers(0, images, boxes)), _boxes(rng, boxes)
    kinds = rng.integers(1, len(CLASSES) + 1, boxes)
    sides = places[:, 2:] - places[:, :2]
    annotations = [
        {
            "id": number + 1,
            "image_id": int(image),
            "category_id": int(kind),
            "bbox": [round(float(value), 2) for value in (*place[:2], *side)],
            "area": float(side.prod()),
            "iscrowd": 0,
        }
        for number, (image, kind, place, side) in enumerate(zip(of, kinds, places, sides, strict=True))
    ]
    names = [
        {"id": number, "file_name": f"images/{number:012d}.jpg", "height": 480, "width": 640}
        for number in range(images)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    file = root / "instances.json"
    file.write_text(json.dumps({"images": names, "annotations": annotations, "categories": categories}))
    return file


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    low = rng.random((count, 2)) * (500, 360)
    return np.concatenate([low, low + 8 + rng.random((count, 2)) * (130, 110)], axis=1)


def _timed(function: Callable[..., object], times: list[float]) -> Callable[..., object]:
    def run(*given: object, **named: object) -> object:
        begun = time.process_time()
        result = function(*given, **named)
        times.append(time.process_time() - begun)
        return result

    return run


def _process(code: str) -> tuple[float, float]:
    """Return CPU and wall seconds of a Python process."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _numbers(tree: object) -> list[float | None]:
    """Return the figures of a result in order."""
    if isinstance(tree, dict):
        return [number for key, each in tree.items() if key not in ("tide", "engine") for number in _numbers(each)]
    return [tree] if tree is None or isinstance(tree, float) else []


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} .. {max(values):.2f})"


PARTS = {"start": start, "steps": steps, "evaluation": evaluation, "index": index}

if __name__ == "__main__":
    main()
