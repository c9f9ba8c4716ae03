"""Localisation, as the engine sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from raydet.contract import Exported, Family
from raydet.data.located.index import LocatedIndex
from raydet.families.localization.config import LocalizationConfig
from raydet.families.localization.data import LOCATED, PreparedLocated
from raydet.families.localization.evaluate import evaluate_sharded
from raydet.families.localization.label_files import LocalizerOnFiles
from raydet.families.localization.method import LocalizationMethod
from raydet.families.localization.model import LocalizationModel
from raydet.families.localization.run import LocalizationRun
from raydet.families.localization.saved import SavedLocalizer
from raydet.text import plural


class Localization(Family[LocalizationConfig, LocatedIndex, LocalizationMethod, LocalizationModel]):
    """One box per image, measured by GT-Known."""

    name = "localization"
    images = LOCATED
    run_class = LocalizationRun
    evaluate = staticmethod(evaluate_sharded)

    def describe(self, data: PreparedLocated) -> str:
        """Count images and classes."""
        counts = data.labeled.images_per_class()
        spread = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        return (
            f"{plural(len(data.labeled), 'image')} of {plural(len(data.class_names), 'class')} ({spread} of "
            "each); boxes are not seen"
        )

    def exported(self, config: LocalizationConfig, model: LocalizationModel, class_names: Sequence[str]) -> Exported:
        """Leave out the copies that training keeps."""
        weights = model.exported()
        left = len(model.state_dict()) - len(weights)
        remark = f" ({plural(left, 'tensor')} of copies that training keeps left out)" if left else ""
        return Exported(weights, list(class_names), config.data.views.model_dump_json(), remark)

    def onnx_exporter(self, saved: SavedLocalizer) -> Callable[..., str]:
        """Return what writes a localizer as ONNX."""
        from raydet.families.localization.onnx import export_onnx

        return partial(export_onnx, saved)

    def on_files(self, saved: SavedLocalizer) -> LocalizerOnFiles:
        """Return what labels images that belong to no run."""
        return LocalizerOnFiles(saved)


FAMILY = Localization()
