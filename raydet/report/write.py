"""Writing the report of a run."""

from __future__ import annotations

from pathlib import Path

from raydet.registry import family_of
from raydet.report.page import check_can_draw, write_page
from raydet.train.rundir import RunFolder


def write_report(run_dir: Path) -> Path:
    """Write RUN/report.html, one page without outside parts, and its pictures into RUN/plots/; return the page.

    What is missing in the run folder, its section names. Raises UserError where `run_dir` is no run folder or
    matplotlib is not installed.
    """
    check_can_draw()
    folder, config = RunFolder(run_dir).path, RunFolder(run_dir).load_config()
    inputs, makers = family_of(config).report(folder, config)
    return write_page(folder / "report.html", f"{config.method.name}: {folder.name}", inputs, makers)
