"""Writing what was found about a run's thresholds."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from raydet.errors import UserError
from raydet.families.detection.thresholds.result import ThresholdResult, as_json


def write_thresholds(result: ThresholdResult) -> str:
    """Write RUN/thresholds.json, RUN/thresholds.html and the page's pictures into RUN/plots/; say what was written.

    Without matplotlib there is no page. Raises UserError where the run folder cannot be written.
    """
    folder = result.folder.path
    try:
        figures = _write(folder / "thresholds.json", json.dumps(as_json(result), allow_nan=False))
        if importlib.util.find_spec("matplotlib") is None:
            return f"written: {figures}; for a page with pictures install matplotlib: pip install 'raydet[plots]'"
        from raydet.families.detection.thresholds.page import thresholds_page  # after the check: it imports matplotlib
        from raydet.report.page import Pictures

        pictures = Pictures()
        content = thresholds_page(result, pictures)
        pictures.save(folder / "plots")
        return f"written: {_write(folder / 'thresholds.html', content)}, {figures}"
    except OSError as error:
        raise UserError(f"{folder}: the results cannot be written there: {error.strerror}") from None


def _write(file: Path, content: str) -> Path:
    aside = file.with_name(f"{file.name}.aside")
    aside.write_text(content, encoding="utf-8")
    return aside.replace(file)
