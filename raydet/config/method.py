"""What the settings of all methods share."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from raydet.config.base import NonNegativeInt, Section
from raydet.config.optim import OptimConfig


class MethodSection(Section):
    """What the settings of every method hold."""

    uses_labels: ClassVar[bool] = True
    """Whether the method trains on pseudo-labels."""
    fixed_length: ClassVar[bool] = False
    """Whether the end of the run is a stage of its own, so that a run once begun cannot be made longer."""
    name: str
    burn_in_steps: NonNegativeInt = 2000
    """Optimiser steps on labelled images only, before the first pseudo-labels."""

    def length(self, optim: OptimConfig) -> int:
        """Return the optimiser steps of a run."""
        return optim.steps

    def contradictions(self, optim: OptimConfig) -> list[str]:
        """Return what of the method's settings cannot be meant, each with the keys and what to change."""
        if self.uses_labels and self.burn_in_steps >= optim.steps:
            return [
                f"method.burn_in_steps={self.burn_in_steps} leaves nothing of optim.steps={optim.steps} for "
                f"pseudo-labels; lower the first, raise the second, or use a supervised method"
            ]
        return []


class TeacherSection(MethodSection):
    """What the settings of a method with a teacher, an average of the student, hold."""

    ema_keep_rate: Annotated[float, Field(ge=0, lt=1)] = 0.9996
    """Share of the teacher that one EMA update keeps; 1.0 would freeze the teacher forever."""
