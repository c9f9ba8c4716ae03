"""The first section of a run's report: what was gained, and what limits it, each with the figures that say so."""

from __future__ import annotations

from collections.abc import Sequence

from raydet.contract import Finding
from raydet.report.common import NO_EVALUATION, named, share
from raydet.report.gain import EVEN, Control, Gain, gain_over, have_same_views, how_to_get_a_control, other_listing
from raydet.report.inputs import RunRecords
from raydet.report.page import Section, findings, folded, heading, paragraph, tiles
from raydet.report.trends import curve_findings, is_past_burn_in
from raydet.text import plural, signed_percent

TITLE = "The answer"
TRUTH = (
    "What is right and wrong was counted with the hidden truth of the unlabelled images. It is there to understand a "
    "run; settings that a result depends on are chosen on labelled images that are withheld from training."
)


def answer(run: RunRecords, control: Control | None, limits: Sequence[Finding]) -> Section:
    """Say what a run gained, and what limits it: `limits`, from the family, and what the curves say."""
    body = gained(run, control)
    if run.points:
        found = [*limits, *curve_findings(run, None if control is None else control.run)]
        if found:
            body += [heading("What limits it"), findings((each.sentence, each.figures) for each in found)]
            body += [paragraph(TRUTH)] if any(each.uses_truth for each in found) else []
        else:
            body.append(paragraph("Its figures do not say what limits it."))
    return Section(TITLE, body)


def gained(run: RunRecords, control: Control | None) -> list[str]:
    """Say what was gained over the control; without one, since the burn-in's end; nothing before that."""
    if not run.points:
        return [paragraph(NO_EVALUATION, "absent")]
    name, (step, value), burn_in = run.figure, run.points[-1], run.config.method.burn_in_steps
    shown = {f"{name} at step {step}": share(name, value)}
    if run.config.uses_labels and not is_past_burn_in(run):
        return [tiles(shown), paragraph(_in_burn_in(run), "")]
    gain = None if control is None else gain_over(run, control.run)
    if control is not None and gain is not None and not (run.config.uses_labels and gain.step <= burn_in):
        return _over_control(run, control, gain)
    before = [point for point in run.points if point[0] <= burn_in]
    if not run.config.uses_labels or not before:
        alone = _no_control(run) if run.config.uses_labels else _trained_on(run)
        return [tiles(shown), paragraph(alone, ""), *_command(run)]
    first_step, first = before[-1]
    shown |= {
        f"at the burn-in's end, step {first_step}": share(name, first),
        "since then": signed_percent(value - first),
    }
    said = (
        f"Since the burn-in's end {name} has changed by {signed_percent(value - first)} points. How much of that is "
        f"due to the unlabelled images cannot be said: the labelled ones were trained on as well. {_no_control(run)}"
    )
    return [tiles(shown), paragraph(said, ""), *_command(run)]


def _over_control(run: RunRecords, control: Control, gain: Gain) -> list[str]:
    name = gain.figure
    shown = {
        "gain over the control": signed_percent(gain.difference),
        f"{name} at step {gain.step}": share(name, gain.ours[name]),
        f"{named(run, name)} of the control": share(name, gain.theirs[name]),
    }
    other = control.run
    place = other.folder.name if other.folder.parent == run.folder.parent else str(other.folder)
    who = place if place == other.config.method.name else f"{other.config.method.name} in {place}"
    past = control.shared or "neither a checkpoint nor seed, labelled images and settings"
    verdict = _verdict(gain, _causes(run, other))
    said = f"{verdict} than the control, {who}, at step {gain.step}. The two have {past} in common."
    body = [tiles(shown), paragraph(said, ""), *(paragraph(text, "alarm") for text in _doubts(run, control, gain))]
    lasts = [each.points[-1][0] for each in (run, control.run)]
    if max(lasts) > gain.step:
        body.append(paragraph(f"The last evaluations are at steps {lasts[0]} and {lasts[1]} (control)."))
    body.append(
        paragraph(
            "One run of each: two seeds of the same run differ by as much as a point or two. Pairs over several seeds: "
            "raydet compare RUN CONTROL RUN CONTROL ..."
        )
    )
    return body


def _doubts(run: RunRecords, control: Control, gain: Gain) -> list[str]:
    """Return what the reader should know before believing the difference."""
    name, found = gain.figure, []
    if not gain.is_like_with_like:
        ours, theirs = gain.ours["model"], gain.theirs["model"]
        found.append(
            f"Its figure is that of a {ours}, the control's that of a {theirs}: an average of the weights alone "
            f"changes {name} by points. A fair control keeps one too."
        )
    if not have_same_views(run, control.run):
        found.append(
            f"The control sees labelled images through other views, which alone change {name}: how much of the "
            f"difference is due to the unlabelled ones cannot be said."
        )
    if (listing := other_listing(run, control.run)) is not None:
        found.append(
            f"The control lists labelled images {listing}: that alone changes {name}, and how much of the difference "
            f"is due to the unlabelled ones cannot be said."
        )
    if control.shared is None:
        found.append("The difference may be one of seeds or settings rather than of methods.")
    return found


def _causes(run: RunRecords, control: RunRecords) -> str:
    """Begin a sentence with what made the difference."""
    others = [] if have_same_views(run, control) else ["other views"]
    others += [] if other_listing(run, control) is None else ["another listing"]
    return "The unlabelled images" + (f" and {' and '.join(others)} of the labelled ones" if others else "")


def _verdict(gain: Gain, cause: str) -> str:
    """Begin the sentence that compares a run with its control."""
    difference, points = gain.difference, f"{abs(100 * gain.difference):.1f} points of {gain.figure}"
    if abs(difference) < EVEN:
        return f"{cause} gave nothing that can be seen: {points} {'more' if difference >= 0 else 'less'}"
    if difference > 0:
        return f"{cause} gave {points} more"
    return f"{cause} cost {points}: it is that much lower"


def _in_burn_in(run: RunRecords) -> str:
    """Say of a run without a figure from after its burn-in that there is nothing to be gained yet."""
    burn_in, reached = run.config.method.burn_in_steps, max(record["step"] for record in run.records)
    if reached < burn_in:
        return (
            f"The burn-in is not over: the run is at step {reached} of its {plural(burn_in, 'step')}, which train on "
            f"labelled images alone. What the unlabelled ones give can be seen after them."
        )
    return (
        f"Nothing was evaluated after the burn-in, which ends at step {burn_in}: what the unlabelled images give "
        f"cannot be seen yet."
    )


def _no_control(run: RunRecords) -> str:
    return "There is no control beside this run, or none that was evaluated at the same step after the burn-in."


def _trained_on(run: RunRecords) -> str:
    images = "labelled images alone" if run.config.data.has_labels else "images without labels"
    return f"This run is trained on {images}."


def _command(run: RunRecords) -> list[str]:
    if not run.config.uses_labels:
        return []
    found = [folded("How to train a control", how_to_get_a_control(run))]
    if run.config.method.own_views is not None:
        found.append(
            paragraph(
                f"{run.config.method.name} has views of its own. The control's are of like sizes and not the same: a "
                f"difference to it is one of views as well."
            )
        )
    if listing := run.config.method.labeled_listing:
        keys = ", ".join(f"method.{key}" for key in listing)
        found.append(
            paragraph(
                f"{run.config.method.name} lists labelled images by settings of its own ({keys}), the control once "
                f"each: a difference to it is one of the listing as well."
            )
        )
    return found
