"""Writing the page that compares runs."""

from __future__ import annotations

import os
from pathlib import Path

from raydet.errors import UserError
from raydet.registry import family_of
from raydet.report.compare.runs import Compared
from raydet.report.page import can_draw, write_page

NAME = "compare.html"
MOST_NAMED = 4  # runs in the title


def folder_for(compared: Compared, out: Path | None) -> Path:
    """Return where the page goes: `out`, or compare/ in the folder that holds all the runs; beside the first run where
    that is the root of the file system."""
    homes = [run.folder.parent for run in compared.runs]
    home = Path(os.path.commonpath(homes))
    return out or (homes[0] if home == home.parent else home) / "compare"


def write_comparison(compared: Compared, folder: Path, *, max_images: int) -> str:
    """Write FOLDER/compare.html and its pictures into FOLDER/plots/; say what was written.

    Without matplotlib there is no page. Raises UserError where the folder cannot be written, or is that of a run.
    """
    if not can_draw():
        return "for a page with pictures install matplotlib: pip install 'raydet[plots]'"
    from raydet.report.compare import sections  # after the check: it imports matplotlib

    if (folder / "config.json").exists():
        raise UserError(f"--out {folder}: that is a run's folder; choose another one")
    makers = [sections.summary, sections.curves, sections.by_class]
    makers += [sections.pairs] if compared.pairs else []
    own = family_of(compared.runs[0].config).comparison(compared, max_images=max_images)
    names = list(compared.names.values())
    title = ", ".join(names) if len(names) <= MOST_NAMED else f"{len(names)} runs"
    try:
        page = write_page(folder / NAME, f"Compared: {title}", compared, [*makers, *own, sections.settings])
    except OSError as error:
        raise UserError(f"--out {folder}: the page cannot be written there: {error.strerror}") from None
    return f"written: {page}"
