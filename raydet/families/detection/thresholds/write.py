"""Writing what was found about a run's thresholds."""

from __future__ import annotations

import json

from raydet.errors import UserError
from raydet.families.detection.thresholds.result import ThresholdResult, as_json
from raydet.files import write_text
from raydet.report.page import can_draw


def write_thresholds(result: ThresholdResult) -> str:
    """Write RUN/thresholds.json, RUN/thresholds.html and the page's pictures into RUN/plots/; say what was written.

    Without matplotlib there is no page. Raises UserError where the run folder cannot be written.
    """
    folder = result.folder.path
    try:
        figures = write_text(folder / "thresholds.json", json.dumps(as_json(result), allow_nan=False))
        if not can_draw():
            return f"written: {figures}; for a page with pictures install matplotlib: pip install 'raydet[plots]'"
        from raydet.families.detection.thresholds.page import (
            write_thresholds_page,  # after the check: it imports matplotlib
        )

        return f"written: {write_thresholds_page(result)}, {figures}"
    except OSError as error:
        raise UserError(f"{folder}: the results cannot be written there: {error.strerror}") from None
