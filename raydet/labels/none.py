"""The label source of methods that need no labels."""

from __future__ import annotations

from collections.abc import Sequence

from raydet.records import PseudoLabel, TeacherRef, Weights


class NoLabels:
    """A `LabelSource` that nobody may ask: a method without a label schedule never does."""

    def rewind(self, version: int) -> None:
        """Nothing to forget."""

    def publish(self, ref: TeacherRef, weights: Weights) -> None:
        """Refuse: a method without a schedule has no publish steps."""
        raise AssertionError("publish() on a run without labels")

    def request(self, image_ids: Sequence[str], version: int) -> None:
        """Refuse."""
        raise AssertionError("request() on a run without labels")

    def take(self, image_ids: Sequence[str], version: int) -> list[PseudoLabel]:
        """Refuse."""
        raise AssertionError("take() on a run without labels")

    def retire(self, version: int) -> None:
        """Nothing to retire."""

    def flush(self) -> None:
        """Nothing to write."""

    def stats(self) -> dict[str, float]:
        """No figures."""
        return {}

    def close(self) -> None:
        """Nothing to close."""
