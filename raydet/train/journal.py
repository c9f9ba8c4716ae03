"""What a run says about itself while it trains: metrics, evaluations, checkpoints, alarms.

Every rank keeps a window of its own figures; at a log step the windows of all ranks are merged and the lead writes.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from raydet.config.run import RunConfig
from raydet.evaluate import EvalResult
from raydet.metrics import MetricsWriter
from raydet.train.batch import LabelStats
from raydet.train.group import Group
from raydet.train.rundir import RunFolder
from raydet.train.step import StepLosses


def _zeros() -> defaultdict[str, float]:
    return defaultdict(float)


@dataclass(slots=True)
class _Window:
    """This rank's sums since the last line; plain numbers, so that windows of several ranks can be added."""

    steps: int = 0
    sums: defaultdict[str, float] = field(default_factory=_zeros)
    highest: dict[str, float] = field(default_factory=dict)
    per_class: Counter[int] = field(default_factory=Counter)

    def add(self, stats: LabelStats) -> None:
        self.increase(
            {
                "images": stats.images,
                "candidates": stats.candidates,
                "kept": stats.kept,
                "degenerate": stats.degenerate,
                "incomplete": stats.incomplete,
                "score": stats.score_sum,
                "quality": stats.quality_sum,
                "age": sum(stats.ages),
                "dropped_quality": stats.dropped_quality,
            }
        )
        if stats.background is not None:
            self.increase({"background": stats.background})
        self.increase({f"dropped/{gate}": number for gate, number in stats.dropped.items()})
        self.raise_to("age_max", max(stats.ages, default=0))
        self.raise_to("best_score", stats.best_score)
        self.per_class.update(dict(enumerate(stats.per_class)))

    def increase(self, by: Mapping[str, float]) -> None:
        for name, value in by.items():
            self.sums[name] += value

    def raise_to(self, name: str, value: float) -> None:
        self.highest[name] = max(self.highest.get(name, 0.0), value)

    def merged(self, others: list[_Window]) -> _Window:
        total = _Window(steps=self.steps)
        for window in others:
            total.increase(window.sums)
            total.per_class.update(window.per_class)
            for name, value in window.highest.items():
                total.raise_to(name, value)
        return total


class Journal:
    """Writes RUN/metrics.jsonl through the lead rank."""

    def __init__(self, config: RunConfig, group: Group, class_names: tuple[str, ...]) -> None:
        self._config, self._group, self._class_names = config, group, class_names
        self._writer = MetricsWriter(RunFolder(config.run.dir).path, config.log.tensorboard) if group.is_lead else None
        self._cpu = time.process_time()
        self._window = _Window()
        self._losses: Tensor | None = None  # [T] sums on the device: read only when a line is written
        self._names: tuple[str, ...] = ()
        self._last: dict[str, float | Tensor] = {}
        self._barren_steps = 0

    def start(self, step: int, weights: Mapping[str, float], *, attempt: int, num_params: int) -> None:
        """Say what begins, or begins again."""
        self._weights = dict(weights)
        method = self._config.method
        self._write(
            "start",
            step,
            attempt=attempt,
            world=self._group.world,
            resumed_from=step or None,
            steps=self._config.last_step,
            burn_in_steps=method.burn_in_steps,
            method=method.name,
            num_params=num_params,
            class_names=list(self._class_names),
        )

    def step(
        self,
        step: int,
        losses: StepLosses,
        stats: LabelStats,
        *,
        lr: float,
        grad_norm: Tensor | None,
        times: Mapping[str, float],
        source: Mapping[str, float],
    ) -> None:
        """Take in one step; at log steps merge all ranks' windows and write a line.

        `times` are seconds by name, `source` figures of the label source.
        """
        self._window.steps += 1
        self._window.add(stats)
        self._window.increase(times)
        self._losses = losses.raw if self._losses is None else self._losses + losses.raw
        self._last = {"lr": lr, **{f"source/{name}": value for name, value in source.items()}}
        if grad_norm is not None:
            self._last["grad_norm"] = grad_norm
        self._names = losses.names
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
        self._window, self._losses = _Window(), None
        self._write("step", step, **self._figures(window, mean_losses), **{k: float(v) for k, v in self._last.items()})
        self._watch(step, window)

    def evaluation(self, step: int, split: str, role: str, result: EvalResult) -> None:
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

    def _figures(self, window: _Window, losses: Mapping[str, float]) -> dict[str, Any]:
        sums, ranks = window.sums, self._group.world
        seconds = sums["step_s"] / ranks
        weighted = {name: self._weights[name] * value for name, value in losses.items()}
        total = sum(weighted.values())
        images = window.steps * self._config.optim.labeled_batch + sums["images"]
        values: dict[str, Any] = {"loss": total, "images_per_s": images / max(seconds, 1e-9)}
        for name in ("step_s", "upkeep_s", "data_wait_s", "label_wait_s"):
            values[name] = sums[name] / ranks / window.steps
        for name, value in losses.items():
            values[f"loss/{name}/raw"] = value
            values[f"loss/{name}/weighted"] = weighted[name]
            values[f"loss/{name}/share"] = weighted[name] / total if total else 0.0
        if not sums["images"]:
            return values
        images, kept = sums["images"], sums["kept"]
        values |= {
            "labels/age_max": window.highest["age_max"],
            "labels/age_mean": sums["age"] / images,
            "labels/incomplete": sums["incomplete"] / images,
            "pseudo/boxes_per_image": kept / images,
            "pseudo/candidates_per_image": sums["candidates"] / images,
            "pseudo/degenerate": sums["degenerate"] / images,
            "pseudo/per_class": [window.per_class[i] / images for i in range(len(self._class_names))],
        }
        if kept:
            values |= {"pseudo/mean_score": sums["score"] / kept, "pseudo/mean_quality": sums["quality"] / kept}
        if by_quality := sums.get("dropped/quality"):
            values["gate/quality/mean_dropped"] = sums["dropped_quality"] / by_quality
        if "background" in sums:
            values["gate/quality/background"] = sums["background"] / images
        prefix = "dropped/"
        return values | {
            f"gate/{name.removeprefix(prefix)}/dropped": number / images
            for name, number in sums.items()
            if name.startswith(prefix)
        }

    def _watch(self, step: int, window: _Window) -> None:
        """Raise an alarm, with the likely cause, when no pseudo-box has survived for a while."""
        method = self._config.method
        if method.name == "supervised" or not window.sums["images"] or window.sums["kept"]:
            self._barren_steps = 0
            return
        self._barren_steps += window.steps
        if self._barren_steps < method.alarm_after_steps:
            return
        self._barren_steps = 0
        best = window.highest["best_score"]
        if not window.sums["candidates"]:
            cause = "the teacher finds nothing at all: the burn-in was too short, or the classes do not match"
        elif best <= method.score_threshold:
            cause = (
                f"the teacher's best score is {best:.2f}, method.score_threshold is {method.score_threshold}: "
                f"lower the threshold or lengthen method.burn_in_steps"
            )
        else:
            cause = (
                "candidates score high enough, but the quality gate drops them all: "
                "lower method.iou_filter_threshold (theta) or lengthen the burn-in"
            )
        self._write("alarm", step, name="no_pseudo_boxes", message=f"no pseudo-box survives: {cause}")

    def _write(self, kind: str, step: int, **values: Any) -> None:
        if self._writer is not None:
            self._writer.write({"kind": kind, "step": step, "time": time.time(), **values})
