"""What thresholds are tried on: labels of a teacher beside the truth, from a run's store or made for the purpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from raydet.cluster.process import flushing
from raydet.config.box_data import DatasetConfig
from raydet.data.boxes.index import DatasetIndex
from raydet.data.evenly import evenly
from raydet.errors import CheckpointError, DataError, UserError
from raydet.families.detection.annotator import labelled
from raydet.families.detection.data import BOXES
from raydet.families.detection.loader import teacher_view
from raydet.families.detection.report.history import true_boxes, verified_classes
from raydet.families.detection.saved import SavedDetector, load_detector
from raydet.families.detection.thresholds.count import TrueLabel
from raydet.labels.convert import from_table
from raydet.labels.segment import list_segments, read_segment
from raydet.precision import settled_dtype
from raydet.records import PseudoBoxes, TeacherRef
from raydet.text import plural
from raydet.train.rundir import RunFolder
from raydet.train.saved import scratch

HIDDEN_CAUTION = (
    "The hidden truth is there for diagnosis. For a result that you publish or rely on, choose thresholds on labelled "
    "images that are withheld from training and from the final evaluation: --data."
)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Labels with their truth, and where both come from."""

    class_names: tuple[str, ...]
    images: list[TrueLabel]
    source: str  # a phrase: whose labels these are, and what they are compared with
    notes: tuple[str, ...]  # what the reader should know about them


def run_folder_of(path: Path) -> RunFolder:
    """Return the run that a run folder or a checkpoint folder belongs to. Raises CheckpointError for anything else."""
    path = path.absolute()
    for folder in (path, path.parent.parent):
        if path.is_dir() and (folder / "config.json").is_file():
            return RunFolder(folder)
    raise CheckpointError(f"{path}: neither a run folder (with config.json) nor a checkpoint folder of one")


def read_evidence(path: Path, *, data: DatasetConfig | None, version: int | None, max_images: int) -> Evidence:
    """Collect labels and truth for a run folder or a checkpoint folder.

    A run folder: its newest stored labels, one per image, beside the hidden truth; as they were at teacher `version`
    where one is given. With `data` (a labelled set), for a checkpoint folder, and where a run has no stored labels or
    no hidden truth: the teacher labels `data` or the run's validation images now. At most `max_images` images.

    Raises UserError where nothing of this is there.
    """
    folder = run_folder_of(path)
    why_not = ""
    if path.absolute() == folder.path and data is None:
        stored = _from_store(folder, version, max_images)
        if isinstance(stored, Evidence):
            return stored
        why_not = stored
    if version is not None:
        why_not = why_not or "a checkpoint or --data is given"
        raise UserError(f"--version chooses among a run's stored labels, which are not used here: {why_not}")
    saved = load_detector(path, "raydet thresholds")
    index, name = _labeled_set(saved, folder, data, why_not)
    rows = evenly(len(index), max_images)
    images = [_beside_truth(label, index) for label in _annotate(saved, index, rows)]
    notes = [f"The run's stored labels are not used: {why_not}."] if why_not else []
    if data is None:
        notes.append("The validation images also choose the best checkpoint; images of their own are better: --data.")
    if len(rows) < len(index):
        notes.append(f"A sample of {len(rows)} of {len(index)} images, evenly spaced.")
    source = f"the {saved.role} of step {saved.checkpoint.step}, run now on {plural(len(rows), 'image')} of {name}"
    return Evidence(saved.class_names, images, source, tuple(notes))


def _from_store(folder: RunFolder, version: int | None, max_images: int) -> Evidence | str:
    """Return the evidence in a run folder, or why there is none."""
    hidden = BOXES.open_hidden(folder.data)
    if hidden is None:
        return "the unlabelled images came without boxes"
    labels = newest_labels(folder.labels, version, max_images)
    if not labels and (names := list_segments(folder.labels)):
        first, last = min(name.first for name in names), max(name.last for name in names)
        raise UserError(f"--version {version}: the stored labels are of teachers {first} to {last}")
    if not labels:
        return "there are none yet (the burn-in is not over, or nothing has been flushed)"
    versions = [label.teacher.version for label in labels]
    span = f"teacher {versions[0]}" if versions[0] == versions[-1] else f"teachers {versions[-1]} to {versions[0]}"
    images = [_beside_truth(label, hidden) for label in labels]
    source = f"the newest stored labels of {plural(len(labels), 'image')} ({span}) beside the hidden truth"
    return Evidence(hidden.class_names, images, source, (HIDDEN_CAUTION,))


def newest_labels(folder: Path, version: int | None, max_images: int) -> list[PseudoBoxes]:
    """Return the newest label of each image up to a version, newest first, and of these the first `max_images`.

    Reads segments from the newest on, and no more than it needs. Raises LabelStoreError where one is damaged.
    """
    newest: dict[str, tuple[int, pa.Table, int]] = {}  # image id -> version, and the row of a table
    for name in sorted(list_segments(folder), key=lambda name: name.last, reverse=True):
        versions = sorted((found[0] for found in newest.values()), reverse=True)
        if len(versions) >= max_images and versions[max_images - 1] > name.last:
            break
        try:
            table = read_segment(name)
        except FileNotFoundError:
            continue  # deleted since the listing, by keep_versions or a restart
        columns = (table[column].to_pylist() for column in ("version", "image_id"))
        for row, (own, image_id) in enumerate(zip(*columns, strict=True)):
            is_newer = image_id not in newest or newest[image_id][0] < own
            if is_newer and (version is None or own <= version):
                newest[image_id] = own, table, row
    chosen = sorted(newest.items(), key=lambda item: (-item[1][0], item[0]))[:max_images]
    return [from_table(table.slice(row, 1))[0] for _, (_, table, row) in chosen]


def _labeled_set(
    saved: SavedDetector, folder: RunFolder, data: DatasetConfig | None, why_not: str
) -> tuple[DatasetIndex, str]:
    """Return the labelled images to run the teacher on, and what to call them."""
    if data is not None:
        names, settings = saved.class_names, saved.config.data
        place = scratch(folder.data, "thresholds")
        return BOXES.prepare_one(data, place, class_names=names, settings=settings), data.path
    val = BOXES.open(folder.data).val
    if val is None:
        reason = f"its stored labels cannot be used ({why_not}), and " if why_not else ""
        raise DataError(f"{folder.path}: {reason}it has no data.val; give labelled images with --data")
    return val, "the run's validation set"


@torch.no_grad()
def _annotate(saved: SavedDetector, index: DatasetIndex, rows: Sequence[int]) -> Iterator[PseudoBoxes]:
    """Yield what the teacher says about images of any set: the same views and the same code as in training."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = settled_dtype(saved.config.optim.precision, device, saved.checkpoint.arithmetic)
    model, ref = saved.model.to(device), TeacherRef(saved.checkpoint.step, saved.role)
    for row in rows:
        view = teacher_view(index, index.id_at(row), ref.version, saved.config, saved.method.recipe)
        with flushing(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            labels = list(labelled(saved.method, model, [view], ref, [index.size_at(row)]))
        yield from labels


def true_label(label: PseudoBoxes, truth: DatasetIndex) -> TrueLabel:
    """Return a label beside what is known of its image. Raises KeyError where the image is none of these."""
    return TrueLabel(label, *true_boxes(truth, label.image_id), verified_classes(truth, label.image_id))


def _beside_truth(label: PseudoBoxes, truth: DatasetIndex) -> TrueLabel:
    try:
        return true_label(label, truth)
    except KeyError as error:
        raise DataError(f"a stored label does not belong to this run's data: {error.args[0]}") from None
