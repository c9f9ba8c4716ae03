"""The label store and the memory of a run.

    python benchmarks/store.py               # bytes per image, append and read rates
    python benchmarks/store.py --memory      # resident memory of each process of a run with a pool

IL-net stores candidates before NMS, because its gate acts there; Unbiased Teacher stores final detections.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import torch
from common import CHECKOUT, Clock, arguments, base_config, burned_in, machine, spread
from processes import Process, descendants

from raydet.families.detection.data import BOXES
from raydet.labels.convert import from_table, to_table
from raydet.labels.store import PseudoLabelStore, read_all
from raydet.metrics import read_metrics
from raydet.records import PseudoBoxes, TeacherRef
from raydet.registry import AnnotatorFactory
from raydet.train.checkpoint import open_checkpoint
from raydet.train.rundir import RunFolder
from raydet.vision.weights import digest

ROWS_PER_APPEND = 8  # the unlabelled images of one step
METHODS = {
    "il_net": {"name": "il_net"},
    "unbiased_teacher": {"name": "unbiased_teacher"},
}


def labels_of(options: argparse.Namespace, fork: Path, method: str) -> list[PseudoBoxes]:
    """What the burned-in teacher says about every unlabelled image."""
    config = base_config(options, f"store-{method}", method={**METHODS[method], "burn_in_steps": 1})
    folder = RunFolder(config.run.dir)
    BOXES.prepare(config.data, folder.data)
    data = BOXES.open(folder.data)
    annotator = AnnotatorFactory(config, str(folder.data), "cpu")()
    weights = {
        name: value.numpy()
        for name, value in open_checkpoint(fork).tensors("student").items()
        if method == "il_net" or not name.startswith("iou_branch.")
    }
    annotator.load(TeacherRef(1, digest(weights)), weights)
    return annotator.label([data.unlabeled.id_at(i) for i in range(len(data.unlabeled))])


def tables_of(labels: list[PseudoBoxes], rows: int) -> Iterator[pa.Table]:
    """The labels again and again, as if a new teacher had said them each time, in tables of one step."""
    table, version, given = to_table(labels), 0, 0
    while given < rows:
        version += 1
        again = table.set_column(1, table.schema.field("version"), pa.array([version] * len(labels), pa.int64()))
        for start in range(0, len(labels), ROWS_PER_APPEND):
            yield again.slice(start, ROWS_PER_APPEND).combine_chunks()
            given += ROWS_PER_APPEND


def store_part(options: argparse.Namespace, fork: Path) -> None:
    print("\n| store of | boxes per image | bytes per image on disk | bytes per box |\n|---|---|---|---|")
    found = {method: labels_of(options, fork, method) for method in METHODS}
    tables = {method: list(tables_of(labels, options.rows)) for method, labels in found.items()}
    rates: dict[str, dict[str, list[float]]] = {method: {} for method in METHODS}
    folder = options.out / options.data / "store"
    for number in range(options.rounds):
        for method in METHODS:
            shutil.rmtree(folder, ignore_errors=True)
            rows = sum(table.num_rows for table in tables[method])
            for name, clock, count in one_round(folder, tables[method], number):
                rates[method].setdefault(f"{name} (CPU)", []).append(count / max(clock.cpu[0], 1e-9))
                rates[method].setdefault(f"{name} (wall)", []).append(count / clock.wall[0])
            size = sum(file.stat().st_size for file in folder.glob("*.arrow")) / rows
            boxes = sum(len(label) for label in found[method]) / len(found[method])
            if number == 0:
                print(f"| {method} | {boxes:.1f} | {size:.0f} | {size / boxes:.1f} |")
    print(f"\nrows per second: median (quartiles) of {options.rounds} rounds with {rows} rows\n")
    print("| work | " + " | ".join(METHODS) + " |\n|---|---|---|")
    for name in rates["il_net"]:
        print(f"| {name} | " + " | ".join(spread(rates[method][name], digits=0) for method in METHODS) + " |")


def one_round(folder: Path, tables: list[pa.Table], number: int) -> Iterator[tuple[str, Clock, int]]:
    """Write and read one store; yields (what, clock, rows)."""
    rows = sum(table.num_rows for table in tables)
    store = PseudoLabelStore(folder, "benchmark")

    def write() -> None:
        for table in tables:
            store.append(table)
        store.flush()

    clock = Clock()
    clock.measure(write)
    yield "append in steps of 8, fsync per segment", clock, rows
    clock = Clock()
    opened = clock.measure(lambda: reopened(folder, tables))
    yield "open and index", clock, rows
    keys = [
        list(zip(table["version"].to_pylist(), table["image_id"].to_pylist(), strict=True))
        for table in random.Random(number).sample(tables, min(100, len(tables)))
    ]
    clock = Clock()
    clock.measure(lambda: [from_table(opened.get(step)) for step in keys])
    yield "get in steps of 8, as records", clock, sum(len(step) for step in keys)
    clock = Clock()
    clock.measure(lambda: [table.num_rows for table in read_all(folder)])
    yield "read_all, checksums included", clock, rows
    clock = Clock()
    clock.measure(lambda: [len(from_table(table)) for table in read_all(folder)])
    yield "read_all, as records", clock, rows


def reopened(folder: Path, tables: list[pa.Table]) -> PseudoLabelStore:
    store = PseudoLabelStore(folder, "reader")
    for table in tables:
        store.has((table["version"][0].as_py(), ""))
    return store


def memory_part(options: argparse.Namespace, fork: Path) -> None:
    """Start a run with a pool, and look at its processes for as long as it trains."""
    burn_in = open_checkpoint(fork).step
    config = base_config(
        options,
        "memory",
        method__burn_in_steps=burn_in,
        labels__source="pool",
        labels__lookahead=4,
        labels__publish_every=4,
        cluster__backend="ray",
        run__fork_from=str(fork),
        optim__steps=burn_in + options.steps,
        data__loader_threads=2,
        log__every=1,
        log__tensorboard=False,
    )
    folder = RunFolder(config.run.dir)
    shutil.rmtree(folder.path, ignore_errors=True)
    spec = folder.path.with_suffix(".json")
    spec.parent.mkdir(parents=True, exist_ok=True)
    spec.write_text(config.model_dump_json())
    run = subprocess.Popen(
        [sys.executable, "-m", "raydet", "train", str(spec)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        cwd=CHECKOUT,
    )
    highest: dict[str, Process] = {}
    while run.poll() is None:
        for process in descendants(run.pid):
            role = "driver" if process.pid == run.pid else process.role or "Ray itself"
            if role == "Ray itself":
                continue
            if role not in highest or process.rss_mb > highest[role].rss_mb:
                highest[role] = process
        time.sleep(1.0)
    steps = [record for record in read_metrics(folder.metrics) if record["kind"] == "step"]
    print(f"\n{len(steps)} steps, exit code {run.returncode}\n")
    print("| process | highest RSS, MB | PSS then, MB |\n|---|---|---|")
    for role, process in sorted(highest.items()):
        print(f"| {role} | {process.rss_mb:.0f} | {process.pss_mb:.0f} |")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--steps", type=int, default=20, help="of the run with --memory")
    options = parser.parse_args()
    options.out = options.out.resolve()
    torch.set_num_threads(options.threads)
    fork = burned_in(options)
    print(machine(), flush=True)
    (memory_part if options.memory else store_part)(options, fork)


if __name__ == "__main__":
    main()
