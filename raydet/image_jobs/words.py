"""What messages call a job and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one command."""

    noun: str  # its actors are `NOUN actors`
    results: str
    verb: str
    done: str
    manifest: str  # file with its settings
    exports: tuple[str, ...]  # files made of the shards, beside skipped.csv
