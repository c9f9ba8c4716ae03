"""Folders of searches, written by hand: what `raydet tune` would leave, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raydet.metrics import MetricsWriter
from raydet.sweep.folder import SweepFolder, Trial
from tests.helpers import tiny_config

BETA = "method.unsup_reg_weight"
BURN_IN, STEPS = 10, 40


def write_search(
    folder: Path,
    *,
    keys: tuple[str, ...] = (BETA,),
    seeds: tuple[int, ...] = (0,),
    published: dict[float, float] | None = None,
    metric: str = "AP",
    mode: str = "max",
    name: str = "il_net_beta",
    curves: dict[str, str] | None = None,
) -> SweepFolder:
    """Write sweep.json of a search without trials."""
    home = SweepFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    base = tiny_config(folder, method__burn_in_steps=BURN_IN, optim__steps=STEPS).model_dump(mode="json")
    points = [{"values": {keys[0]: value}, "AP": ap} for value, ap in (published or {}).items()]
    header = {
        "format": 1, "raydet": "0.1.0", "name": name, "question": "How strong?", "metric": metric, "mode": mode,
        "keys": list(keys), "seeds": list(seeds), "search": "random", "scheduler": "none", "settings": {},
        "samples": 1, "space": {key: "?" for key in keys},
        "published": {"source": "IL-net, Table 1", "metric": "AP, COCO val", "points": points} if published else None,
        "base": base,
    }  # fmt: skip
    if curves is not None:
        header["curves"] = curves
    home.header_file.write_text(json.dumps(header))
    return home


def add_trial(
    home: SweepFolder,
    trial_id: str,
    values: dict[str, Any],
    curve: dict[int, float] | None = None,
    *,
    seed: int = 0,
    state: str = "done",
    message: str = "",
    burn_in: str | None = "key",
    settings: dict[str, Any] | None = None,
) -> None:
    """Add a trial whose teacher was measured at the steps of `curve` (step -> AP)."""
    overrides = {key: value for key, value in values.items() if key != "variant"} | (settings or {})
    point = int(trial_id.split("-")[0])
    home.save(Trial(trial_id, point, seed, values, overrides, burn_in, state, message))  # type: ignore[arg-type]
    if curve is not None:
        write_metrics(home.run_dir(trial_id), curve, start=BURN_IN if burn_in else 0)


def write_metrics(run: Path, curve: dict[int, float], *, start: int, until: int = STEPS) -> None:
    """Write metrics of one step a second from `start` on, with an evaluation of both models at the steps of `curve`."""
    writer = MetricsWriter(run, tensorboard=False)
    writer.write(started(start))
    for step in range(start + 5, max(curve, default=until) + 1, 5):
        writer.write({"kind": "step", "step": step, "time": 1000.0 + step, "loss": 1.0, "step_s": 1.0})
        if step in curve:
            writer.write(evaluated(step, curve[step] / 2, model="student"))
            writer.write(evaluated(step, curve[step]))
    writer.close()


def started(step: int, *, at: float | None = None) -> dict[str, Any]:
    """Return the record a run begins with."""
    return {
        "kind": "start", "step": step, "time": 1000.0 + step if at is None else at, "attempt": 1, "world": 1,
        "steps": STEPS, "burn_in_steps": BURN_IN, "method": "il_net",
    }  # fmt: skip


def evaluated(step: int, ap: float, *, model: str = "teacher", at: float | None = None) -> dict[str, Any]:
    """Return the record of an evaluation on val; AP50 is twice the AP, AP75 does not exist."""
    return {
        "kind": "eval", "step": step, "time": 1000.0 + step if at is None else at, "split": "val", "model": model,
        "AP": ap, "AP50": 2 * ap, "AP75": None,
    }  # fmt: skip
