"""Semi-supervised classification on small real sets: every method from the same burn-in, paired by seed.

    python benchmarks/ssl_classification.py --data signdigits --seeds 0 1 2
    python benchmarks/ssl_classification.py --data signdigits --tables 1 2 3 4 --seeds 0 1 2
    python benchmarks/ssl_classification.py --summarise runs/ssl_classification

For each seed (of the labelled subset and of all draws) R2-D2 is trained from scratch; all others are forked from its
checkpoint at the end of stage 1 and see as many images per step and as many steps as its other stages.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from raydet.config.run import RunConfig
from raydet.settings import load, resolve
from raydet.train.launch import launch
from raydet.train.saved import evaluate_saved

CONFIGS = Path(__file__).parents[1] / "jobs" / "configs"
EMA = 0.99
# Name -> settings of R2-D2, or the whole section of another method.
METHODS: dict[str, dict[str, Any]] = {
    "r2d2": {},
    "d2": {"method.reprediction_enabled": False, "method.reduce_lr_enabled": False},
    "repredictions": {"method.reduce_lr_enabled": False},
    "d2_lower_rate": {"method.reprediction_enabled": False},
    "pseudo_label": {"method": {"name": "pseudo_label"}},
    "pseudo_label_repeated": {"method": {"name": "pseudo_label", "reprediction_interval_steps": 60}},
    "mean_teacher": {"method": {"name": "mean_teacher", "ema_keep_rate": EMA, "ramp_up_steps": 150}},
    "supervised": {"method": {"name": "supervised_classifier", "ema_keep_rate": EMA}},
}
PAIRED_WITH = ("supervised", "d2", "d2_lower_rate")
# The baselines' learning rate (with a cosine) out of 0.005, 0.02, 0.05 and Mean Teacher's consistency weight out of
# 10, 100: the best on val at the last step, with split and seed 100.
RATES: dict[str, dict[str, float]] = {
    "signdigits": {"pseudo_label": 0.02, "pseudo_label_repeated": 0.005, "mean_teacher": 0.02, "supervised": 0.02},
    "clothing": {"pseudo_label": 0.05, "pseudo_label_repeated": 0.05, "mean_teacher": 0.02, "supervised": 0.02},
}
CONSISTENCY = {"signdigits": 10.0, "clothing": 100.0}
# Table -> row -> settings of R2-D2; the row without settings is the method itself.
TABLES: dict[int, dict[str, dict[str, Any]]] = {
    1: {
        "a D2 once": {"method.repeat_stage2": False},
        "b repeat": METHODS["d2"],
        "c repeat + reprediction": METHODS["repredictions"],
        "d repeat + lower rate": {"method.reprediction_enabled": False},
        "e both": {},
    },
    2: {
        f"alpha {value:g}": {} if value == 0.1 else {"method.class_loss_weight": value}
        for value in (0.1, 0.2, 0.3, 0.4, 0.5)
    },
    3: {
        f"beta {value:g}": {} if value == 0.03 else {"method.entropy_weight": value}
        for value in (0.01, 0.02, 0.03, 0.04, 0.05)
    },
    4: {
        "KL(prediction || label)": {},
        "KL(label || prediction)": {"method.class_loss_type": "kl_pseudo_to_pred"},
        "squared difference": {"method.class_loss_type": "mse"},
    },
}
PUBLISHED = {
    1: (6.71, 6.37, 6.23, 5.94, 5.78),
    2: (5.78, 5.44, 5.81, 5.90, 6.11),
    3: (5.62, 5.75, 5.78, 5.83, 5.76),
    4: (5.78, 8.06, 6.35),
}


def config_for(data: str, seed: int, name: str, settings: dict[str, Any], home: Path, extra: list[str]) -> RunConfig:
    """Return the run `HOME/DATA-seedS/NAME`."""
    base = load(CONFIGS / f"r2d2_{data}.yaml", extra)
    group = home / f"{data}-seed{seed}"
    keys: dict[str, Any] = {"run.dir": str(group / name), "seed": seed, "data.split_seed": seed}
    burn_in = base.method.burn_in_steps
    keys |= settings
    if "method" in settings:
        keys["method"] = {**settings["method"], "burn_in_steps": burn_in}
        keys |= {"optim.schedule": "cosine", "optim.lr": RATES[data][name]}
    if name == "mean_teacher":
        keys["method"]["consistency_weight"] = CONSISTENCY[data]
    if name == "supervised":
        keys["optim.labeled_batch"] = base.optim.labeled_batch + base.optim.unlabeled_batch
    if name != "r2d2":
        keys["run.fork_from"] = str(group / "r2d2" / "checkpoints" / f"step_{burn_in:08d}")
    return resolve(base.model_dump(mode="json"), keys)


def run_one(config: RunConfig) -> None:
    """Train and measure on the test images, unless that was done."""
    folder = Path(config.run.dir)
    result = folder / "result.json"
    if result.exists():
        return
    begun, cpu = time.time(), time.process_time()
    launch(config, resume=(folder / "config.json").exists())
    roles = ("student", "teacher") if hasattr(config.method, "ema_keep_rate") else ("student",)
    figures = {role: evaluate_saved(folder, data=None, split="test", role=role).as_json() for role in roles}
    seconds = {"wall_s": time.time() - begun, "cpu_s": time.process_time() - cpu}
    result.write_text(json.dumps({"name": folder.name, "seed": config.seed, **figures, **seconds}, indent=1))


def read(home: Path) -> dict[str, dict[str, dict[int, dict[str, Any]]]]:
    """Return data set -> run's name -> seed -> result."""
    found: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for file in sorted(home.glob("*/*/result.json")):
        data, seed = file.parts[-3].rsplit("-seed", 1)
        found.setdefault(data, {}).setdefault(file.parts[-2], {})[int(seed)] = json.loads(file.read_text())
    return found


def error(result: dict[str, Any]) -> float:
    """Return the test error in percent: of the EMA where the method keeps one."""
    return 100 * result.get("teacher", result["student"])["error"]


def summarise(home: Path) -> str:
    """Return Markdown tables."""
    lines = []
    for data, runs in read(home).items():
        pairs_with = " | ".join(f"- {other}, paired" for other in PAIRED_WITH)
        lines += [f"### {data}", "", f"| method | test error % | {pairs_with} | CPU-s |"]
        lines += [f"|---|---|{'---|' * len(PAIRED_WITH)}---|"]
        for name in (name for name in METHODS if name in runs):
            errors = {seed: error(result) for seed, result in runs[name].items()}
            pairs = [paired(errors, runs.get(other, {})) if other != name else "" for other in PAIRED_WITH]
            cpu = statistics.mean(result["cpu_s"] for result in runs[name].values())
            lines.append(f"| {name} | {spread(list(errors.values()))} | {' | '.join(pairs)} | {cpu:.0f} |")
        lines += ["", *tables(runs)]
    return "\n".join(lines)


def tables(runs: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    """Return the paper's tables in small, as far as they were run."""
    lines = []
    for number, rows in TABLES.items():
        names = {row: run_name(number, row, settings) for row, settings in rows.items()}
        if not all(name in runs for name in names.values()):
            continue
        lines += [f"Table {number}:", "", "| row | test error % | paper, CIFAR-10 |", "|---|---|---|"]
        for (row, name), theirs in zip(names.items(), PUBLISHED[number], strict=True):
            lines.append(f"| {row} | {spread([error(result) for result in runs[name].values()])} | {theirs} |")
        lines.append("")
    return lines


def run_name(number: int, row: str, settings: dict[str, Any]) -> str:
    """Return the folder of a table's row; rows that are a method share its run."""
    same = [name for name, known in METHODS.items() if known == settings]
    return same[0] if same else f"table{number}-{row.replace(' ', '-').replace('||', 'to')}"


def spread(values: list[float], *, signed: bool = False) -> str:
    """Return mean, standard deviation and every value."""
    sign = "+" if signed else ""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.2f}{deviation} ({', '.join(f'{value:{sign}.1f}' for value in values)})"


def paired(errors: dict[int, float], others: dict[int, dict[str, Any]]) -> str:
    """Return the differences of runs of the same seed."""
    values = [value - error(others[seed]) for seed, value in errors.items() if seed in others]
    return spread(values, signed=True) if values else ""


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("signdigits", "clothing"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--tables", type=int, nargs="*", default=[], choices=list(TABLES))
    parser.add_argument("--out", type=Path, default=Path("runs/ssl_classification"))
    parser.add_argument("--set", nargs="*", default=[], dest="extra", metavar="key=value")
    parser.add_argument("--summarise", type=Path)
    arguments = parser.parse_args()
    if arguments.summarise:
        print(summarise(arguments.summarise))
        return
    wanted = {name: METHODS[name] for name in arguments.methods}
    for number in arguments.tables:
        wanted |= {run_name(number, row, settings): settings for row, settings in TABLES[number].items()}
    for seed in arguments.seeds:
        for name, settings in wanted.items():
            run_one(config_for(arguments.data, seed, name, settings, arguments.out.absolute(), arguments.extra))
    print(summarise(arguments.out))


if __name__ == "__main__":
    main()
