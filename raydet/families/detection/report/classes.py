"""What a report says of groups of classes, rare ones above all, and of the statistics that a method keeps of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from raydet.data.boxes.federated import FREQUENCIES
from raydet.errors import CheckpointError
from raydet.families.detection.coco import GROUPS, GROUPS_AT_50
from raydet.families.detection.long_tail_config import LongTailConfig
from raydet.families.detection.repeats import class_factors, class_frequencies, images_per_class
from raydet.families.detection.report.history import Select
from raydet.families.detection.report.inputs import Inputs
from raydet.labels.snapshots import read_values, steps_with
from raydet.records import PseudoBoxes
from raydet.report.common import evaluations, marks_of
from raydet.report.figures import lines, surface
from raydet.report.page import Pictures, Section, grid, heading, paragraph, table
from raydet.text import percent, plural
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.rundir import RunFolder

LISTED = (2, 3, 5)  # times in an epoch
BEST = 10  # classes of a group whose labels are looked at, by AP, as in the paper's Fig. 1
CURVES = 4  # classes at either end of the tail that get a curve
Floats = NDArray[np.float64]
Maker = Callable[[Inputs, Pictures], Section]
TITLES = {
    **{"APmaj": "majority", "APmin": "minority", "APr": "rare", "APc": "common", "APf": "frequent"},
    **{"APbase": "base", "APnovel": "novel", "AP50base": "base", "AP50novel": "novel"},
}


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Snapshots of a method's statistics of n classes; background, where it has a number, comes first."""

    steps: list[float]
    values: list[dict[str, Floats]]

    def of(self, name: str, number: int) -> list[float | None]:
        """Return one number of a list over the snapshots."""
        return [float(each[name][number]) for each in self.values]

    def mean(self, name: str, numbers: Sequence[int]) -> list[float | None]:
        """Return the mean of some numbers of a list over the snapshots."""
        return [float(each[name][list(numbers)].mean()) for each in self.values]


def read_statistics(folder: Path) -> Statistics:
    """Read RUN/diagnostics; empty where a method keeps no such statistics. Raises LabelStoreError for damage."""
    steps = steps_with(folder, "values")
    read = [{name: each.astype(np.float64) for name, each in read_values(folder, step).items()} for step in steps]
    return Statistics([float(step) for step in steps], read)


def at_the_time(folder: Path, select: Select) -> Select:
    """Return what is kept of a stored label: by the thresholds of its teacher's time where they are learned, else by
    `select`."""
    steps = steps_with(folder, "values")
    learned = [torch.from_numpy(read_values(folder, step)["thresholds"].copy()) for step in steps]

    def kept(label: PseudoBoxes) -> PseudoBoxes:
        number = bisect_right(steps, label.teacher.version) - 1
        return select(label) if number < 0 else label.where(label.scores > learned[number][label.classes])

    return kept


def are_learned(folder: Path, threshold: float) -> bool:
    """Return whether classes have had thresholds of their own, other than the common one."""
    learned = (read_values(folder, step)["thresholds"] for step in steps_with(folder, "values"))
    return any(not np.allclose(each, threshold, atol=1e-6) for each in learned)


def group_members(run: Inputs) -> dict[str, list[int]]:
    """Return the class numbers of each group that there is: minority and majority, novel and base, LVIS's three."""
    names, found, split = run.class_names, {}, run.config.data.split
    for few, others, chosen in (("minority", "majority", set(split.minority)), ("novel", "base", set(split.novel))):
        if chosen & set(names):
            found[others] = [k for k, name in enumerate(names) if name not in chosen]
            found[few] = [k for k, name in enumerate(names) if name in chosen]
    if run.labeled is not None and (federated := run.labeled.federated) is not None:
        titles = {kind: TITLES[f"AP{kind}"] for kind in FREQUENCIES}
        found |= {
            title: [k for k, each in enumerate(federated.frequency) if each == kind] for kind, title in titles.items()
        }
    return {title: members for title, members in found.items() if members}


def makers(run: Inputs) -> list[Maker]:
    """Return the sections that a run has something to show in."""
    has_statistics = run.labeled is not None and steps_with(run.folder / "diagnostics", "values")
    return [*([groups] if group_members(run) else []), *([balance] if has_statistics else [])]


def groups(run: Inputs, pictures: Pictures) -> Section:
    """Show AP of groups of classes, and how right and how complete the pseudo-labels of their best classes are."""
    title, members = "Groups of classes", group_members(run)
    body = [paragraph("; ".join(f"{name}: {plural(len(each), 'class')}" for name, each in members.items()))]
    shown = []
    for name, kind, figures in (("ap_groups.png", "AP", GROUPS), ("ap50_groups.png", "AP50", GROUPS_AT_50)):
        series = {
            f"{TITLES[figure]}, {model}": points
            for figure in figures
            for model, points in evaluations(run, figure).items()
            if any(value is not None for value in points[1])
        }
        if series:
            content = lines(series, y_label=f"{kind} (%)", marks=marks_of(run))
            shown.append(pictures.figure(name, content, f"{kind} of each group of classes."))
    body += [grid(shown)] if shown else []
    newest = run.kind("eval")[-1] if run.kind("eval") else None
    quality = run.history.windows[-1].quality if run.history.windows else None
    if newest is not None and quality is not None:
        rows = []
        for name, each in members.items():
            ap = {k: newest["per_class"].get(run.class_names[k], {}).get("AP") or 0.0 for k in each}
            best = sorted(each, key=lambda k: -ap[k])[:BEST]
            hits, boxes, truths = (int(column[best].sum()) for column in (quality.hits, quality.boxes, quality.truths))
            rows.append(
                (
                    name,
                    str(len(best)),
                    percent(hits / boxes if boxes else None),
                    percent(hits / truths if truths else None),
                )
            )
        body += [
            heading(f"Pseudo-labels of the {BEST} classes of highest AP of each group, in percent"),
            table(("group", "classes", "precision", "recall"), rows),
        ]
    return Section(title, body)


def balance(run: Inputs, pictures: Pictures) -> Section:
    """Show gradients, weights, thresholds, scores and listings of the classes (Fig. 3 to 6 of the paper)."""
    title, found = "Balance of the classes", read_statistics(run.folder / "diagnostics")
    assert run.labeled is not None and found.values
    counts = run.labeled.boxes_per_class()
    order = np.argsort(counts, kind="stable").tolist()  # rarest first
    figures = [
        *_over_time(run, pictures, found, order),
        *_gradients(run, pictures, found, order),
        *_at_the_end(run, pictures, found, order),
    ]
    lead = (
        f"Classes by their labelled boxes: {run.class_names[order[0]]} has {counts[order[0]]}, "
        f"{run.class_names[order[-1]]} {counts[order[-1]]}. What was averaged over steps, at every evaluation."
    )
    return Section(title, [paragraph(lead), grid(figures)])


def _over_time(run: Inputs, pictures: Pictures, found: Statistics, order: list[int]) -> list[str]:
    """Draw weights and thresholds of the rarest and the commonest classes, and how many images are listed again."""
    chosen = list(dict.fromkeys([*order[:CURVES], *order[-CURVES:]]))
    names = run.class_names
    weights = {names[k]: (found.steps, found.of("weights", k + 1)) for k in chosen}
    thresholds = {names[k]: (found.steps, found.of("thresholds", k)) for k in chosen}
    marks = marks_of(run)
    return [
        pictures.figure(
            "class_weights.png",
            lines(weights | {"background": (found.steps, found.of("weights", 0))}, y_label="weight", marks=marks),
            "Class weights of the rarest and the commonest classes, and of background.",
        ),
        pictures.figure(
            "class_thresholds.png",
            lines(thresholds, y_label="threshold", marks=marks, top=1.0),
            "Thresholds of their pseudo-boxes.",
        ),
        pictures.figure(
            "repeats_over_time.png",
            lines(listed_again(found), y_label="images", marks=marks),
            "How many unlabelled images are listed several times in an epoch.",
        ),
    ]


def listed_again(found: Statistics) -> dict[str, tuple[list[float], list[float | None]]]:
    """Return, over the snapshots, how many images are listed so often or more."""
    return {
        f"{times} times or more": (list(found.steps), [float(each["listed"][times:].sum()) for each in found.values])
        for times in LISTED
    }


def labeled_factors(run: Inputs) -> Floats | None:
    """Return the repeat factor `[n]` of each class in the listing of labelled images, None where they are not so
    listed."""
    method = run.config.method
    if run.labeled is None or not isinstance(method, LongTailConfig) or method.labeled_sampling != "rfs":
        return None
    classes = (run.labeled.classes_at(row) for row in range(len(run.labeled)))
    counted = images_per_class(classes, len(run.class_names))
    return class_factors(class_frequencies(counted, len(run.labeled)), method.rfs_repeat_threshold)


def _gradients(run: Inputs, pictures: Pictures, found: Statistics, order: list[int]) -> list[str]:
    """Draw gradient norms of groups, what pulls one rare class up and down, and the matrix."""
    met = [k for k in order if found.values[-1]["up"][k + 1] > 0] or order
    rare = met[0]
    one = {
        "positive": (found.steps, found.of("up", rare + 1)),
        "negative": (found.steps, found.of("down", rare + 1)),
    }
    return [
        *_gradients_of_groups(run, pictures, found, order),
        pictures.figure(
            "gradients_of_one.png",
            lines(one, y_label="gradient", marks=marks_of(run)),
            f"Positive and negative gradient of {run.class_names[rare]}, the rarest class that was met.",
        ),
        *_matrix(run, pictures, order),
    ]


def _gradients_of_groups(run: Inputs, pictures: Pictures, found: Statistics, order: list[int]) -> list[str]:
    members = group_members(run)
    if not members:
        half = len(order) // 2 or 1
        members = {"rarer half": order[:half], "commoner half": order[half:] or order}
    drawn = {
        "": ("gradients.png", "What pulls the logits of a class up and down, without class weights: means of groups.")
    }
    if all("up_weighted" in each for each in found.values):  # not in runs of older versions
        caption = "The same with the class weights of the time, which are to make the two equal."
        drawn["_weighted"] = ("gradients_weighted.png", caption)
    shown = []
    for ending, (name, caption) in drawn.items():
        series = {
            f"{group}, {kind}": (found.steps, found.mean(f"{kind}{ending}", [k + 1 for k in each]))
            for group, each in members.items()
            for kind in ("up", "down")
        }
        shown.append(pictures.figure(name, lines(series, y_label="mean gradient", marks=marks_of(run)), caption))
    return shown


def last_matrix(run_dir: Path) -> tuple[int, Floats] | None:
    """Return step and class matrix `[n + 1, n + 1]` of the newest checkpoint; None where there is none.

    It is not among the snapshots: of LVIS's classes it has 6 MB. Raises CheckpointError for damage.
    """
    checkpoint = latest_checkpoint(RunFolder(run_dir).checkpoints)
    if checkpoint is None or not checkpoint.has("memory"):
        return None
    return checkpoint.step, checkpoint.tensors("memory")["matrix"].double().numpy()


def _matrix(run: Inputs, pictures: Pictures, order: list[int]) -> list[str]:
    try:
        found = last_matrix(run.folder)
    except CheckpointError as error:
        return [paragraph(f"No class matrix: {error}", "absent")]
    if found is None:
        return []
    step, matrix = found
    matrix, size = matrix[np.ix_(*[[0, *(k + 1 for k in order)]] * 2)], len(order) + 1
    picture = surface(
        np.abs(matrix),
        x=("logit: background, then classes, rarest first", list(range(size))),
        y=("RoIs of: background, then classes", list(range(size))),
        color_label="gradient (absolute)",
        marks={},
        logarithmic=True,
    )
    caption = f"The class matrix at step {step}: what RoIs of each class (row) pull at each logit (column)."
    return [pictures.figure("class_matrix.png", picture, caption)]


def _at_the_end(run: Inputs, pictures: Pictures, found: Statistics, order: list[int]) -> list[str]:
    """Draw scores, logits and repeat factors of all classes by rank, and how often unlabelled images are listed."""
    last, ranks = found.values[-1], [float(rank) for rank in range(len(order))]
    scores = {"mean score": (ranks, [float(last["scores"][k]) for k in order])}
    logits = {"mean own logit": (ranks, [float(last["logits"][k + 1]) for k in order])}
    listed = last["listed"]
    times = {"images": ([float(n) for n in range(1, len(listed))], [float(each) for each in listed[1:]])}
    x_label = "class, rarest first"
    shown = []
    if (factors := labeled_factors(run)) is not None:
        repeats = {"repeat factor": (ranks, [float(factors[k]) for k in order])}
        content = lines(repeats, y_label="times in an epoch", x_label=x_label, smooth=False)
        caption = "How often labelled images of a class are listed, all along."
        shown.append(pictures.figure("labeled_repeats.png", content, caption))
    return [
        *shown,
        pictures.figure(
            "class_scores.png",
            lines(scores, y_label="score", x_label=x_label, smooth=False, top=1.0),
            "The teacher's mean score of each class, over all detections.",
        ),
        pictures.figure(
            "class_logits.png",
            lines(logits, y_label="logit", x_label=x_label, smooth=False),
            "The mean logit that RoIs of a class give to it.",
        ),
        pictures.figure(
            "repeats.png",
            lines(times, y_label="images", x_label="times in an epoch", smooth=False),
            "How often unlabelled images are listed at the end.",
        ),
    ]
