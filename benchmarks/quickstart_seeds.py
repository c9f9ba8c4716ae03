"""Is `make quickstart` a lucky seed? It is run with others, which draw other labelled images, weights and orders.

    python benchmarks/quickstart_seeds.py --seeds 0 1 2 3 4 --out runs/quickstart_seeds

Runs that are finished are not run again. The pictures are the same for all seeds: those of the quickstart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import machine

from raydet.metrics import Record, read_metrics

QUICKSTART = Path(__file__).parents[1] / "jobs" / "quickstart.py"
METHODS = ("supervised", "il_net")


def last_ap(run: Path) -> float:
    """Return the AP of the newest evaluation of the averaged model."""
    return float(evaluations(run)[-1]["AP"])


def evaluations(run: Path) -> list[Record]:
    """Return the evaluations of the averaged model."""
    return [r for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "eval" and r["model"] == "teacher"]


def is_done(run: Path) -> bool:
    """Whether a run has ended by itself."""
    file = run / "metrics.jsonl"
    return file.exists() and any(r["kind"] == "end" and r["reason"] == "done" for r in read_metrics(file))


def run_seed(seed: int, home: Path, overrides: list[str]) -> float | None:
    """Run the quickstart with a seed; return its minutes, None where it was done before."""
    folder = home / f"seed{seed}"
    if all(is_done(folder / method) for method in METHODS):
        return None
    begun = time.monotonic()
    command = [
        sys.executable,
        str(QUICKSTART),
        *overrides,
        f"seed={seed}",
        f"data.split_seed={seed}",
        f"run.dir={folder}",
    ]
    subprocess.run(command, check=True, env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"})
    return (time.monotonic() - begun) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart_seeds"))
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="key=value")
    arguments = parser.parse_args()
    minutes = {seed: run_seed(seed, arguments.out, arguments.overrides) for seed in arguments.seeds}
    print(f"\n{machine()}\n")
    print("| seed | control AP | IL-net AP | gain | minutes |\n|---|---|---|---|---|")
    gains = []
    for seed in arguments.seeds:
        control, il_net = (last_ap(arguments.out / f"seed{seed}" / method) for method in METHODS)
        gains.append(il_net - control)
        took = "" if minutes[seed] is None else f"{minutes[seed]:.1f}"
        print(f"| {seed} | {100 * control:.1f} | {100 * il_net:.1f} | {100 * gains[-1]:+.1f} | {took} |")
    spread = f" ± {100 * statistics.stdev(gains):.1f}" if len(gains) > 1 else ""
    print(f"| mean | | | {100 * statistics.mean(gains):+.1f}{spread} | |")


if __name__ == "__main__":
    main()
