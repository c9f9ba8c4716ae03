"""Writing the report of a run."""

from __future__ import annotations

from pathlib import Path

from raydet.errors import UserError
from raydet.registry import family_of
from raydet.report.gain import control_of
from raydet.report.inputs import RunRecords
from raydet.report.page import Pictures, Section, check_can_draw, write_page
from raydet.train.rundir import RunFolder


def write_report(run_dir: Path, *, control: Path | None = None) -> Path:
    """Write RUN/report.html, one page without outside parts, and its pictures into RUN/plots/; return the page.

    It is measured against `control`, or the control that lies beside it. What is missing in the run folder, its section
    names. Raises UserError where `run_dir` or `control` is no run folder, the two cannot be compared, or matplotlib is
    not installed.
    """
    check_can_draw()
    from raydet.report.answer import answer  # after the check: it imports matplotlib

    folder, config = RunFolder(run_dir).path, RunFolder(run_dir).load_config()
    family = family_of(config)
    try:
        inputs, makers = family.report(folder, config)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{folder}: its figures cannot be read: {error}") from None
    found = control_of(inputs, control)

    def first(run: RunRecords, pictures: Pictures) -> Section:
        return answer(run, found, family.limits(run))

    return write_page(folder / "report.html", f"{config.method.name}: {folder.name}", inputs, [first, *makers])
