"""`raydet proposals` against a bare loop over OpenCV: proposals per second and core, CPU seconds; 0, 1 and 2 actors.

    python benchmarks/proposals.py IMAGES

The bare loop reads and decodes the same files and calls the same search, one image after the other in one thread of
this process; it filters and writes nothing. Work is counted from the moment that an actor is ready to its last answer;
the loop's process is warm. Rounds are interleaved in a drawn order. Ray's workers get the niceness of the bare loop.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import ray
import torch
from common import Clock, machine, spread
from processes import look

from raydet.image_jobs.actors import Share, work_with_actors
from raydet.image_jobs.listing import open_images, write_listing
from raydet.image_jobs.progress import Progress
from raydet.image_jobs.run import _work_here
from raydet.image_jobs.shards import chunks, write_shard
from raydet.image_jobs.work import WorkList
from raydet.image_jobs.worker import Job
from raydet.proposals.filters import Filters
from raydet.proposals.run import PIECE_IMAGES, SCHEMA, Proposing
from raydet.proposals.sources import SelectiveSearch


class Counted(Progress):
    """Also counts boxes and reads the CPU seconds of each actor's process."""

    def __init__(self, total: int) -> None:
        super().__init__(total, 0)
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def started(self, actor: str, place: str) -> None:
        self.first[actor] = self._cpu(place)
        super().started(actor, place)

    def answered(self, actor: str, table: pa.Table) -> None:
        super().answered(actor, table)
        self.last[actor] = self._cpu(self.actors[actor].place)

    def cpu_s(self) -> float:
        return sum(last - self.first[actor] for actor, last in self.last.items())

    @staticmethod
    def _cpu(place: str) -> float:
        found = re.match(r"pid (\d+)", place)
        process = look(int(found.group(1))) if found else look(os.getpid())
        return process.cpu_s if process else 0.0


def bare(job: Job, names: list[str]) -> int:
    """The loop one would write by hand; returns the number of boxes, before filters."""
    kit, boxes = cv2.ximgproc.segmentation, 0
    parts = ("Color", "Texture", "Size", "Fill")
    for name in names:
        image = np.ascontiguousarray(job.store.picture(name).pixels.permute(1, 2, 0).numpy())
        search = kit.createSelectiveSearchSegmentation()
        search.addImage(image)
        search.addGraphSegmentation(kit.createGraphSegmentation(0.9, 500.0, 10))
        each = [getattr(kit, f"createSelectiveSearchSegmentationStrategy{part}")() for part in parts]
        search.addStrategy(kit.createSelectiveSearchSegmentationStrategyMultiple(*each))
        boxes += len(search.process())
    return boxes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--number", type=int, default=48, help="images per process and round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    images = open_images(options.images)
    job = Job(Proposing(SelectiveSearch(max_side=0), Filters()), images.store, 1)
    folder = Path(tempfile.mkdtemp())
    listing = write_listing(images.names(), folder / "all.jsonl")
    every = [name for chunk in chunks(listing, 512) for name in chunk.names]
    names = random.Random(0).sample(every, min(options.number, len(every)))
    print(machine(), f"OpenCV {cv2.__version__}, {len(names)} images", flush=True)
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    found_boxes = bare(job, names)  # also warms up

    def pool(actors: int) -> tuple[float, float]:
        """Proposals per second and process, CPU seconds per image. With two actors each image is searched by one."""
        some = write_listing(names, folder / "some.jsonl")
        progress = Counted(some.count)
        work = WorkList(chunks(some, 16), PIECE_IMAGES, SCHEMA)
        keep = lambda chunk, table: write_shard(folder, chunk, table, "")  # noqa: E731
        if actors:
            work_with_actors(job, Share(actors, 1.0, 0.0, None), work, keep, progress, "proposing")
        else:
            _work_here(job, work, keep, progress)
        rates = [count.rate for count in progress.actors.values() if count.images]
        return sum(rates) / len(rates) * found_boxes / len(names), progress.cpu_s() / len(names)

    def loop() -> tuple[float, float]:
        clock = Clock()
        clock.measure(lambda: bare(job, names))
        return found_boxes / clock.wall[0], clock.cpu[0] / len(names)

    variants = {
        "bare loop": loop,
        "no Ray": lambda: pool(0),
        "1 actor": lambda: pool(1),
        "2 actors": lambda: pool(2),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    draw = random.Random(0)
    for number in range(options.rounds):
        for name in draw.sample(list(variants), len(variants)):
            found[name].append(variants[name]())
        print(f"round {number}: " + ", ".join(f"{n} {v[-1][0]:.0f}/s" for n, v in found.items()), flush=True)
    ray.shutdown()
    shutil.rmtree(folder)
    print(f"\n{found_boxes / len(names):.0f} boxes an image before filters\n")
    print("| | proposals/s per process | over the bare loop | CPU ms per image | bare loop's CPU over it |")
    print("|---|---|---|---|---|")
    base = found["bare loop"]
    for name, values in found.items():
        wall = [a / b for (a, _), (b, _) in zip(values, base, strict=True)]
        cpu = [b / a for (_, a), (_, b) in zip(values, base, strict=True)]
        rates, seconds = [rate for rate, _ in values], [second for _, second in values]
        cells = (spread(rates, 1, 0), spread(wall, 1, 3), spread(seconds, 1e3), spread(cpu, 1, 3))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
