"""COCO average precision. pycocotools is the reference; `average_precision.py` gives the same figures faster.

All engines get the same validated boxes and hand back the same precision array; every figure is read from that array
here, so the engines cannot differ in what a figure means. Where a class has no boxes the array holds -1, a figure None.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from raydet.data.boxes.federated import FREQUENCIES
from raydet.data.boxes.index import DatasetIndex
from raydet.errors import UserError
from raydet.families.detection.average_precision import numpy_precision
from raydet.families.detection.box_pairs import Judgeable, SaidBoxes, TrueBoxes, judgeable
from raydet.families.detection.judged_boxes import Detections, dataset_of, rows_of, said_of, truth_of
from raydet.families.detection.lvis import lvis_numpy, lvis_precision
from raydet.families.detection.mask_truth import with_true_masks
from raydet.families.detection.precision import MOST_DETECTIONS, Dataset, pycocotools_precision
from raydet.families.detection.tide import TideErrors, tide_errors
from raydet.text import percent, plural

EngineName = Literal["auto", "numpy", "hotcoco", "pycocotools"]

ALL, SMALL, MEDIUM, LARGE = 0, 1, 2, 3  # COCO's area ranges: all, < 32^2, 32^2..96^2, > 96^2 square pixels
AT_50, AT_75 = 0, 5  # COCO's IoU thresholds 0.50, 0.55, ..., 0.95
COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
GROUPS = ("APmaj", "APmin", "APr", "APc", "APf", "APbase", "APnovel")
GROUPS_AT_50 = ("AP50base", "AP50novel")
MASKS = tuple(f"{name}_mk" for name in COLUMNS)


@dataclass(frozen=True, slots=True)
class ClassAP:
    """Average precision of one class, in [0, 1]; None where the class has no boxes."""

    AP: float | None
    AP50: float | None
    AP_mk: float | None = None  # of masks


@dataclass(frozen=True, slots=True)
class EvalResult:
    """COCO's figures in [0, 1]; None where undefined, because no box (of that size) exists."""

    AP: float | None  # mean over IoU 0.50:0.05:0.95
    AP50: float | None
    AP75: float | None
    APs: float | None
    APm: float | None
    APl: float | None
    per_class: dict[str, ClassAP]  # in the data set's order
    images: int
    boxes: int  # ground-truth boxes without crowd regions
    detections: int
    engine: str  # the engine that ran
    APmaj: float | None = None  # of the classes that are not minority classes, where there are such
    APmin: float | None = None  # of the minority classes
    APr: float | None = None  # of rare, common and frequent classes, where the data set tells them apart (LVIS)
    APc: float | None = None
    APf: float | None = None
    APbase: float | None = None  # of the classes that are not novel, where there are such
    APnovel: float | None = None  # of the novel classes
    AP50base: float | None = None
    AP50novel: float | None = None
    AP_mk: float | None = None  # the same of masks instead of boxes, where the model makes them
    AP50_mk: float | None = None
    AP75_mk: float | None = None
    APs_mk: float | None = None
    APm_mk: float | None = None
    APl_mk: float | None = None
    tide: TideErrors | None = None  # what keeps AP50 down; None where not every class was looked for (LVIS)

    @property
    def score(self) -> float | None:
        """Return AP."""
        return self.AP

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON; nothing of masks where the model makes none."""
        found = asdict(self)
        if all(found[name] is None for name in MASKS):
            found = {name: value for name, value in found.items() if name not in MASKS}
            found["per_class"] = {name: {"AP": each.AP, "AP50": each.AP50} for name, each in self.per_class.items()}
        return found

    def as_text(self) -> str:
        """Return a table for people, figures in percent."""
        lines = [
            f"{plural(self.images, 'image')}, {plural(self.boxes, 'box')}, {plural(self.detections, 'detection')}, "
            f"engine {self.engine}",
            "  ".join(f"{name} {percent(getattr(self, name)):>5}" for name in COLUMNS),
        ]
        present = [name for name in (*GROUPS, *GROUPS_AT_50) if getattr(self, name) is not None]
        groups = [f"{name} {percent(getattr(self, name)):>5}" for name in present]
        lines += ["  ".join(groups)] if groups else []
        if self.AP_mk is not None:
            lines.append("  ".join(f"{name} {percent(getattr(self, name)):>5}" for name in MASKS))
        if self.tide is not None:
            gains = "  ".join(f"{name} {percent(gain)}" for name, gain in self.tide.gains.items())
            lines.append(f"AP50 gained if mended (TIDE): {gains}")
        width = max((len(name) for name in self.per_class), default=0)
        lines += [
            f"  {name:<{width}}  AP {percent(each.AP):>5}  AP50 {percent(each.AP50):>5}"
            for name, each in self.per_class.items()
        ]
        return "\n".join(lines)


def coco_metrics(
    index: DatasetIndex,
    detections: Sequence[Detections],
    *,
    engine: EngineName = "auto",
    positions: Sequence[int] | None = None,
    minority: Sequence[str] = (),
    novel: Sequence[str] = (),
) -> EvalResult:
    """Return COCO's figures of `detections` on the images at `positions` (all by default).

    `minority`, `novel`: classes with a mean of their own. Where not every class was looked for in every image, the
    rules are those of LVIS (`lvis_precision`).
    Images without a record count as images without detections; the order of the records does not matter.
    Raises ValueError for an image that is unknown, not among `positions` or given twice, for a class out of range,
    and for a score or box that is not finite; UserError for an engine that is not installed.
    """
    positions = range(len(index)) if positions is None else sorted(set(positions))
    said, truth = said_of(index, detections, positions), truth_of(index, positions)
    judged = None if index.federated is not None else judgeable(truth, said)
    used = _resolve(engine)
    precision = _box_precision(index, positions, truth, said, judged, used)
    found, masks = _figures(precision), _mask_precision(index, detections, positions, truth, said)
    of_masks = {} if masks is None else {f"{name}_mk": value for name, value in _figures(masks).items()}
    return EvalResult(
        **found,
        **of_masks,
        per_class={
            name: ClassAP(
                _mean(precision[:, :, k, ALL]),
                _mean(precision[AT_50, :, k, ALL]),
                None if masks is None else _mean(masks[:, :, k, ALL]),
            )
            for k, name in enumerate(index.class_names)
        },
        images=len(positions),
        boxes=int((~truth.crowd).sum()),
        detections=len(said.scores),
        engine=used,
        **_of_groups(precision, index, minority, novel),
        tide=None if judged is None else tide_errors(truth, said, judged, len(index.class_names)),
    )


def _figures(precision: np.ndarray) -> dict[str, float | None]:
    """Return the figures of `COLUMNS`."""
    parts = (
        precision[:, :, :, ALL],
        precision[AT_50, :, :, ALL],
        precision[AT_75, :, :, ALL],
        precision[:, :, :, SMALL],
        precision[:, :, :, MEDIUM],
        precision[:, :, :, LARGE],
    )
    return dict(zip(COLUMNS, map(_mean, parts), strict=True))


def _box_precision(
    index: DatasetIndex,
    positions: Sequence[int],
    truth: TrueBoxes,
    said: SaidBoxes,
    judged: Judgeable | None,
    engine: str,
) -> np.ndarray:
    """Return the precision of boxes; `judged` is None where not every class was looked for in every image."""
    if engine == "numpy" and judged is not None:
        return numpy_precision(truth, said, judged, len(index.class_names))
    if index.federated is None:
        dataset, rows = dataset_of(index, positions, truth), rows_of(said)
        return _hotcoco(dataset, rows) if engine == "hotcoco" else pycocotools_precision(dataset, rows)
    places = np.array(positions, dtype=np.int64)
    federated = index.federated.take(places)
    if engine == "numpy":
        return lvis_numpy(truth, said, places + 1, federated, len(index.class_names))
    return lvis_precision(dataset_of(index, positions, truth), rows_of(said), federated, engine)


def _mask_precision(
    index: DatasetIndex, detections: Sequence[Detections], positions: Sequence[int], truth: TrueBoxes, said: SaidBoxes
) -> np.ndarray | None:
    """Return the precision of masks, by pycocotools; None where the model makes none, or the set has none."""
    if not any(each.masks is not None for each in detections) or not index.has_masks:
        return None
    of_image = {each.image_id: each.masks or () for each in detections}
    masks = [mask for i in positions for mask in of_image.get(index.id_at(i), ())]
    if len(masks) != len(said.scores):
        raise ValueError(f"{len(said.scores)} detections with {len(masks)} masks: every detection wants one")
    dataset, rows = dataset_of(index, positions, truth), rows_of(said)
    with_masks = {**dataset, "annotations": with_true_masks(index, positions, dataset["annotations"])}
    if index.federated is None:
        return pycocotools_precision(with_masks, rows, masks=masks)
    federated = index.federated.take(np.array(positions, dtype=np.int64))
    return lvis_precision(with_masks, rows, federated, "pycocotools", masks=masks)


def _of_groups(
    precision: np.ndarray, index: DatasetIndex, minority: Sequence[str], novel: Sequence[str]
) -> dict[str, float | None]:
    """Return AP of each group of classes that there is."""
    names = index.class_names
    is_minority, is_novel = np.isin(names, tuple(minority)), np.isin(names, tuple(novel))
    found: dict[str, float | None] = {}
    if is_minority.any():
        found = {"APmaj": _mean(precision[:, :, ~is_minority, ALL]), "APmin": _mean(precision[:, :, is_minority, ALL])}
    if is_novel.any():
        for name, each in (("base", ~is_novel), ("novel", is_novel)):
            found[f"AP{name}"] = _mean(precision[:, :, each, ALL])
            found[f"AP50{name}"] = _mean(precision[AT_50, :, each, ALL])
    if index.federated is not None:
        of = np.array(index.federated.frequency)
        found |= {f"AP{kind}": _mean(precision[:, :, of == kind, ALL]) for kind in FREQUENCIES}
    return found


def _resolve(engine: EngineName) -> str:
    if engine == "hotcoco" and importlib.util.find_spec("hotcoco") is None:
        raise UserError(
            "eval.engine=hotcoco: hotcoco is not installed; pip install 'raydet[fast]', or set eval.engine=auto"
        )
    return "numpy" if engine == "auto" else engine


def _hotcoco(truth: Dataset, rows: np.ndarray) -> np.ndarray:
    from hotcoco import COCO, COCOeval

    side = COCO(truth)
    run = COCOeval(side, side.load_res(rows), "bbox")
    run.evaluate()
    run.accumulate()
    arrays: Any = run.eval
    return np.asarray(arrays["precision"])[..., MOST_DETECTIONS]


def _mean(precision: np.ndarray) -> float | None:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None
