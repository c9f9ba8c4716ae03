"""What a run says about itself while it trains: metrics, evaluations, checkpoints, alarms.

Every rank keeps a window of its own figures; at a log step the windows of all ranks are merged and the lead writes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from raydet.config.run import RunConfig
from raydet.contract import FamilyRun, Method, Result, StepStats
from raydet.group import Group
from raydet.metrics import MetricsWriter
from raydet.train.rundir import RunFolder
from raydet.train.step import StepLosses
from raydet.window import Window


class Journal:
    """Writes RUN/metrics.jsonl through the lead rank."""

    def __init__(self, config: RunConfig, family: FamilyRun, method: Method[Any, Any], group: Group) -> None:
        self._config, self._family, self._method, self._group = config, family, method, group
        self._writer = MetricsWriter(RunFolder(config.run.dir).path, config.log.tensorboard) if group.is_lead else None
        self._cpu = time.process_time()
        self._window = Window()
        self._losses: Tensor | None = None  # [T] sums on the device: read only when a line is written
        self._names: tuple[str, ...] = ()
        self._last: dict[str, float | Tensor] = {}
        self._extras: Mapping[str, Any] = {}
        self._barren_steps = 0

    def start(self, step: int, *, attempt: int, num_params: int) -> None:
        """Say what begins, or begins again."""
        self._weights = dict(self._method.loss_weights)
        teacher = self._method.teacher()
        self._write(
            "start",
            step,
            attempt=attempt,
            world=self._group.world,
            resumed_from=step or None,
            steps=self._config.last_step,
            burn_in_steps=self._config.method.burn_in_steps,
            stage_ends=list(self._method.stage_ends),
            judged="student" if teacher is None or not teacher.judged else "teacher",
            method=self._config.method.name,
            num_params=num_params,
            class_names=list(self._family.class_names),
        )

    def step(
        self,
        step: int,
        losses: StepLosses,
        stats: StepStats,
        *,
        rates: Mapping[str, float | None],
        grad_norm: Tensor | None,
        times: Mapping[str, float],
        source: Mapping[str, float],
        stage: str | None,
        extras: Mapping[str, Any],
    ) -> None:
        """Take in one step; at log steps merge all ranks' windows and write a line.

        `rates` are learning rates by group of parameters, `times` seconds by name, `source` figures of the label
        source, `extras` whatever else the family says of the step.
        """
        self._window.steps += 1
        stats.add_to(self._window)
        self._window.increase(times)
        self._losses = losses.raw if self._losses is None else self._losses + losses.raw
        self._last = {**_rates(rates), **{f"source/{name}": value for name, value in source.items()}}
        if grad_norm is not None:
            self._last["grad_norm"] = grad_norm
        self._names, self._extras = losses.names, {**extras, **({} if stage is None else {"stage": stage})}
        if step % self._config.log.every == 0:
            self.flush(step)

    def flush(self, step: int) -> None:
        """Write the figures since the last line, if there are any; waits for all ranks.

        Called at checkpoints too, so that a resumed run writes the lines that an uninterrupted one would.
        """
        if self._losses is None:
            return
        window = self._window.merged(self._group.all_gather(self._window))
        mean_losses = dict(zip(self._names, (self._losses / window.steps).tolist(), strict=True))
        self._window, self._losses = Window(), None
        last = {name: float(value) for name, value in self._last.items()}
        self._write("step", step, **self._figures(window, mean_losses), **last, **self._extras)
        self._watch(step, window)

    def evaluation(self, step: int, split: str, role: str, result: Result) -> None:
        """Write the figures of one model."""
        self._write("eval", step, split=split, model=role, **result.as_json())

    def checkpoint(self, step: int, path: Path, *, is_best: bool) -> None:
        """Write that a checkpoint is complete."""
        self._write("checkpoint", step, path=f"{path.parent.name}/{path.name}", best=is_best)

    def alarm(self, step: int, name: str, message: str, **values: Any) -> None:
        """Write that something is wrong."""
        self._write("alarm", step, name=name, message=message, **values)

    def note(self, step: int, message: str) -> None:
        """Write something a reader of the run should know."""
        self._write("note", step, message=message)

    def end(self, step: int, reason: str, *, message: str = "") -> None:
        """Write why training stopped and the CPU seconds of this process since it began, and close the files."""
        self._write("end", step, reason=reason, message=message, cpu_s=time.process_time() - self._cpu)
        if self._writer is not None:
            self._writer.close()

    def _figures(self, window: Window, losses: Mapping[str, float]) -> dict[str, Any]:
        sums, ranks = window.sums, self._group.world
        seconds = sums["step_s"] / ranks
        weighted = {name: self._weights[name] * value for name, value in losses.items()}
        total = sum(weighted.values())
        images = sums["labeled"] + sums["images"]
        values: dict[str, Any] = {"loss": total, "images_per_s": images / max(seconds, 1e-9)}
        for name in ("step_s", "upkeep_s", "data_wait_s", "label_wait_s"):
            values[name] = sums[name] / ranks / window.steps
        for name, value in losses.items():
            values[f"loss/{name}/raw"] = value
            values[f"loss/{name}/weighted"] = weighted[name]
            values[f"loss/{name}/share"] = weighted[name] / total if total else 0.0
        return values | self._family.figures(window) if sums["images"] else values

    def _watch(self, step: int, window: Window) -> None:
        """Raise an alarm when the method has found the same fault for a while."""
        alarm = self._method.explain_barren(window)
        if alarm is None:
            self._barren_steps = 0
            return
        self._barren_steps += window.steps
        if self._barren_steps >= alarm.after_steps:
            self._barren_steps = 0
            self.alarm(step, alarm.name, alarm.message)

    def _write(self, kind: str, step: int, **values: Any) -> None:
        if self._writer is not None:
            self._writer.write({"kind": kind, "step": step, "time": time.time(), **values})


def _rates(rates: Mapping[str, float | None]) -> dict[str, float]:
    """Return `lr`, the rate of the first group that is not frozen, and with several groups `lr/GROUP` of each."""
    moving = {name: rate for name, rate in rates.items() if rate is not None}
    every = {f"lr/{name}": rate or 0.0 for name, rate in rates.items()} if len(rates) > 1 else {}
    return {"lr": next(iter(moving.values()), 0.0), **every}
