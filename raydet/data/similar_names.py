"""Class names that look like one: in no format is it an error, in all of them it should be known."""

from __future__ import annotations

from collections.abc import Sequence

from raydet.data.problems import ProblemLog


def report_similar_names(class_names: Sequence[str], file: object, log: ProblemLog) -> None:
    """Warn about names that differ in case or spaces alone."""
    seen: dict[str, str] = {}
    for name in class_names:
        other = seen.setdefault(" ".join(name.casefold().split()), name)
        if other != name:
            message = f"the names {other!r} and {name!r} differ only in case or spaces"
            log.warn("class-name-similar", file, "", message, "one class or two?")
