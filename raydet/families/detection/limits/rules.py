"""What the figures of pseudo-boxes say about what limits a run: one rule, one sentence, and silence otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raydet.contract import Finding
from raydet.families.detection.limits.figures import BoxFigures, ClassCounts, Judged
from raydet.families.detection.thresholds.count import Reading
from raydet.text import percent

ENOUGH = 20  # boxes; a share of fewer is an accident
HALF = 0.5
LOSS = 0.2  # of precision that a lower threshold may cost
MOST, FEWEST = 1.25, 0.5  # pseudo-boxes per true box at a threshold that is recommended: neither a flood nor a trickle
MORE = 0.05  # of the true boxes that it must find, and a quarter more than before
GATE_DROPS = 0.2  # of the right boxes
GATE_LIFTS = 0.1  # of precision; a gate that gives so much may drop right boxes
UNSEEN = 0.05  # of a class's true boxes
CONFUSED = 0.15  # of the kept boxes
CUT_OFF = 0.05  # of the labels
MOST_CLASSES = 5  # in a sentence


def box_findings(found: BoxFigures) -> list[Finding]:
    """Return what limits a run, the weightiest first."""
    judged = found.judged
    if judged is None:
        return [*_density(found), *_incomplete(found)]
    return [
        *_thresholds(found, judged),
        *_gate(found, judged),
        *_wrong_classes(found, judged),
        *_unseen_classes(found, judged),
        *_confused(judged),
        *_incomplete(found),
    ]


def _thresholds(found: BoxFigures, judged: Judged) -> Iterator[Finding]:
    """Most boxes are wrong, or most objects are missed; and whether another score threshold would mend it."""
    now, key = judged.now, found.thresholds.score
    at = f"at {key}={found.score:g}" if judged.at else "at the thresholds that classes have of their own"
    figures = {
        f"precision {at}": percent(now.precision),
        "recall": percent(now.recall),
        "pseudo-boxes": str(now.boxes),
        "true boxes": str(judged.truths),
    }
    if now.boxes >= ENOUGH and now.precision is not None and now.precision < HALF:
        least = max(ENOUGH, FEWEST * judged.truths)
        better = [each for each in judged.at if each.score > found.score and _is_right(each, least)]
        said = f"More than half of the pseudo-boxes are wrong {at}. "
        if better:
            said += f"Raise it: at {better[0].score:g}, {percent(better[0].precision, 0)} % are right."
            figures |= _at(better[0])
        elif not judged.at:
            said += f"{_others(found, 'higher')} a better teacher mends more."
        else:
            said += (
                "No higher threshold mends that and leaves enough of them: the teacher itself must get better. Train "
                "the burn-in longer (method.burn_in_steps), or label more."
            )
        yield Finding(said, figures, uses_truth=True)
    elif judged.truths >= ENOUGH and now.recall is not None and now.recall < HALF:
        said = f"The teacher is unsure: it keeps {percent(now.recall, 0)} % of the true boxes {at}"
        said += f", and {percent(now.precision, 0)} % of what it keeps is right. " if now.boxes else ". "
        lower = _lower(found, judged)
        if lower is not None:
            said += (
                f"Lower it: at {lower.score:g} it keeps {percent(lower.recall, 0)} %, and "
                f"{percent(lower.precision, 0)} % is right."
            )
            figures |= _at(lower)
        elif not judged.at:
            said += f"{_others(found, 'lower')} a better teacher mends more."
        else:
            said += (
                "No lower threshold finds clearly more without being wrong too often: the teacher itself must get "
                "better. Train the burn-in longer (method.burn_in_steps), or label more."
            )
        yield Finding(said + " A student learns what is missed as background.", figures, uses_truth=True)


def _others(found: BoxFigures, how: str) -> str:
    """Say how other thresholds of classes are had, where they are given or where the method makes them."""
    if found.thresholds.by_class is not None:
        return f"raydet thresholds RUN says what {how} ones would give;"
    return f"They are made from {found.thresholds.score}, which may be {how};"


def _lower(found: BoxFigures, judged: Judged) -> Reading | None:
    """Return the reading below the present threshold that finds most, for a bearable loss of precision."""
    recall, precision = judged.now.recall or 0.0, judged.now.precision or HALF
    least = max(recall + MORE, 1.25 * recall)
    able = [
        each
        for each in judged.at
        if each.score < found.score
        and each.is_complete
        and each.boxes <= MOST * judged.truths
        and each.recall is not None
        and each.recall >= least
        and each.precision is not None
        and each.precision >= max(HALF, precision - LOSS)
    ]
    return max(able, key=lambda each: (each.recall or 0.0, each.score), default=None)


def _gate(found: BoxFigures, judged: Judged) -> Iterator[Finding]:
    """The quality gate drops right boxes and makes the rest hardly better."""
    free, now = judged.ungated, judged.now
    if free is None or free.hits < ENOUGH or free.precision is None:
        return
    dropped = 1 - now.hits / free.hits
    lift = (now.precision or 0.0) - free.precision
    if dropped >= GATE_DROPS - 1e-12 and lift < GATE_LIFTS:
        key = found.thresholds.quality
        yield Finding(
            f"The quality gate drops {percent(dropped, 0)} % of the right boxes, and those it leaves are hardly more "
            f"often right: lower {key}.",
            {
                f"right boxes at {key}={found.quality:g}": str(now.hits),
                "right boxes without the gate": str(free.hits),
                "precision with it": percent(now.precision),
                "precision without it": percent(free.precision),
            },
            uses_truth=True,
        )


def _wrong_classes(found: BoxFigures, judged: Judged) -> Iterator[Finding]:
    """Pseudo-boxes of some classes are mostly wrong, although those of all classes are not."""
    if judged.now.precision is None or judged.now.precision < HALF:
        return  # said of all of them already
    wrong = [each for each in judged.classes if each.boxes >= ENOUGH and each.hits < HALF * each.boxes]
    if wrong:
        wrong.sort(key=lambda each: each.hits / each.boxes)
        key = found.thresholds.by_class
        own = f"a higher score threshold of its own ({key})" if key else "a higher score threshold"
        yield Finding(
            f"Pseudo-boxes of {_named(wrong)} are mostly wrong: label more of it, or try {own}.",
            {f"{each.name}, right of kept": f"{each.hits} of {each.boxes}" for each in wrong[:MOST_CLASSES]},
            uses_truth=True,
        )


def _unseen_classes(found: BoxFigures, judged: Judged) -> Iterator[Finding]:
    """Of some classes next to nothing is found."""
    unseen = [each for each in judged.classes if each.truths >= ENOUGH and each.hits < UNSEEN * each.truths]
    if unseen and len(unseen) < len(judged.classes):  # of all classes: the threshold's matter
        unseen.sort(key=lambda each: -each.truths)
        key = found.thresholds.by_class
        own = f", or try a lower score threshold of their own ({key})" if key else ""
        yield Finding(
            f"The teacher finds next to nothing of {_named(unseen)}; the student learns these objects as background: "
            f"label more of them{own}.",
            {f"{each.name}, found of true": f"{each.hits} of {each.truths}" for each in unseen[:MOST_CLASSES]},
            uses_truth=True,
        )


def _confused(judged: Judged) -> Iterator[Finding]:
    """Boxes lie on objects, and have the class of other ones."""
    share = judged.class_errors
    if share is not None and share >= CONFUSED and judged.now.boxes >= ENOUGH and len(judged.classes) > 1:
        yield Finding(
            f"{percent(share, 0)} % of the kept boxes lie on an object of another class: the teacher takes classes for "
            f"each other, which no threshold on boxes mends. More labels of the classes that look alike may.",
            {"boxes with a wrong class": f"{percent(share)} %", "pseudo-boxes": str(judged.now.boxes)},
            uses_truth=True,
        )


def _incomplete(found: BoxFigures) -> Iterator[Finding]:
    share = found.incomplete
    if share is not None and share >= CUT_OFF:
        yield Finding(
            f"{percent(share, 0)} % of the labels were cut off above the score threshold, so boxes are missing from "
            f"them: raise labels.top_k, or the threshold.",
            {"labels cut off, last quarter of the log": f"{percent(share)} %"},
        )


def _density(found: BoxFigures) -> Iterator[Finding]:
    """Without the truth: there are far fewer or far more pseudo-boxes per image than labelled ones."""
    kept, labeled = found.boxes_per_image, found.labeled_boxes_per_image
    if kept is None or not labeled or HALF * labeled <= kept <= labeled / HALF:
        return
    key = found.thresholds.score
    few = kept < labeled
    said = (
        f"The teacher keeps {kept:.2g} boxes per image, where people have drawn {labeled:.2g}: if the unlabelled "
        f"images are like the labelled ones, "
    )
    said += (
        f"it is unsure, and the student learns what is missed as background: lower {key}, or train the burn-in longer."
        if few
        else f"many of them are wrong: raise {key}."
    )
    yield Finding(
        f"{said} raydet thresholds RUN says what to take.",
        {
            "pseudo-boxes per image": f"{kept:.2f}",
            "boxes per labelled image": f"{labeled:.2f}",
            key: f"{found.score:g}",
        },
    )


def _is_right(reading: Reading, least: float) -> bool:
    return reading.boxes >= least and reading.precision is not None and reading.precision >= HALF


def _at(reading: Reading) -> dict[str, str]:
    return {
        f"precision at {reading.score:g}": percent(reading.precision),
        f"recall at {reading.score:g}": percent(reading.recall),
    }


def _named(classes: Sequence[ClassCounts]) -> str:
    names = [each.name for each in classes[:MOST_CLASSES]]
    more = len(classes) - len(names)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) + (
        f" and {more} more" if more else ""
    )
