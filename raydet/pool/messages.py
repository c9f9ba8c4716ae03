"""What the broker tells the training processes. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from raydet.errors import RunError, UserError
from raydet.labels.desk import Key


class TeacherError(RunError):
    """A teacher cannot do its work: it fails on an image, dies again and again, or does not start."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The state of the broker as far as the caller's labels are concerned."""

    incarnation: str  # changes when the broker is restarted
    is_superseded: bool = False  # the caller belongs to an attempt that has been replaced
    error: UserError | RunError | None = None  # why the pool as a whole cannot go on
    failures: dict[str, str] = field(default_factory=dict)  # image id -> why it cannot be labelled
    missing: list[Key] = field(default_factory=list)
    unpublished: list[int] = field(default_factory=list)  # versions that wait for their weights
    table: pa.Table | None = None
    stats: dict[str, float] = field(default_factory=dict)
