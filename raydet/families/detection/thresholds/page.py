"""RUN/thresholds.html: the grid as pictures, the recommendation, and what each class would have chosen."""

from __future__ import annotations

from pathlib import Path

from raydet.families.detection.thresholds.count import Reading
from raydet.families.detection.thresholds.result import (
    COLUMNS,
    NO_CHOICE,
    SHOWN,
    ThresholdResult,
    cells,
    class_readings,
    setting,
    thinned,
)
from raydet.report.figures import lines, surface
from raydet.report.page import Pictures, Section, grid, heading, paragraph, table, tiles, write_page
from raydet.text import percent

RATES = (("precision", "precision"), ("recall", "recall"), ("f1", "F1"), ("mean_iou", "mean IoU of the hits"))


def write_thresholds_page(result: ThresholdResult) -> Path:
    """Write the page and its pictures; return the page."""
    folder = result.folder.path
    makers = (_recommendation, _maps, _front, _classes)
    return write_page(folder / "thresholds.html", f"Thresholds: {folder.name}", result, makers)


def _recommendation(result: ThresholdResult, pictures: Pictures) -> Section:
    grid_, choice = result.grid, result.choice
    best = choice.reading if choice is not None else None
    figures = {"true boxes per image": f"{grid_.truths_per_image:.2f}", "images": str(grid_.images)}
    rows = [["now", *setting(result.now), *cells(result.now)]]
    body: list[str] = []
    if choice is None or best is None:
        body.append(paragraph(NO_CHOICE, "alarm"))
    else:
        figures = {"precision": percent(best.precision), "recall": percent(best.recall)} | {
            "pseudo-boxes per image": f"{best.boxes_per_image:.2f}",
            **figures,
        }
        rows.append(["recommended", *setting(best), *cells(best)])
        if (each := result.by_class) is not None:
            rows.append(["or a score threshold for each class", *setting(each), *cells(each)])
        body += [heading(result.overrides), paragraph(choice.reason, "")]
        body += [paragraph(caution, "alarm") for caution in choice.cautions]
    cautions = choice.cautions if choice is not None else ()
    lead = (
        f"Judged: {result.evidence.source}. What {result.config.method.name} keeps of each label at each setting is "
        f"paired one to one with the true boxes, best score first; a pair needs the same class and IoU >= 0.5. Rates "
        f"are in percent; the mean IoU is that of the pairs."
    )
    notes = [paragraph(note) for note in result.notes if note not in cautions]
    return Section(
        "Recommendation", [tiles(figures), table(_columns(result, ""), rows), *body, paragraph(lead), *notes]
    )


def _maps(result: ThresholdResult, pictures: Pictures) -> Section:
    grid_ = result.grid
    keys = result.axes.thresholds
    truth = ("true boxes per image", grid_.truths_per_image)
    if keys.quality is None:
        rates = {label: (grid_.scores, (100 * getattr(grid_, name)[:, 0]).tolist()) for name, label in RATES}
        number = {"pseudo-boxes per image": (grid_.scores, grid_.boxes_per_image[:, 0].tolist())}
        shown = [
            pictures.figure("thresholds_rates.png", lines(rates, y_label="%", x_label=keys.score, top=100.0), "Rates."),
            pictures.figure(
                "thresholds_boxes.png",
                lines(number, y_label="pseudo-boxes per image", x_label=keys.score, level=truth),
                "Pseudo-boxes per image.",
            ),
        ]
        return Section("Over the grid", [grid(shown)])
    marks = {"now": result.present} | ({"recommended": result.choice.point} if result.choice is not None else {})
    x, y = (keys.quality, result.axes.qualities), (keys.score, grid_.scores)
    shown = []
    for name, label in RATES:
        drawn = surface(100 * getattr(grid_, name), x=x, y=y, color_label=f"{label} (%)", marks=marks)
        shown.append(pictures.figure(f"thresholds_{name}.png", drawn, f"{label[0].upper()}{label[1:]}, in percent."))
    boxes = surface(
        grid_.boxes_per_image,
        x=x,
        y=y,
        color_label="pseudo-boxes per image",
        marks=marks,
        level=truth,
        logarithmic=True,
    )
    caption = "Pseudo-boxes per image. On the dashed line there are as many as there are true boxes."
    shown.insert(3, pictures.figure("thresholds_boxes.png", boxes, caption))
    lead = "Empty: no pseudo-box is left there. A student that sees too few learns objects as background."
    return Section("Over the grid", [paragraph(lead), grid(shown)])


def _front(result: ThresholdResult, pictures: Pictures) -> Section:
    title = "Pareto front"
    if not result.front:
        return Section(title, [paragraph("No setting finds a true box.", "absent")])
    points = thinned(result.front, SHOWN)
    lead = "Settings that no other one beats in precision or in recall without losing in the other."
    if len(points) < len(result.front):
        lead += f" {len(points)} of {len(result.front)}; thresholds.json has all."
    rows = [[*setting(result.grid.at(*point)), *cells(result.grid.at(*point))] for point in points]
    return Section(title, [paragraph(lead), table(_columns(result), rows, first_numeric=0)])


def _classes(result: ThresholdResult, pictures: Pictures) -> Section:
    lead = (
        "Left: the classes at the recommended setting. Right: the setting that each class would get alone, by the same "
        "rule at the same quality threshold, and what it would give; a dash: too few true boxes to say, none "
        "found, or most of what a lower threshold would add is wrong."
    )
    if (key := result.axes.thresholds.by_class) is not None:
        lead += f" {key} takes score thresholds of single classes: raydet thresholds --apply FILE --per-class."
    rows = []
    for k, own in class_readings(result):
        part = result.grid.of_class(k)
        common = part.at(*(result.choice.point if result.choice is not None else result.present))
        alone = [" / ".join(setting(own)), *_short(own)] if own is not None else ["–"] * 4
        rows.append([result.evidence.class_names[k], f"{part.truths_per_image:.2f}", *_short(common), *alone])
    short = ["precision", "recall", "boxes/image"]
    columns = ["class", "true/image", *short, "own setting", *short]
    absent = (
        [] if result.choice is not None else [heading("Without a recommendation: the classes at the present setting")]
    )
    return Section("Classes", [paragraph(lead), *absent, table(columns, rows)])


def _short(reading: Reading) -> list[str]:
    return [percent(reading.precision), percent(reading.recall), f"{reading.boxes_per_image:.2f}"]


def _columns(result: ThresholdResult, *before: str) -> list[str]:
    quality = ["quality"] if result.axes.thresholds.quality is not None else []
    return [*before, "score", *quality, *COLUMNS]
