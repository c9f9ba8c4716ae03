"""The model at work: names in, rows of a shard out. The same class serves this process and the actors."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from raydet.errors import DataError
from raydet.families.detection.method import DetectionMethod
from raydet.families.detection.views import eval_view
from raydet.label_files.image_stores import ImageStore
from raydet.label_files.mount_check import SampleFile
from raydet.label_files.shards import SCHEMA
from raydet.label_files.work import shown, skipped
from raydet.precision import autocast_dtype
from raydet.records import Candidates
from raydet.vision.detector import Detector
from raydet.vision.geometry import View, clip_boxes, is_usable
from raydet.vision.images import collate


@dataclass(frozen=True, slots=True)
class Job:
    """All that a labeller needs to know, small but for the model; travels to actors."""

    method: DetectionMethod
    model: Detector  # on the CPU, in evaluation mode
    store: ImageStore
    device: str
    precision: str  # fp32, bf16 or fp16
    batch: int  # images per forward
    threads: int  # torch threads, and as many that decode
    samples: tuple[SampleFile, ...] = ()  # images that every node must see


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    pixels: Tensor  # [3, h, w] uint8, the evaluation view
    view: View
    size: tuple[int, int]  # (height, width) of the original


Loading = list["Future[_Loaded]"]


class Labeller:
    """Labels images with the evaluation view and `method.detect`: the detections that `raydet evaluate` judges.

    Threads decode. Pieces may be begun in several threads; one forward runs at a time.
    """

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        self._job = job
        self._device = torch.device(job.device)
        self._dtype = autocast_dtype(job.precision, self._device)
        self._model = job.model.to(self._device).eval().requires_grad_(False)
        self._decoders = ThreadPoolExecutor(job.threads, thread_name_prefix="raydet-decode")
        self._forward = threading.Lock()

    def begin(self, names: Sequence[str]) -> Loading:
        """Start to decode images."""
        return [self._decoders.submit(self._load, name) for name in names]

    def finish(self, names: Sequence[str], loading: Loading) -> pa.Table:
        """Return one row per image, in order; those that cannot be read have an `error`."""
        with self._forward:
            size = self._job.batch
            parts = [
                self._rows(names[start : start + size], loading[start : start + size])
                for start in range(0, len(names), size)
            ]
        return pa.concat_tables(parts)

    def label(self, names: Sequence[str]) -> pa.Table:
        """Do both."""
        return self.finish(names, self.begin(names))

    def _load(self, name: str) -> _Loaded:
        original = self._job.store.pixels(name)
        pixels, view = eval_view(original, self._job.method.run.data.views)
        return _Loaded(pixels, view, (int(original.shape[1]), int(original.shape[2])))

    def _rows(self, names: Sequence[str], loading: Loading) -> pa.Table:
        found: list[_Loaded | str] = []
        for each in loading:
            try:
                found.append(each.result())
            except (DataError, MemoryError) as error:
                found.append(str(error) or "not enough memory to decode it")
        usable = [each for each in found if isinstance(each, _Loaded)]
        said = iter(self._detect(usable) if usable else [])
        rows = [
            skipped([name], [each]) if isinstance(each, str) else _row(name, each, next(said))
            for name, each in zip(names, found, strict=True)
        ]
        return pa.concat_tables(rows)

    @torch.no_grad()
    def _detect(self, loaded: Sequence[_Loaded]) -> list[Candidates]:
        images = collate([each.pixels for each in loaded], self._device)
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None):
            return self._job.method.detect(self._model, images)


def _row(name: str, image: _Loaded, said: Candidates) -> pa.Table:
    height, width = image.size
    boxes = clip_boxes(image.view.to_original(said.boxes.float().cpu()), height, width)
    kept = is_usable(boxes, 0.0)
    values = {
        "image": shown(name),
        "width": width,
        "height": height,
        "boxes": boxes[kept].reshape(-1).numpy(),
        "classes": said.classes.cpu()[kept].to(torch.int32).numpy(),
        "scores": said.scores.float().cpu()[kept].numpy(),
        "quality": said.quality.float().cpu()[kept].numpy(),
        "error": None,
    }
    return pa.Table.from_arrays([pa.array([values[each.name]], each.type) for each in SCHEMA], schema=SCHEMA)
