"""What a run has gained over its control, or since its burn-in where there is no control."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydet.data.mapped import MappedIndex
from raydet.errors import UserError
from raydet.metrics import Record, mode_of
from raydet.registry import family_of, methods_of
from raydet.report.inputs import RunRecords, read_records
from raydet.report.lineage import common_start, find_control, origin_of

EVEN = 0.005  # half a point is less than what two seeds of the same run differ by
MOST_NAMES = 8  # of classes in a message


@dataclass(frozen=True, slots=True)
class Gain:
    """A run's figure beside its control's, at the last step that both were evaluated at."""

    figure: str
    ours: Record
    theirs: Record

    @property
    def step(self) -> int:
        """Return the step."""
        return int(self.ours["step"])

    @property
    def difference(self) -> float:
        """Return by how much the run is better; a share, below 0 where it is worse."""
        sign = 1.0 if mode_of(self.figure) == "max" else -1.0
        return sign * float(self.ours[self.figure] - self.theirs[self.figure])

    @property
    def is_like_with_like(self) -> bool:
        """Whether both are figures of a teacher, or both of a student: averaging alone changes a figure."""
        return bool(self.ours["model"] == self.theirs["model"])


@dataclass(frozen=True, slots=True, eq=False)
class Control:
    """A run that another one is measured against."""

    run: RunRecords
    shared: str | None  # what both started from: see `lineage`; None: nothing that the figures tell of


def gain_over(run: RunRecords, control: RunRecords) -> Gain | None:
    """Return the gain at the last step that both have a figure of; None where there is no such step."""
    ours, theirs = ({r["step"]: r for r in each.judged if r.get(run.figure) is not None} for each in (run, control))
    steps = ours.keys() & theirs.keys()
    return None if not steps else Gain(run.figure, ours[max(steps)], theirs[max(steps)])


def control_of(run: RunRecords, given: Path | None) -> Control | None:
    """Return the control that the user names, or the one that lies beside the run; None where there is none.

    Raises UserError where the one that is named cannot be compared with the run.
    """
    if given is None:
        if not run.config.uses_labels:
            return None
        found = find_control(run)
        return None if found is None else Control(*found)
    control = read_records(given)
    if control.folder.resolve() == run.folder.resolve():
        raise UserError(f"--control {given}: that is the run itself; give the run that it is to be measured against")
    check_comparable([run, control])
    if gain_over(run, control) is None:
        raise UserError(
            f"--control {given}: there is no step at which both {run.folder} and it were evaluated on val; use the "
            f"same eval.every and optim.steps"
        )
    return Control(control, common_start(run, control))


def check_comparable(runs: list[RunRecords]) -> None:
    """Raise UserError unless figures of the runs may stand side by side: same kind, same classes, same val images."""
    first, *others = runs
    for other in others:
        if other.config.family != first.config.family:
            kinds = f"the first trains a {first.config.trains}, the second a {other.config.trains}"
            raise UserError(f"{_pair(first, other)}: {kinds}; compare runs of one kind")
    sets = [family_of(run.config).open(run.folder / "data") for run in runs]
    names, val = sets[0].class_names, _val(first, sets[0].val)
    for other, theirs in zip(others, sets[1:], strict=True):
        if theirs.class_names != names:
            classes = f"{_names(names)} against {_names(theirs.class_names)}"
            raise UserError(f"{_pair(first, other)}: their classes differ: {classes}")
        if _val(other, theirs.val) != val and None not in (val, _val(other, theirs.val)):
            raise UserError(
                f"{_pair(first, other)}: they were evaluated on different images (data.val, eval.max_images, or "
                f"damaged pictures left out); evaluate both on one set with raydet evaluate RUN --data SET"
            )


def how_to_get_a_control(run: RunRecords) -> str:
    """Return the command that trains a control; words where there is none."""
    config = run.config
    known = [each for each in methods_of(type(config)) if not each.uses_labels]
    origin = origin_of(run.folder, config)
    own = "".join(f" {shlex.quote(f'{k}={json.dumps(v)}')}" for k, v in config.method.settings_for_control().items())
    if not known or origin is None:
        settings = f" and{own}" if own else ""
        return f"train one on the labelled images alone, with the same seed{settings}, and name it with --control RUN"
    method = f"name: {known[0].called()}, burn_in_steps: {config.method.burn_in_steps}"
    keep = config.method.keep_rate
    if keep is not None and "ema_keep_rate" in known[0].model_fields:
        method += f", ema_keep_rate: {keep:g}"
    alone = "" if config.labels.source == "inline" else " labels.source=inline labels.lookahead=0"
    return (
        f"raydet train {run.folder}/config.yaml run.dir={run.folder}-control run.fork_from={origin} "
        f"'method={{{method}}}'{own}{alone}"
    )


def have_same_views(a: RunRecords, b: RunRecords) -> bool:
    """Return whether two runs see labelled images alike: other views alone change a figure."""
    views = [(getattr(each.config.data, "views", None), each.config.method.own_views) for each in (a, b)]
    return views[0] == views[1]


def other_listing(run: RunRecords, control: RunRecords) -> str | None:
    """Say how often a control lists labelled images, and the run; None where both do so alike: that alone changes a
    figure, too."""
    ours, theirs = (each.config.method.labeled_listing for each in (run, control))
    return None if ours == theirs else f"{_listing(theirs)}, the run {_listing(ours)}"


def _listing(settings: Mapping[str, Any]) -> str:
    return "by " + ", ".join(f"method.{key}={value}" for key, value in settings.items()) if settings else "once each"


def _val(run: RunRecords, index: MappedIndex | None) -> tuple[str, list[int]] | None:
    """Name the images that a run was evaluated on."""
    return None if index is None else (index.content, index.rows_to_judge(run.config.eval.max_images))


def _pair(first: RunRecords, other: RunRecords) -> str:
    return f"{first.folder} and {other.folder} cannot be compared"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (f", ... ({len(names)})" if len(names) > MOST_NAMES else "")
