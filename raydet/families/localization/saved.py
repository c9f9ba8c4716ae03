"""A localizer read back from a checkpoint."""

from __future__ import annotations

from raydet.families.localization.config import LocalizationConfig
from raydet.families.localization.method import LocalizationMethod
from raydet.families.localization.model import LocalizationModel
from raydet.train.saved import Saved

SavedLocalizer = Saved[LocalizationConfig, LocalizationMethod, LocalizationModel]
