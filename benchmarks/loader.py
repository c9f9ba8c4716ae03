"""How many images a core prepares in a second: decoding, weak and strong views, one by one and as a step asks for them.

    python benchmarks/loader.py                        # real photographs, views with a short edge of 800 pixels
    python benchmarks/loader.py --short-side 480 --rounds 9

What a GPU takes in a second, divided by what a core prepares, is how many cores it keeps busy. One thread, CPU time; in
every round each part works on the same pictures, so that parts can be compared.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from raydet.config.box_data import ViewsConfig
from raydet.data.decode import decode
from raydet.families.detection.colors import Colors, drawn
from raydet.families.detection.soft_config import SoftViewsConfig
from raydet.families.detection.soft_views import OwnGeometry
from raydet.families.detection.views import strong_view, weak_view
from raydet.randomness import stream
from raydet.vision.geometry import View
from raydet.vision.images import collate

ALWAYS = {"color_jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "erase": [0.0, 0.0, 0.0]}
STRONG = {
    "strong view: colours alone": {"color_jitter": 1.0},
    "strong view: grey alone": {"grayscale": 1.0},
    "strong view: blur alone": {"blur": 1.0},
    "strong view: three erasures alone": {"erase": [1.0, 1.0, 1.0]},
    "strong view: copied, nothing else": {},
}


def pictures(folder: Path, number: int) -> list[Path]:
    """Return so many photographs of a folder, evenly spaced. Raises SystemExit where there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise SystemExit(f"no JPEG below {folder}; give a folder of photographs with --images")
    return [found[i * len(found) // number] for i in range(min(number, len(found)))]


def parts(files: Sequence[Path], config: ViewsConfig) -> dict[str, Callable[[], object]]:
    """Return what is measured, each for all files."""
    decoded = [decode(file) for file in files]
    rngs = [stream(0, "weak", file.name) for file in files]
    seen = [weak_view(pixels, config, rng)[0] for pixels, rng in zip(decoded, rngs, strict=True)]

    def strong(settings: ViewsConfig) -> Callable[[], list[Tensor]]:
        return lambda: [strong_view(p, settings, stream(0, "strong", f.name)) for p, f in zip(seen, files, strict=True)]

    def both(file: Path) -> Tensor:
        weak, _ = weak_view(decode(file), config, stream(0, "weak", file.name))
        return strong_view(weak, config, stream(0, "strong", file.name))

    def left(file: Path) -> Colors:
        weak, _ = weak_view(decode(file), config, stream(0, "weak", file.name))
        return drawn(weak.shape[1], weak.shape[2], config, stream(0, "strong", file.name))

    soft = OwnGeometry(config, SoftViewsConfig(short_side=(config.short_side[0], config.short_side[0])))

    def own(pixels: Tensor, file: Path) -> Tensor:
        rng = stream(0, "student", file.name)
        return soft.student((pixels, View.identity(*pixels.shape[1:])), lambda: pixels, rng)[0].pixels

    single = {name: config.model_copy(update={**ALWAYS, **change}) for name, change in STRONG.items()}
    return {
        "decoding": lambda: [decode(file) for file in files],
        "weak view: resize and flip": lambda: [
            weak_view(pixels, config, stream(0, "weak", file.name)) for pixels, file in zip(decoded, files, strict=True)
        ],
        **{name: strong(settings) for name, settings in single.items()},
        "strong view, as drawn": strong(config),
        "decoded, weak and strong": lambda: [both(file) for file in files],
        "the same with colors_on: device": lambda: [left(file) for file in files],
        "Soft Teacher's view for a student, from the decoded image": lambda: [
            own(pixels, file) for pixels, file in zip(decoded, files, strict=True)
        ],
        "normalised and framed on the CPU": lambda: [collate([pixels], "cpu") for pixels in seen],
    }


def measure(work: dict[str, Callable[[], object]], rounds: int, images: int) -> dict[str, list[float]]:
    """Return CPU milliseconds per image of each part in each round, after one that does not count."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, do in work.items():
            begun = time.process_time()
            do()
            if number:
                found[name].append(1e3 * (time.process_time() - begun) / images)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("RAYDET_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--images", type=Path, default=shared / "bccd")
    parser.add_argument("--number", type=int, default=32)
    parser.add_argument("--short-side", type=int, default=800)
    parser.add_argument("--max-long-side", type=int, default=1333)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = pictures(options.images, options.number)
    config = ViewsConfig(short_side=(options.short_side,), max_long_side=options.max_long_side)
    shape = tuple(decode(files[0]).shape[1:])
    print(f"{len(files)} images of {options.images.name}, the first {shape}; short edge {options.short_side}")
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread\n")
    print("| | CPU ms an image, median (least .. most) | images/s of a core |\n|---|---|---|")
    for name, values in measure(parts(files, config), options.rounds, len(files)).items():
        middle = statistics.median(values)
        print(f"| {name} | {middle:.1f} ({min(values):.1f} .. {max(values):.1f}) | {1e3 / middle:.0f} |")


if __name__ == "__main__":
    main()
