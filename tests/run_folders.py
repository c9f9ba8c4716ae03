"""Run folders with data and evaluations, written without training."""

from __future__ import annotations

import json
from pathlib import Path

from raydet.families.detection.data import BOXES
from raydet.report.inputs import read_records
from raydet.settings import resolve
from raydet.train.rundir import RunFolder
from tests.helpers import TINY, TINY_SOFT, tiny_config

METHODS = {
    "il_net": TINY["method"],
    "supervised": {"name": "supervised", "burn_in_steps": 3, "ema_keep_rate": 0.5},
    "soft_teacher": {**TINY_SOFT, "burn_in_steps": 3, "ema_keep_rate": 0.5},
    "gradient_sampling": {**TINY_SOFT, "name": "gradient_sampling", "burn_in_steps": 3, "ema_keep_rate": 0.5},
}
AP = {3: ("student", 0.1), 5: ("teacher", 0.2), 8: ("teacher", 0.3)}


def write_run(folder: Path, method: str = "il_net", figures: dict[int, tuple[str, float]] = AP, **changes: object):
    """Write a run folder with data and evaluations, without training; `changes` by dotted key."""
    tree = {**tiny_config(folder).model_dump(mode="json"), "method": METHODS[method]}
    config = resolve(tree, {key.replace("__", "."): value for key, value in changes.items()})
    run = RunFolder(folder)
    run.prepare(config, resume=False)
    BOXES.prepare(config.data, run.data)
    records = [{"kind": "start", "step": 0, "time": 0.0, "judged": "teacher", "class_names": []}]
    for step, (model, value) in figures.items():
        record = {"kind": "eval", "split": "val", "step": step, "time": 1.0, "model": model, "AP": value, "AP50": value}
        records.append(record | {"per_class": {"circle": {"AP": value, "AP50": value}}})
    run.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_records(folder)
