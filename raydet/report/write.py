"""Writing the report of a run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from raydet.errors import UserError
from raydet.registry import family_of
from raydet.train.rundir import RunFolder


def write_report(run_dir: Path) -> Path:
    """Write RUN/report.html, one page without outside parts, and its pictures into RUN/plots/; return the page.

    What is missing in the run folder, its section names. Raises UserError where `run_dir` is no run folder or
    matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("raydet report draws with matplotlib, which is not installed: pip install 'raydet[plots]'")
    from raydet.report.page import Pictures, page

    folder = RunFolder(run_dir).path
    config = RunFolder(run_dir).load_config()
    pictures = Pictures()
    made = family_of(config).report(folder, config, pictures)
    content = page(f"{config.method.name}: {folder.name}", str(folder), made)
    pictures.save(folder / "plots")
    aside = folder / "report.html.aside"
    aside.write_text(content, encoding="utf-8")
    return aside.replace(folder / "report.html")
