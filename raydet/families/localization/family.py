"""Localisation, as the engine sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from raydet.contract import Exported, Family
from raydet.data.located.index import LocatedIndex
from raydet.families.localization.accuracy import LocationResult
from raydet.families.localization.config import LocalizationConfig
from raydet.families.localization.data import LOCATED, PreparedLocated
from raydet.families.localization.evaluate import evaluate_sharded
from raydet.families.localization.label_files import LocalizerOnFiles
from raydet.families.localization.method import LocalizationMethod
from raydet.families.localization.model import LocalizationModel
from raydet.families.localization.run import LocalizationRun
from raydet.families.localization.saved import as_localizer
from raydet.group import Group
from raydet.recipe.request import Recipe, Request
from raydet.report.page import Made
from raydet.text import plural
from raydet.train.saved import SavedModel


class Localization(Family[LocalizationConfig, LocatedIndex, LocalizationMethod, LocalizationModel]):
    """One box per image, measured by GT-Known."""

    name: ClassVar[str] = "localization"
    images = LOCATED

    def describe(self, data: PreparedLocated) -> str:
        """Count images and classes."""
        counts = data.labeled.images_per_class()
        spread = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        return (
            f"{plural(len(data.labeled), 'image')} of {plural(len(data.class_names), 'class')} ({spread} of "
            "each); boxes are not seen"
        )

    def propose(self, request: Request) -> Recipe:
        """Return a configuration that suits the images and this machine."""
        from raydet.families.localization.recipe.propose import propose  # only `raydet init` needs it

        return propose(request)

    def bind(
        self, config: LocalizationConfig, data: PreparedLocated, method: LocalizationMethod, group: Group
    ) -> LocalizationRun:
        """Return the family at work in one rank of a run."""
        return LocalizationRun(data, method, group)

    def evaluate(
        self,
        method: LocalizationMethod,
        model: LocalizationModel,
        index: LocatedIndex,
        group: Group,
        *,
        max_images: int | None,
    ) -> LocationResult | None:
        """Return how often boxes and classes are right."""
        return evaluate_sharded(method, model, index, group, max_images=max_images)

    def exported(self, config: LocalizationConfig, model: LocalizationModel, class_names: Sequence[str]) -> Exported:
        """Leave out the copies that training keeps."""
        weights = model.exported()
        left = len(model.state_dict()) - len(weights)
        remark = f" ({plural(left, 'tensor')} of copies that training keeps left out)" if left else ""
        return Exported(weights, list(class_names), config.data.views.model_dump_json(), remark)

    def onnx_exporter(self, saved: SavedModel) -> Callable[..., str]:
        """Return what writes a localizer as ONNX."""
        from raydet.families.localization.onnx import export_onnx

        return partial(export_onnx, as_localizer(saved))

    def on_files(self, saved: SavedModel) -> LocalizerOnFiles:
        """Return what labels images that belong to no run."""
        return LocalizerOnFiles(as_localizer(saved))

    def report(self, folder: Path, config: LocalizationConfig) -> Made:
        """Return what a localizer's report is made from, and its sections' makers."""
        from raydet.families.localization.report import made  # not before it is wanted: it imports matplotlib

        return made(folder, config)


FAMILY = Localization()
