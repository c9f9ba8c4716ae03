"""A finding, and a list of them as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from raydet.text import plural

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was found, and what to do about it where it is not ok."""

    level: Level
    topic: str
    text: str
    advice: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def ok(topic: str, text: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding("ok", topic, text)


def warn(topic: str, text: str, advice: str) -> Finding:
    """Return a finding that a run may survive."""
    return Finding("warn", topic, text, advice)


def fail(topic: str, text: str, advice: str) -> Finding:
    """Return a finding that a run does not survive."""
    return Finding("fail", topic, text, advice)


def as_text(findings: Sequence[Finding]) -> str:
    """Return a line per finding, what to do below it, and the count at the end."""
    width = max((len(finding.topic) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:4}  {finding.topic:{width}}  {finding.text}")
        if finding.advice:
            lines.append(f"{'':{width + 8}}-> {finding.advice}")
    bad = {level: sum(finding.level == level for finding in findings) for level in ("fail", "warn")}
    return "\n".join([*lines, f"{bad['fail']} failed, {plural(bad['warn'], 'warning')}"])
