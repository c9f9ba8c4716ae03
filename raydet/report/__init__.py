"""RUN/report.html: what happened in a run, on one page. Needs matplotlib (the extra `plots`)."""

from __future__ import annotations

from raydet.report.write import write_report

__all__ = ["write_report"]
