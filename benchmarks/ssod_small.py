"""Paired comparison on small real sets: supervised (continued), Unbiased Teacher and IL-net from one burn-in.

    python benchmarks/ssod_small.py --data bccd --labels 20 --seeds 0 1 2 --out runs/ssod_small
    python benchmarks/ssod_small.py --summarise runs/ssod_small

For every (data set, label count, seed): one IL-net run; the other two are forked from its checkpoint at the burn-in's
end and see the same further labelled batches and views. Thresholds were chosen on val; figures are on test, from the
EMA model of every method. Finished runs are not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from raydet.families.detection.config import DetectionConfig
from raydet.settings import load, resolve
from raydet.train.launch import launch
from raydet.train.saved import evaluate_saved

CONFIGS = Path(__file__).parents[1] / "jobs" / "configs"
METHODS = ("supervised", "unbiased_teacher", "il_net")


def config_for(data: str, labels: int, seed: int, method: str, home: Path, overrides: list[str]) -> DetectionConfig:
    base = load(CONFIGS / f"il_net_{data}.yaml", overrides)
    name = f"{data}-{labels}-seed{seed}"
    keys: dict[str, object] = {
        "run.dir": str(home / name / method),
        "seed": seed,
        "data.labeled_count": labels,
        "data.split_seed": seed,
    }
    if method != "il_net":
        il_net = base.method
        shared = {"name": method, "burn_in_steps": il_net.burn_in_steps, "ema_keep_rate": il_net.ema_keep_rate}
        if method == "unbiased_teacher":
            shared |= {"score_threshold": il_net.score_threshold, "unsup_cls_weight": il_net.unsup_cls_weight}
        keys["method"] = shared
        keys["run.fork_from"] = str(home / name / "il_net" / "checkpoints" / f"step_{il_net.burn_in_steps:08d}")
    return resolve(base.model_dump(mode="json"), keys)


def run_one(config: DetectionConfig) -> None:
    folder = Path(config.run.dir)
    result = folder / "result.json"
    if result.exists():
        return
    begun, cpu = time.time(), time.process_time()
    launch(config, resume=(folder / "config.json").exists())
    figures = {
        role: evaluate_saved(folder, data=None, split="test", role=role).as_json() for role in ("teacher", "student")
    }
    seconds = {"wall_s": time.time() - begun, "cpu_s": time.process_time() - cpu}
    result.write_text(json.dumps({"method": config.method.name, "seed": config.seed, **figures, **seconds}, indent=1))


def summarise(home: Path) -> str:
    """Return Markdown tables: means and spreads over seeds, and paired differences to supervised."""
    found: dict[str, dict[str, dict[int, dict]]] = {}
    for file in sorted(home.glob("*/*/result.json")):
        group, seed = file.parts[-3].rsplit("-seed", 1)
        found.setdefault(group, {}).setdefault(file.parts[-2], {})[int(seed)] = json.loads(file.read_text())
    lines = []
    for group, methods in found.items():
        lines += [
            f"### {group}",
            "",
            "| method | seeds | AP | AP50 | AP75 | AP - supervised, paired | CPU-s |",
            "|---|---|---|---|---|---|---|",
        ]
        for method in (m for m in METHODS if m in methods):
            runs = methods[method]
            cells = [_spread([run["teacher"][key] for run in runs.values()]) for key in ("AP", "AP50", "AP75")]
            paired = [
                run["teacher"]["AP"] - methods["supervised"][seed]["teacher"]["AP"]
                for seed, run in runs.items()
                if seed in methods.get("supervised", {})
            ]
            cpu = statistics.mean(run["cpu_s"] for run in runs.values())
            difference = _spread(paired, signed=True) if method != "supervised" and paired else ""
            lines.append(f"| {method} | {len(runs)} | {' | '.join(cells)} | {difference} | {cpu:.0f} |")
        lines += ["", "AP per class (mean over seeds):", ""]
        some = next(iter(methods["il_net"].values()))["teacher"]["per_class"]
        lines += ["| method | " + " | ".join(some) + " |", "|---" * (len(some) + 1) + "|"]
        for method in (m for m in METHODS if m in methods):
            values = [
                statistics.mean(run["teacher"]["per_class"][c]["AP"] for run in methods[method].values()) for c in some
            ]
            lines.append(f"| {method} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
        lines.append("")
    return "\n".join(lines)


def _spread(values: list[float], *, signed: bool = False) -> str:
    mean = statistics.mean(values)
    each = ", ".join(f"{v:+.3f}" if signed else f"{v:.3f}" for v in values)
    return f"{mean:+.3f} ({each})" if signed else f"{mean:.3f} ({each})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("bccd", "cards"))
    parser.add_argument("--labels", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=["il_net", "unbiased_teacher", "supervised"])
    parser.add_argument("--out", type=Path, default=Path("runs/ssod_small"))
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="key=value")
    parser.add_argument("--summarise", type=Path)
    arguments = parser.parse_args()
    if arguments.summarise:
        print(summarise(arguments.summarise))
        return
    for seed in arguments.seeds:
        for method in arguments.methods:
            run_one(config_for(arguments.data, arguments.labels, seed, method, arguments.out, arguments.overrides))
    print(summarise(arguments.out))


if __name__ == "__main__":
    main()
