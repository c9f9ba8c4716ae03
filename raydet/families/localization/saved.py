"""A localizer read back from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from raydet.families.localization.config import LocalizationConfig
from raydet.families.localization.method import LocalizationMethod, localization_method
from raydet.families.localization.model import LocalizationModel
from raydet.train.saved import SavedModel


@dataclass(frozen=True, slots=True, eq=False)
class SavedLocalizer(SavedModel):
    """A `SavedModel` that is a localizer."""

    config: LocalizationConfig
    method: LocalizationMethod
    model: LocalizationModel


def as_localizer(saved: SavedModel) -> SavedLocalizer:
    """Return the same model by its own types."""
    assert isinstance(saved.config, LocalizationConfig) and isinstance(saved.model, LocalizationModel)
    method = localization_method(saved.config)
    return SavedLocalizer(saved.config, method, saved.model, saved.class_names, saved.role, saved.checkpoint)
