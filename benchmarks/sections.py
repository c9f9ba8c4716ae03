"""Where the time of raydet's own loop goes: its functions, wrapped in exclusive CPU clocks."""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict
from typing import Any

import torch
from common import SteppedTrainer

import raydet.families.detection.annotator
import raydet.families.detection.run
import raydet.families.detection.view_recipes
import raydet.labels.source
import raydet.train.loop
from raydet.data.boxes.index import DatasetIndex
from raydet.families.detection.annotator import DetectorAnnotator
from raydet.families.detection.loader import StepLoader
from raydet.families.detection.methods.il_net import IlNet
from raydet.labels.source import InlineSource
from raydet.labels.store import PseudoLabelStore
from raydet.text import percent
from raydet.train.journal import Journal
from raydet.train.loop import Trainer
from raydet.train.step import StepLosses, StepModule
from raydet.vision.ema import EmaTeacher

LOOP, RUN, ANNOTATOR, SOURCE, RECIPES = (
    raydet.train.loop,
    raydet.families.detection.run,
    raydet.families.detection.annotator,
    raydet.labels.source,
    raydet.families.detection.view_recipes,
)
# (owner, attribute, section). Time inside a nested section counts for the inner one only.
PLACES: tuple[tuple[Any, str, str], ...] = (
    (DatasetIndex, "pixels_at", "decode"),
    (RECIPES, "weak_view", "weak view"),
    (RECIPES, "drawn", "strong view"),
    (RECIPES, "with_pillow", "strong view"),
    (StepLoader, "take", "loader: order, targets, records"),
    (ANNOTATOR, "collate", "teacher forward"),
    (IlNet, "annotate", "teacher forward"),
    (DetectorAnnotator, "label", "teacher: records in original pixels"),
    (LOOP, "weights_of", "publish: snapshot"),
    (LOOP, "digest", "publish: digest"),
    (DetectorAnnotator, "load", "publish: load into the teacher"),
    (SOURCE, "to_table", "label store: to Arrow and back"),
    (SOURCE, "from_table", "label store: to Arrow and back"),
    (PseudoLabelStore, "append", "label store: append"),
    (PseudoLabelStore, "has", "label store: append"),
    (InlineSource, "request", "label source: the rest"),
    (RUN, "assemble", "select, NMS, targets, label figures"),
    (StepModule, "forward", "student forward"),
    (torch.Tensor, "backward", "student backward"),
    (LOOP, "backward", "loss normalisation"),
    (StepLosses, "check_finite", "loss normalisation"),
    (Trainer, "optimizer_step", "clip and AdamW"),
    (EmaTeacher, "update", "EMA"),
    (Journal, "step", "journal"),
)


class Sections:
    """Exclusive CPU seconds by section, step by step. One thread."""

    def __init__(self) -> None:
        self.steps: dict[str, list[float]] = defaultdict(list)
        self._now: dict[str, float] = defaultdict(float)
        self._names = {"everything else"}
        self._inner = [0.0]  # seconds spent in nested sections, per open section

    def watch(self, owner: Any, name: str, section: str) -> None:
        function = getattr(owner, name)
        self._names.add(section)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.process_time() - began
                own = took - self._inner.pop()
                self._inner[-1] += took
                self._now[section] += own

        setattr(owner, name, timed)

    def end_step(self, whole: float) -> None:
        self._now["everything else"] = whole - sum(self._now.values())
        for name in self._names:
            self.steps[name].append(self._now[name])
        self._now.clear()
        self._inner[:] = [0.0]


def profile(step: SteppedTrainer, rounds: int, warm_up: int) -> str:
    """Return a Markdown table: mean and median CPU milliseconds per step by section."""
    sections = Sections()
    for _ in range(warm_up):
        step()
    for place in PLACES:
        sections.watch(*place)
    whole = []
    for _ in range(rounds):
        began = time.process_time()
        step()
        whole.append(time.process_time() - began)
        sections.end_step(whole[-1])
    total = statistics.mean(whole)
    order = list(dict.fromkeys(section for _, _, section in PLACES)) + ["everything else"]
    lines = ["", f"| section | mean CPU ms of {rounds} steps | median | share |", "|---|---|---|---|"]
    for name in order:
        mean, middle = statistics.mean(sections.steps[name]), statistics.median(sections.steps[name])
        lines.append(f"| {name} | {1e3 * mean:.2f} | {1e3 * middle:.2f} | {percent(mean / total, 2)} % |")
    lines.append(f"| whole step | {1e3 * total:.1f} | {1e3 * statistics.median(whole):.1f} | 100 % |")
    return "\n".join(lines)
