"""TeacherActor: one process that labels images with the teacher it is told to use.

This module needs no torch until an actor starts, because the broker imports it too and must restart fast.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import ray
from ray import cloudpickle

from raydet.errors import UserError

if TYPE_CHECKING:
    from raydet.arithmetic import Arithmetic
    from raydet.labels.source import Annotator


@dataclass(frozen=True, slots=True)
class Answer:
    """What a teacher says to one call: labels of some images, reasons for the others."""

    table: pa.Table | None
    failures: dict[str, str]  # image id -> the annotator's error, with its traceback unless it is a user's mistake


class TeacherActor:
    """Labels images. Holds one teacher version at a time; every call carries the weights it needs, by reference."""

    def __init__(self, factory: bytes, threads: int) -> None:
        """Do nothing that can fail; `start()` does. `factory`: a cloudpickled `Callable[[], Annotator]`."""
        self._factory = factory
        self._threads = threads
        self._annotator: Annotator | None = None
        self._loaded: tuple[int, str] | None = None

    def start(self) -> int:
        """Build the annotator and return this process's id. Raises what the factory raises."""
        from raydet.cluster.process import set_up_process

        set_up_process(self._threads)
        self._annotator = cloudpickle.loads(self._factory)()
        return os.getpid()

    def label(
        self,
        version: int,
        digest: str,
        weights: list[ray.ObjectRef],
        image_ids: list[str],
        begun: Arithmetic | None = None,
    ) -> Answer:
        """Label the images with exactly this teacher; refuse where it is neither loaded nor given.

        An error of the annotator comes back as a value, so that one bad image costs neither the others nor the actor.
        """
        self._load(version, digest, weights, begun)
        try:
            return Answer(self._labels(image_ids), {})
        except Exception:  # which of them is it?
            tables, failures = [], {}
            for image_id in image_ids:
                try:
                    tables.append(self._labels([image_id]))
                except UserError as error:
                    failures[image_id] = str(error)
                except Exception:
                    failures[image_id] = traceback.format_exc(limit=-4)
            return Answer(pa.concat_tables(tables) if tables else None, failures)

    def _load(self, version: int, digest: str, weights: list[ray.ObjectRef], begun: Arithmetic | None) -> None:
        from raydet.records import TeacherRef
        from raydet.vision.weights import from_arrays

        assert self._annotator is not None, "label() before start()"
        if self._loaded == (version, digest):
            return
        if not weights:
            raise RuntimeError(f"asked to label with teacher {version} ({digest}) while {self._loaded} is loaded")
        self._loaded = None  # a load that fails half-way leaves no teacher
        self._annotator.load(TeacherRef(version, digest), from_arrays(ray.get(weights[0])), begun)
        self._loaded = (version, digest)

    def _labels(self, image_ids: Sequence[str]) -> pa.Table:
        from raydet.labels.convert import to_table
        from raydet.labels.source import check_labels

        assert self._annotator is not None and self._loaded is not None
        labels = self._annotator.label(image_ids)
        check_labels(labels, image_ids, *self._loaded)
        return to_table(labels)
