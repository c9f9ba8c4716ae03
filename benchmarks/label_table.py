"""Cost of R2-D2's label table per step: reading 384 rows, the update of Eq. 7, the sum over ranks, writing them back.

python benchmarks/label_table.py --images 1153167 --classes 1000 --ranks 1
python benchmarks/label_table.py --images 1153167 --classes 1000 --ranks 2      # 4.6 GB of memory per rank
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raydet.contract import DataSizes
from raydet.data.order import BatchOrder
from raydet.families.classification.batch import ClassBatch, StepRows
from raydet.families.classification.methods.r2d2 import R2D2
from raydet.group import Group
from raydet.settings import resolve

LABELED, UNLABELED, STEPS = 128, 384, 60


def method() -> R2D2:
    """Return R2-D2 with the published batch."""
    tree = {
        "run": {"dir": "unused"},
        "data": {"labeled": "patterns", "labeled_per_class": 1},
        "method": {"name": "r2d2", "burn_in_steps": 1, "d2_steps": 1000, "finetune_steps": 1},
        "optim": {"steps": 2000, "labeled_batch": LABELED, "unlabeled_batch": UNLABELED, "warmup_steps": 0},
    }
    return R2D2(resolve(tree, {}))


def one_rank(rank: int, world: int, images: int, classes: int, port: int) -> None:
    """Print the median CPU and wall time of a step's work on the table."""
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("gloo", rank=rank, world_size=world)
    group, r2d2 = Group(rank, world), method()
    table = r2d2.build_state(DataSizes(0, images, classes))
    order = BatchOrder(images, UNLABELED, 0, "unlabeled", whole_epochs=True)
    own = range(rank * UNLABELED // world, (rank + 1) * UNLABELED // world)
    said = torch.randn(LABELED // world + len(own), classes, generator=torch.Generator().manual_seed(rank))
    parts: dict[str, list[float]] = {"read": [], "update": [], "cpu": []}
    for step in range(1, STEPS + 1):
        rows = torch.from_numpy(order.positions(step - 1))
        begun, cpu = time.perf_counter(), time.process_time()
        pseudo = table.read(rows[own.start : own.stop])
        read = time.perf_counter()
        batch = ClassBatch(
            step,
            ["x"] * len(said),
            torch.empty(len(said), 0),
            torch.zeros(LABELED // world, dtype=torch.int64),
            pseudo,
            rows=StepRows(rows, torch.tensor(own), 1),
        )
        r2d2.update(table, batch, {"logits": said}, {}, group)
        parts["read"].append(read - begun)
        parts["update"].append(time.perf_counter() - read)
        parts["cpu"].append(time.process_time() - cpu)
    if rank == 0:
        figures = ", ".join(f"{name} {1e3 * statistics.median(values):.2f} ms" for name, values in parts.items())
        print(f"{images:,} x {classes}, {table.nbytes / 1e9:.2f} GB, {world} rank(s), median of {STEPS}: {figures}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_153_167)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--port", type=int, default=29653)
    given = parser.parse_args()
    if given.ranks == 1:
        one_rank(0, 1, given.images, given.classes, given.port)
    else:
        mp.spawn(one_rank, args=(given.ranks, given.images, given.classes, given.port), nprocs=given.ranks)


if __name__ == "__main__":
    main()
