"""Writing the report of a run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from raydet.errors import UserError
from raydet.report.history import Select


def write_report(run_dir: Path, *, select: Select) -> Path:
    """Write RUN/report.html, one page without outside parts, and its pictures into RUN/plots/; return the page.

    `select` applies the method's thresholds to a stored label. What is missing in the run folder, its section names.
    Raises UserError where `run_dir` is no run folder or matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("raydet report draws with matplotlib, which is not installed: pip install 'raydet[plots]'")
    from raydet.report import label_sections, sections  # after the check: they import matplotlib
    from raydet.report.inputs import read_inputs
    from raydet.report.page import Pictures, page

    run = read_inputs(run_dir, select)
    pictures = Pictures()
    makers = (
        sections.summary,
        sections.learning_curves,
        sections.ap_table,
        sections.loss_shares,
        label_sections.localisation,
        sections.gates,
        label_sections.precision_and_recall,
        sections.speed,
        label_sections.gallery,
    )
    made = [make(run, pictures) for make in makers]
    content = page(f"{run.config.method.name}: {run.folder.name}", str(run.folder), made)
    pictures.save(run.folder / "plots")
    aside = run.folder / "report.html.aside"
    aside.write_text(content, encoding="utf-8")
    return aside.replace(run.folder / "report.html")
