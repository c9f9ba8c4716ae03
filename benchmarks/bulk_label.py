"""`raydet label` against a bare inference loop: images per second and CPU time per image, with 1 and 2 actors.

    python benchmarks/bulk_label.py CHECKPOINT IMAGES

The bare loop reads the same files, decodes them, resizes them and runs the same model on them, one image at a time in
one thread of this process; nothing is written. Actors label through work list, Ray and Parquet shards. Rounds are
interleaved in a drawn order. What is counted of an actor begins when its model is ready and ends with its last answer,
the first images of a new process included; the bare loop's process is warm. Ray starts its workers with niceness 15,
which on a crowded machine would measure the crowd: here they get the niceness of the bare loop.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import ray
import torch
from common import Clock, machine, spread
from processes import look

from raydet.families.detection.views import eval_view
from raydet.image_jobs.actors import Share, work_with_actors
from raydet.image_jobs.listing import open_images, write_listing
from raydet.image_jobs.progress import Progress
from raydet.image_jobs.shards import chunks, write_shard
from raydet.image_jobs.work import WorkList
from raydet.image_jobs.worker import Job
from raydet.label_files.labeller import SCHEMA, Labelling
from raydet.label_files.run import PIECE_IMAGES
from raydet.registry import family_of
from raydet.train.saved import SavedModel, load_saved
from raydet.vision.geometry import clip_boxes
from raydet.vision.images import collate


class Cpu(Progress):
    """Also reads the CPU seconds of each actor's process."""

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

    def cpu_per_image(self) -> float:
        spent = sum(last - self.first[actor] for actor, last in self.last.items())
        return spent / self.images

    @staticmethod
    def _cpu(place: str) -> float:
        process = look(int(re.match(r"pid (\d+)", place).group(1)))
        return process.cpu_s if process else 0.0


def bare(job: Job, saved: SavedModel, names: list[str]) -> None:
    """The loop one would write by hand."""
    with torch.no_grad():
        for name in names:
            original = job.store.picture(name).pixels
            pixels, view = eval_view(original, saved.config.data.views)
            said = saved.method.detect(saved.model, collate([pixels], "cpu"))[0]
            clip_boxes(view.to_original(said.boxes), *original.shape[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images")
    parser.add_argument("--number", type=int, default=128, help="images per actor and round")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    saved, images = load_saved(options.checkpoint), open_images(options.images)
    job = Job(Labelling(family_of(saved.config).on_files(saved), "cpu", "fp32", 1), images.store, 1)
    folder = Path(tempfile.mkdtemp())
    listing = write_listing(images.names(), folder / "all.jsonl")
    names = [name for chunk in chunks(listing, 512) for name in chunk.names]
    print(machine(), flush=True)
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    def pool(actors: int) -> tuple[float, float]:
        some = write_listing(names[: actors * options.number], folder / "some.jsonl")
        progress = Cpu(some.count)
        work = WorkList(chunks(some, 64), PIECE_IMAGES, SCHEMA)
        keep = lambda chunk, table: write_shard(folder, chunk, table, "")  # noqa: E731
        work_with_actors(job, Share(actors, 1.0, 0.0, None), work, keep, progress, "labelling")
        rates = [count.rate for count in progress.actors.values() if count.images]
        return sum(rates) / len(rates), progress.cpu_per_image()

    def loop() -> tuple[float, float]:
        clock = Clock()
        clock.measure(lambda: bare(job, saved, names[: options.number]))
        return options.number / clock.wall[0], clock.cpu[0] / options.number

    variants = {
        "bare loop": loop,
        "1 actor": lambda: pool(1),
        "2 actors": lambda: pool(2),
    }
    bare(job, saved, names[:16])
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    draw = random.Random(0)
    for number in range(options.rounds):
        for name in draw.sample(list(variants), len(variants)):
            found[name].append(variants[name]())
        print(f"round {number}: " + ", ".join(f"{n} {v[-1][0]:.2f}/s" for n, v in found.items()), flush=True)
        time.sleep(1)
    ray.shutdown()
    shutil.rmtree(folder)
    print("\n| | images/s per process | over the bare loop | CPU ms per image | bare loop's CPU over it |")
    print("|---|---|---|---|---|")
    base = found["bare loop"]
    for name, values in found.items():
        wall = [a / b for (a, _), (b, _) in zip(values, base, strict=True)]
        cpu = [b / a for (_, a), (_, b) in zip(values, base, strict=True)]
        rates, seconds = [rate for rate, _ in values], [second for _, second in values]
        cells = (spread(rates, 1, 2), spread(wall, 1, 3), spread(seconds, 1e3), spread(cpu, 1, 3))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
