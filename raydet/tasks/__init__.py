"""What the engine leaves to a family of methods: its data, its batches, its figures. One folder per family."""

from __future__ import annotations

from typing import Any

from raydet.config.classification import ClassificationConfig
from raydet.config.detection import DetectionConfig
from raydet.config.families import parse
from raydet.config.run import RunConfig
from raydet.labels.source import Annotator
from raydet.tasks.base import Task
from raydet.tasks.classification import Classification
from raydet.tasks.detection import Detection

__all__ = ["AnnotatorFactory", "Task", "task_of"]

TASKS: dict[type[RunConfig], type[Task[Any]]] = {DetectionConfig: Detection, ClassificationConfig: Classification}


def task_of(config: RunConfig) -> Task[Any]:
    """Return the task of a run, by its configuration's class."""
    return TASKS[type(config)](config)


class AnnotatorFactory:
    """Builds the annotator where it is needed; small enough to be sent to an actor."""

    def __init__(self, config: RunConfig, data_folder: str, device: str) -> None:
        self._config_json = config.model_dump_json()
        self._data_folder = data_folder
        self._device = device

    def __call__(self) -> Annotator:
        """Open the data and build the teacher."""
        return task_of(parse(self._config_json)).build_annotator(self._data_folder, self._device)
