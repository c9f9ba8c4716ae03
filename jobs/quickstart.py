"""`make quickstart`: IL-net and its control on the built-in generated data set, side by side, on two CPU cores.

    python jobs/quickstart.py [key=value ...]

Both runs share one burn-in and see the same labelled batches afterwards; what differs is the unlabelled images.
"""

from __future__ import annotations

import sys
from pathlib import Path

from raydet.cli import run_guarded
from raydet.metrics import read_metrics
from raydet.report.write import write_report
from raydet.settings import load
from raydet.train.launch import launch

CONFIG = Path(__file__).parent / "configs" / "quickstart.yaml"


def free_folder(wanted: Path) -> Path:
    """Return `wanted`, or `wanted-2`, `wanted-3`, ...: an earlier quickstart is left alone."""
    folder, number = wanted, 2
    while folder.exists():
        folder, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return folder


def final_ap(run: Path, model: str, step: int) -> dict[str, float | None]:
    """Return the figures of one evaluation."""
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "eval"]
    (found,) = [line for line in lines if line["model"] == model and line["step"] == step]
    return {name: found[name] for name in ("AP", "AP50", "AP75")}


def main() -> int:
    """Train, evaluate, report."""
    overrides = sys.argv[1:]
    wanted = [text.removeprefix("run.dir=") for text in overrides if text.startswith("run.dir=")]
    home = Path(wanted[-1]) if wanted else free_folder(Path("runs") / "quickstart")
    config = load(CONFIG, [*overrides, f"run.dir={home / 'il_net'}"])
    burn_in, steps = config.method.burn_in_steps, config.optim.steps

    print("== 1/2 IL-net: burn-in on the labelled images, then the teacher labels the others ==", flush=True)
    il_net = launch(config).path
    fork = il_net / "checkpoints" / f"step_{burn_in:08d}"
    print("\n== 2/2 control: the same burn-in, continued on the labelled images alone ==", flush=True)
    method = f"{{name: supervised, burn_in_steps: {burn_in}, ema_keep_rate: {config.method.ema_keep_rate}}}"
    control = launch(
        load(
            CONFIG,
            [
                *(text for text in overrides if not text.startswith("method.")),
                f"run.dir={home / 'supervised'}",
                f"run.fork_from={fork}",
                f"method={method}",
                "labels.source=inline",
                "labels.lookahead=0",
            ],
        )
    ).path

    rows = {
        f"after the burn-in ({burn_in} steps)": final_ap(il_net, "student", burn_in),
        f"supervised, continued to {steps} (EMA)": final_ap(control, "teacher", steps),
        f"IL-net, {steps} steps (teacher)": final_ap(il_net, "teacher", steps),
    }
    print(f"\n{'':42}{'AP':>8}{'AP50':>8}{'AP75':>8}")
    for name, row in rows.items():
        print(f"{name:42}" + "".join("     n/a" if v is None else f"{v:8.3f}" for v in row.values()))
    print("one seed on a small generated set: see benchmarks/ for paired comparisons over seeds and real images\n")
    print(f"report with plots: {write_report(il_net)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(main, again="start it again: it takes another folder"))
