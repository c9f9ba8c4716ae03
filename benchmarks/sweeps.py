"""Searches: the grids of IL-net's Tables 1, 3, 4 and 5 in small, and what sharing burn-ins and stopping early saves.

    python benchmarks/sweeps.py --out runs/sweeps            # all parts, one after the other; finished ones are kept
    python benchmarks/sweeps.py --out runs/sweeps --parts beta cost
    python benchmarks/sweeps.py --out runs/sweeps --summarise

`cost`: a 16-point search over theta, beta and gamma (a) with a shared burn-in, (b) the same with ASHA, and (c) some of
its points alone with `raydet train`, to see that they end with the same figures and what each costs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from raydet.metrics import read_metrics
from raydet.sweep.definition import read_definition
from raydet.sweep.results import collect
from raydet.text import percent

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "benchmarks" / "bccd_small.yaml"
TABLES = {
    "beta": "il_net_beta",
    "iou_target": "il_net_iou_target",
    "iou_threshold": "il_net_iou_threshold",
    "branch_inputs": "il_net_branch_inputs",
}
SETTING = [
    "method.burn_in_steps=150",
    "optim.steps=210",
    "optim.unlabeled_batch=4",
    "method.ema_keep_rate=0.97",
    "method.unsup_cls_weight=1",
    "checkpoint.every=1000",
    "eval.every=30",
    "cluster.cpus_per_worker=1",
    "log.tensorboard=false",
]
SIXTEEN = """
from ray import tune
from raydet.sweep.space import Asha, Sweep
sweep = Sweep(
    question="theta, beta and gamma together",
    space={{
        "method.iou_filter_threshold": tune.grid_search([0.3, 0.4, 0.5, 0.6]),
        "method.unsup_reg_weight": tune.grid_search([0.5, 2.0]),
        "method.unsup_iou_weight": tune.grid_search([0.5, 2.0]),
    }},
    scheduler={scheduler},
)
"""
ALONE = ("0000", "0013")


def tune(space: Path, home: Path, setting: list[str]) -> None:
    """Run a search to its end, or go on with it; its wall time lies beside it."""
    if (home / "wall.json").exists():
        return
    words = [
        sys.executable,
        "-m",
        "raydet",
        "tune",
        str(space),
        "--config",
        str(CONFIG),
    ]
    begun = time.time()
    resume = ["--resume"] if (home / "sweep.json").exists() else []
    subprocess.run([*words, *setting, f"run.dir={home}", *resume], check=True)
    (home / "wall.json").write_text(json.dumps({"wall_s": time.time() - begun, "resumed": bool(resume)}))


def alone(home: Path, search: Path, setting: list[str]) -> None:
    """Train points of the search by themselves, burn-in included."""
    for trial in ALONE:
        values = json.loads((search / "trials" / trial / "trial.json").read_text())["overrides"]
        folder = home / trial
        if folder.exists():
            continue
        words = [f"{key}={json.dumps(value)}" for key, value in values.items()]
        command = [sys.executable, "-m", "raydet", "train", str(CONFIG)]
        subprocess.run([*command, *setting, *words, f"run.dir={folder}"], check=True)


def cpu_seconds(run: Path) -> float:
    """Return the CPU seconds of a run's processes, as far as they wrote their end."""
    file = run / "metrics.jsonl"
    return sum(line.get("cpu_s", 0.0) for line in read_metrics(file)) if file.exists() else 0.0


def table_text(home: Path) -> str:
    """Return one table of the paper beside ours, as Markdown."""
    definition = read_definition(home)
    key = definition.keys[0]
    lines = [f"### {definition.name}", "", definition.text, ""]
    lines += ["| " + key.split(".")[-1] + " | AP (val) | AP50 | AP75 | paper's AP |", "|---|---|---|---|---|"]
    for row in collect(home):
        newest, value = row.metrics.newest(), row.values[key]
        published = definition.published.at(row.values) if definition.published else None
        figures = " | ".join(percent(newest.get(n)) for n in ("AP", "AP50", "AP75"))
        lines.append(f"| `{value}` | {figures} | {'' if published is None else published} |")
    return "\n".join([*lines, ""])


def cost_text(home: Path) -> str:
    """Return what the searches cost in CPU seconds of training, and what they found."""
    lines = ["### cost of 16 points", ""]
    lines += ["| | burn-ins, CPU-s | trials, CPU-s | together | best AP (val) | trials | wall s |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name in ("shared", "asha"):
        folder = home / name
        if not (folder / "wall.json").exists():
            continue
        rows, burn_ins = collect(folder), list((folder / "burn_in").iterdir())
        first, rest = sum(map(cpu_seconds, burn_ins)), trials_cpu_seconds(folder)
        best = max(row.figure or 0.0 for row in rows if row.state == "done")
        states = [row.state for row in rows]
        counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
        wall = json.loads((folder / "wall.json").read_text())["wall_s"]
        costs = f"{len(burn_ins)}: {first:.0f} | {rest:.0f} | {first + rest:.0f}"
        lines.append(f"| {name} | {costs} | {percent(best)} | {counts} | {wall:.0f} |")
    in_search = {row.trial.id: row.figure for row in collect(home / "shared")}
    for trial in ALONE:
        run = home / "alone" / trial
        if (run / "metrics.jsonl").exists():
            same = "to the last digit as" if figure(run) == in_search[trial] else "NOT as"
            ap = f"{percent(figure(run))}, {same} in the search"
            lines.append(f"| alone: {trial} | | | {cpu_seconds(run):.0f} | {ap} | | |")
    return "\n".join([*lines, ""])


def trials_cpu_seconds(folder: Path) -> float:
    """Return the CPU seconds of a search's trials; those that the scheduler ended are counted by their steps."""
    whole, per_step, stopped_steps = 0.0, [], 0
    for row in collect(folder):
        seconds = cpu_seconds(folder / "trials" / row.trial.id)
        steps = row.metrics.step - read_definition(folder).base.method.burn_in_steps
        if seconds:
            whole += seconds
            per_step.append(seconds / steps)
        else:
            stopped_steps += steps
    return whole + stopped_steps * sum(per_step) / len(per_step)


def figure(run: Path) -> float:
    """Return the AP of a run's last evaluation."""
    return float([line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "eval"][-1]["AP"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/sweeps"))
    parser.add_argument("--parts", nargs="+", default=[*TABLES, "cost"], choices=[*TABLES, "cost"])
    parser.add_argument("--summarise", action="store_true")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value")
    arguments = parser.parse_args()
    home, setting = arguments.out.absolute(), SETTING + arguments.set
    if not arguments.summarise:
        home.mkdir(parents=True, exist_ok=True)
        for part in arguments.parts:
            if part in TABLES:
                tune(ROOT / "tune_spaces" / f"{TABLES[part]}.py", home / part, setting)
                continue
            for name, scheduler in (("shared", "None"), ("asha", "Asha(grace_steps=180, reduction=2)")):
                space = home / f"sixteen_{name}.py"
                space.write_text(SIXTEEN.format(scheduler=scheduler))
                tune(space, home / name, setting)
            alone(home / "alone", home / "shared", setting)
    print("\n".join(table_text(home / part) for part in TABLES if (home / part / "sweep.json").exists()))
    if (home / "shared" / "sweep.json").exists():
        print(cost_text(home))


if __name__ == "__main__":
    main()
