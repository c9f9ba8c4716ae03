"""What `raydet check-data` found: everything that is wrong, at once, by the rules that training applies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from raydet.data.leaks import IN_TWO_SETS
from raydet.data.problems import Problem, ProblemLog, Severity, capped

FixPolicy = Literal["drop", "clip"]
"""What becomes of boxes that cannot be used as they are, in a cleaned copy."""


class Summary(Protocol):
    """What one set holds, of whatever family; `str` gives all of it, over several lines."""

    @property
    def name(self) -> str:
        """Return what the set is for: labeled, unlabeled, val, test, or "data" where it is checked alone."""

    @property
    def images(self) -> int:
        """Return how many images it has."""

    @property
    def num_classes(self) -> int:
        """Return how many classes it knows."""

    def headline(self) -> str:
        """Return name and size, in a few words."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found. `problems` holds the first 10,000 of each code, `counts` all of them."""

    sets: tuple[Summary, ...]
    problems: tuple[Problem, ...]
    counts: dict[tuple[Severity, str], int]
    num_labeled: int = 0  # images that training sees with their labels, and without, where a configuration was checked
    num_unlabeled: int = 0
    shared: Mapping[tuple[str, str], int] = field(default_factory=dict)  # pictures that two sets have in common

    @property
    def num_errors(self) -> int:
        """Return how many errors were found; with none, training can start."""
        return sum(count for (severity, _), count in self.counts.items() if severity == "error")

    @property
    def num_warnings(self) -> int:
        """Return how many warnings were found."""
        return sum(self.counts.values()) - self.num_errors


@dataclass(frozen=True, slots=True)
class FixResult:
    """A cleaned copy of a data set's annotations."""

    file: Path  # COCO JSON; set `path` to it
    images: Path  # where its file names start; set `images` to it
    report: CheckReport  # what is left, and what was left out (errors) or dropped or clipped (warnings)


def format_report(report: CheckReport, per_code: int = 10) -> str:
    """Return the report as text: the sets, then errors and warnings, the first `per_code` of each code.

    All warnings are counted at the end, as what is not shown may be of another kind.
    """
    counts = Counter(report.counts)
    blocks = [str(summary) for summary in report.sets]
    for severity in ("error", "warning"):
        found = [problem for problem in report.problems if problem.severity == severity]
        if found:
            total = report.num_errors if severity == "error" else report.num_warnings
            title = f"{total:,} {severity}{'s' * (total != 1)}:"
            blocks.append("\n  ".join([title, *capped(found, counts, per_code)]))
    if report.num_warnings > 1:
        blocks.append(f"warnings in all: {counted_warnings(report)}")
    if not report.num_errors:
        blocks.append("no errors: this data can be used")
    return "\n".join(blocks)


def counted_warnings(report: CheckReport) -> str:
    """Return how many warnings there are of each code, and between which sets; empty where there are none."""
    counts = {code: count for (severity, code), count in report.counts.items() if severity == "warning"}
    between = ", ".join(f"{count:,} in {one} and {other}" for (one, other), count in report.shared.items())
    return ", ".join(
        f"{count:,} {code}" + (f" ({between})" if code == IN_TWO_SETS else "") for code, count in counts.items()
    )


def report_of(summaries: Sequence[Summary], log: ProblemLog, tables: Mapping[str, Sized] | None = None) -> CheckReport:
    """Return the report of what was logged; `tables` are the sets as training sees them, after the split."""
    labeled, unlabeled = (len((tables or {}).get(name, ())) for name in ("labeled", "unlabeled"))
    return CheckReport(
        tuple(summaries), tuple(log.problems), dict(log.counts), labeled, unlabeled, shared=dict(log.shared)
    )
