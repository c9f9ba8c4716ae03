"""Writing the report of a search: SWEEP/report.html, one page like a run's."""

from __future__ import annotations

from pathlib import Path

from raydet.metrics import FILE_NAME
from raydet.report.page import check_can_draw, write_page
from raydet.sweep.definition import read_definition
from raydet.sweep.results import best_point, collect, summarise_points
from raydet.sweep.trial_metrics import TrialMetrics


def write_sweep_report(folder: Path) -> Path:
    """Write SWEEP/report.html without outside parts, and its pictures into SWEEP/plots/; return the page.

    A search may still be running. Raises UserError where `folder` holds no search or matplotlib is not installed.
    """
    check_can_draw()
    from raydet.sweep import report_curves as curves  # after the check: it imports matplotlib
    from raydet.sweep import report_sections as sections
    from raydet.sweep.report_inputs import SweepInputs

    folder = folder.absolute()
    definition, rows = read_definition(folder), collect(folder)
    points = summarise_points(rows)
    burn_ins = [TrialMetrics.read(file) for file in sorted(folder.glob(f"burn_in/*/{FILE_NAME}"))]
    found = SweepInputs(definition, rows, points, best_point(points, definition.mode), burn_ins)
    makers = [
        sections.summary,
        sections.point_table,
        curves.effects,
        *([curves.beside_the_paper] if definition.published is not None else []),
        *([curves.joint] if curves.is_grid(found) else []),
        curves.learning_curves,
        *([curves.over_the_run] if definition.curves else []),
        sections.failures,
        sections.times,
        sections.trial_table,
    ]
    return write_page(folder / "report.html", f"Search: {definition.name}", found, makers)
