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
from raydet.methods import Method
from raydet.metrics import MetricsWriter
from raydet.tasks.base import Result, Task
from raydet.tasks.window import StepStats, Window
from raydet.train.group import Group
from raydet.train.rundir import RunFolder
from raydet.train.step import StepLosses


class Journal:
    """Writes RUN/metrics.jsonl through the lead rank."""

    def __init__(self, config: RunConfig, task: Task[Any], group: Group, class_names: tuple[str, ...]) -> None:
        self._config, self._task, self._group, self._class_names = config, task, group, class_names
        self._writer = MetricsWriter(RunFolder(config.run.dir).path, config.log.tensorboard) if group.is_lead else None
        self._cpu = time.process_time()
        self._window = Window()
        self._losses: Tensor | None = None  # [T] sums on the device: read only when a line is written
        self._names: tuple[str, ...] = ()
        self._last: dict[str, float | Tensor] = {}
        self._extras: Mapping[str, Any] = {}
        self._barren_steps = 0

    def start(self, step: int, method: Method[Any, Any], *, attempt: int, num_params: int) -> None:
        """Say what begins, or begins again."""
        self._weights = dict(method.loss_weights)
        self._write(
            "start",
            step,
            attempt=attempt,
            world=self._group.world,
            resumed_from=step or None,
            steps=self._config.last_step,
            burn_in_steps=self._config.method.burn_in_steps,
            stage_ends=list(method.stage_ends),
            judged="student" if method.ema_keep_rate is None else "teacher",
            method=self._config.method.name,
            num_params=num_params,
            class_names=list(self._class_names),
        )

    def step(
        self,
        step: int,
        losses: StepLosses,
        stats: StepStats,
        *,
        lr: float,
        grad_norm: Tensor | None,
        times: Mapping[str, float],
        source: Mapping[str, float],
        extras: Mapping[str, Any],
    ) -> None:
        """Take in one step; at log steps merge all ranks' windows and write a line.

        `times` are seconds by name, `source` figures of the label source, `extras` whatever else describes the step.
        """
        self._window.steps += 1
        stats.add_to(self._window)
        self._window.increase(times)
        self._losses = losses.raw if self._losses is None else self._losses + losses.raw
        self._last = {"lr": lr, **{f"source/{name}": value for name, value in source.items()}}
        if grad_norm is not None:
            self._last["grad_norm"] = grad_norm
        self._names, self._extras = losses.names, extras
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
        self._write("checkpoint", step, path=str(path), best=is_best)

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
        return values | self._task.figures(window, self._class_names) if sums["images"] else values

    def _watch(self, step: int, window: Window) -> None:
        """Raise an alarm when the task has found the same fault for a while."""
        alarm = self._task.alarm(window)
        if alarm is None:
            self._barren_steps = 0
            return
        self._barren_steps += window.steps
        if self._barren_steps >= alarm.after_steps:
            self._barren_steps = 0
            self._write("alarm", step, name=alarm.name, message=alarm.message)

    def _write(self, kind: str, step: int, **values: Any) -> None:
        if self._writer is not None:
            self._writer.write({"kind": kind, "step": step, "time": time.time(), **values})
