"""What is wrong with a data set: every rule reports here, so that check-data and training give the same verdict."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from raydet.errors import DataError
from raydet.text import plural

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding."""

    severity: Severity
    code: str  # stable and kebab-case, e.g. "box-outside"
    file: str
    where: str  # "annotation id 17 of image 3", "line 4"; empty for the whole file
    message: str  # what was given and what is allowed
    fix: str  # what to do

    def __str__(self) -> str:
        place = f"{self.file}, {self.where}" if self.where else self.file
        return f"{place}: {self.message}; {self.fix}" if self.fix else f"{place}: {self.message}"


class ProblemLog:
    """Collects problems: all are counted, and the first `keep` of every code are kept in full."""

    def __init__(self, keep: int = 10_000) -> None:
        self.problems: list[Problem] = []
        self.counts: Counter[tuple[Severity, str]] = Counter()
        self.shared: Counter[tuple[str, str]] = Counter()  # pictures that two sets have in common
        self.left_out: list[tuple[str, str]] = []  # image ids, and why these pictures were left out
        self._keep = keep

    def add(self, severity: Severity, code: str, file: object, where: str, message: str, fix: str = "") -> None:
        """Record one problem."""
        self.counts[severity, code] += 1
        if self.counts[severity, code] <= self._keep:
            self.problems.append(Problem(severity, code, str(file), where, message, fix))

    def error(self, code: str, file: object, where: str, message: str, fix: str = "") -> None:
        """Record something that must be repaired before training."""
        self.add("error", code, file, where, message, fix)

    def warn(self, code: str, file: object, where: str, message: str, fix: str = "") -> None:
        """Record something that training survives and the user should know."""
        self.add("warning", code, file, where, message, fix)

    @property
    def num_errors(self) -> int:
        """Return how many errors were recorded."""
        return sum(count for (severity, _), count in self.counts.items() if severity == "error")

    def warnings(self, per_code: int = 5) -> tuple[str, ...]:
        """Return the warnings as text, the first few of each code and how many more there are."""
        shown = capped([p for p in self.problems if p.severity == "warning"], self.counts, per_code)
        return tuple(shown)

    def explained(self, text: str) -> str:
        """Return an error's text with the warnings given before it: they often say its cause."""
        said = self.warnings(per_code=2)[:10]
        return "\n  ".join([text, "warnings that may say why:", *said]) if said else text

    def raise_errors(self, title: str, limit: int = 20) -> None:
        """Raise one DataError that lists up to `limit` errors and the warnings, where there are errors."""
        if not self.num_errors:
            return
        errors = [problem for problem in self.problems if problem.severity == "error"]
        if len(errors) == self.num_errors == 1:
            raise DataError(self.explained(str(errors[0])))
        codes = max(1, len({problem.code for problem in errors}))
        lines = capped(errors, self.counts, per_code=max(1, limit // codes))[: limit + codes]
        raise DataError(self.explained("\n  ".join([f"{title}: {plural(self.num_errors, 'error')}", *lines])))


def capped(problems: list[Problem], counts: Counter[tuple[Severity, str]], per_code: int) -> list[str]:
    """Return problems as lines in the order of their codes, at most `per_code` of each, then '... and N more'."""
    by_code: dict[tuple[Severity, str], list[Problem]] = {}
    for problem in problems:
        by_code.setdefault((problem.severity, problem.code), []).append(problem)
    lines: list[str] = []
    for key, group in by_code.items():
        lines += [f"[{key[1]}] {problem}" for problem in group[:per_code]]
        if (more := counts[key] - per_code) > 0:
            lines.append(f"[{key[1]}] ... and {more:,} more")
    return lines
