"""The runs that are compared: which of them differ by nothing but their seed, and which are pairs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raydet.data.evenly import evenly
from raydet.data.mapped import MappedIndex
from raydet.errors import UserError
from raydet.registry import family_of
from raydet.report.compare.pairs import Pair, PairedGain, paired_gain
from raydet.report.gain import check_comparable, gain_over
from raydet.report.inputs import RunRecords, read_records
from raydet.report.lineage import FORKED, common_start, images_left_out, is_control
from raydet.train.rundir import flat, is_in

# What may differ between runs that mean the same: the seed, the draw of the labelled images, and how it was computed.
_SAME = (
    "run", "seed", "cluster", "pool", "log", "checkpoint", "eval", "data.split_seed", "data.loader_threads",
    "data.prefetch_steps", "labels.timeout_s", "labels.source", "labels.keep_versions",
    "data.on_bad_image",  # which images were left out is compared itself
)  # fmt: skip
LEFT_OUT = "images left out"  # beside the settings that runs may differ by
MOST_KEYS = 3  # in the name of an arm


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """Runs with the same settings, whatever their seeds."""

    name: str
    runs: tuple[RunRecords, ...]


@dataclass(frozen=True, eq=False)
class Compared:
    """Runs whose figures may stand side by side."""

    runs: tuple[RunRecords, ...]
    class_names: tuple[str, ...]
    val_images: int

    def rows_to_show(self, val: MappedIndex, most: int) -> list[int]:
        """Return up to `most` rows of the validation images that the runs were evaluated on, evenly spaced."""
        rows = val.rows_to_judge(self.val_images)
        return [rows[place] for place in evenly(len(rows), most)]

    @property
    def figure(self) -> str:
        """Return the name of the figure that decides."""
        return self.runs[0].figure

    @cached_property
    def names(self) -> dict[Path, str]:
        """Return what each run is called, by its folder: as much of the path's end as tells them apart."""
        return dict(zip([run.folder for run in self.runs], short_names([run.folder for run in self.runs]), strict=True))

    @cached_property
    def arms(self) -> list[Arm]:
        """Return the groups of runs that differ by their seed alone, in order of their first run."""
        groups: dict[str, list[RunRecords]] = {}
        for run in self.runs:
            groups.setdefault(json.dumps(meaning(run), sort_keys=True), []).append(run)
        names = arm_names([(group[0].config.method.name, json.loads(key)) for key, group in groups.items()])
        return [Arm(name, tuple(group)) for name, group in zip(names, groups.values(), strict=True)]

    def arm_of(self, run: RunRecords) -> Arm:
        """Return the arm of a run."""
        return next(arm for arm in self.arms if run in arm.runs)

    @cached_property
    def has_controls(self) -> bool:
        """Whether some of the runs, not all, are trained on labelled images alone."""
        return 0 < sum(map(is_control, self.runs)) < len(self.runs)

    @property
    def baseline(self) -> str:
        """Return what the others are measured against, in words."""
        return "the control" if self.has_controls else f"{self.arms[0].name}, which was given first"

    @cached_property
    def pairs(self) -> list[Pair]:
        """Return each run that has a control among the others, with it; without controls the first arm stands for one.

        Of several the one that shares a checkpoint, then the one that was given first.
        """
        base = [run for run in self.runs if is_control(run)] if self.has_controls else list(self.arms[0].runs)
        found = []
        for run in self.runs:
            if run in base:
                continue
            shared = [(common_start(run, other), other, gain_over(run, other)) for other in base]
            able = [(start, other, gain) for start, other, gain in shared if start is not None and gain is not None]
            if able:
                start, other, gain = min(able, key=lambda each: each[0] != FORKED)
                found.append(Pair(run, other, start, gain))
        return found

    def examples(self, most: int) -> list[RunRecords]:
        """Return the runs that stand for all in pictures: the first of each arm, paired with the first where it can."""
        first = self.arms[0].runs[0]
        found = []
        for arm in self.arms[:most]:
            alike = [run for run in arm.runs if run is first or common_start(first, run) is not None]
            found.append((alike or list(arm.runs))[0])
        if len(found) == 1:  # a single arm: its first runs
            found = list(self.runs[:most])
        return found

    @cached_property
    def paired(self) -> list[tuple[Arm, PairedGain]]:
        """Return the paired gain of every arm that has pairs."""
        found = [(arm, [pair for pair in self.pairs if pair.run in arm.runs]) for arm in self.arms]
        return [(arm, paired_gain(own)) for arm, own in found if own]


def read_runs(folders: Sequence[Path]) -> Compared:
    """Read runs and check that they can be compared. Raises UserError with one message where they cannot."""
    if len(folders) < 2:
        raise UserError("raydet compare: give two run folders or more")
    runs: list[RunRecords] = []
    for folder in folders:
        if (folder / "sweep.json").is_file():
            raise UserError(f"{folder} holds a search; give the runs of its trials, or see raydet report {folder}")
        run = read_records(folder)
        if any(run.folder.resolve() == other.folder.resolve() for other in runs):
            raise UserError(f"{folder} is given twice; give each run once")
        runs.append(run)
    check_comparable(runs)
    for run in runs:
        if not run.points:
            why = "it has no data.val" if run.config.data.val is None else "it is too young (eval.every)"
            why = f"{run.figure} is undefined there" if run.judged else why
            raise UserError(f"{run.folder}: there is no evaluation on val to compare: {why}")
    first = runs[0]
    data = family_of(first.config).open(first.folder / "data")
    number = 0 if data.val is None else len(data.val.rows_to_judge(first.config.eval.max_images))
    return Compared(tuple(runs), data.class_names, number)


def meaning(run: RunRecords) -> dict[str, Any]:
    """Return the settings of a run by dotted key, without what differs between runs that mean the same, and which
    images it left out, as a number and a digest."""
    keys = flat(run.config.model_dump(mode="json"))
    settings = {key: value for key, value in keys.items() if not is_in(key, _SAME)}
    ids = sorted(images_left_out(run))
    digest = hashlib.blake2b("\n".join(ids).encode(), digest_size=4).hexdigest()
    return settings | {LEFT_OUT: f"{len(ids)} ({digest})" if ids else "none"}


def arm_names(arms: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return a name per arm, given its method and settings: the method, and where several have it what differs."""
    names = []
    for method, own in arms:
        twins = [settings for name, settings in arms if name == method]
        keys = [key for key in own if len({json.dumps(each.get(key)) for each in twins}) > 1]
        parts = [f"{key.split('.')[-1]}={own[key]}" for key in keys[:MOST_KEYS]]
        more = ", ..." if len(keys) > MOST_KEYS else ""
        names.append(f"{method} ({', '.join(parts)}{more})" if parts else method)
    return [f"{name} #{place}" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return the ends of paths, as few parts as tell them apart."""
    most = max(len(folder.parts) for folder in folders)
    for length in range(1, most + 1):
        names = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]
