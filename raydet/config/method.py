"""What the settings of all methods share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from raydet.config.base import NonNegativeInt, Section
from raydet.config.optim import OptimConfig

if TYPE_CHECKING:
    from raydet.config.run import RunConfig


class MethodSection(Section):
    """What the settings of every method hold."""

    uses_labels: ClassVar[bool] = True
    """Whether the method trains on pseudo-labels."""
    one_stage: ClassVar[bool] = False
    """Whether all steps are of one kind, so that `burn_in_steps` is 0."""
    fixed_length: ClassVar[bool] = False
    """Whether the end of the run is a stage of its own, so that a run once begun cannot be made longer."""
    lr_keys: ClassVar[tuple[str, ...]] = ("optim.lr",)
    """Where its learning rates are set: what a run that diverged is mended with, and may change when it is resumed."""
    implementation: ClassVar[str]
    """Where the method's code is, `module:Class`: settings are read without it, and without PyTorch."""
    name: str
    burn_in_steps: NonNegativeInt = 2000
    """Optimiser steps on labelled images only, before the first pseudo-labels."""

    @classmethod
    def called(cls) -> str:
        """Return what YAML names the method, without settings of it."""
        name: str = cls.model_fields["name"].default
        return name

    @property
    def keep_rate(self) -> float | None:
        """Share of the teacher that one update keeps; None: the teacher is no average of the student."""
        return None

    @property
    def own_views(self) -> Section | None:
        """The views that take the place of parts of `data.views`; None: there are none."""
        return None

    @property
    def labeled_listing(self) -> dict[str, Any]:
        """The settings by which labelled images are listed more or less often than once in an epoch, by their names
        here; empty: each is listed once. Where they are equal the same images are listed equally often."""
        return {}

    def settings_for_control(self) -> dict[str, Any]:
        """Return by dotted key what a method without pseudo-labels needs to train on labelled images as this one does,
        as nearly as it can, where settings of this method take the place of those keys."""
        return {}

    def length(self, optim: OptimConfig) -> int:
        """Return the optimiser steps of a run."""
        return optim.steps

    def shortened(self, burn_in: int, later: int) -> dict[str, int]:
        """Return what to change for a run of `burn_in` steps of the burn-in, `later` of the stage after it, and one
        more."""
        return {} if self.one_stage else {"burn_in_steps": burn_in}

    def contradictions(self, run: RunConfig) -> list[str]:
        """Return what of the run cannot be meant with this method, each with the keys and what to change."""
        if self.uses_labels and self.burn_in_steps >= run.optim.steps:
            return [
                f"method.burn_in_steps={self.burn_in_steps} leaves nothing of optim.steps={run.optim.steps} for "
                f"pseudo-labels; lower the first, raise the second, or use a supervised method"
            ]
        return []


class TeacherSection(MethodSection):
    """What the settings of a method with a teacher, an average of the student, hold."""

    ema_keep_rate: Annotated[float, Field(ge=0, lt=1)] = 0.9996
    """Share of the teacher that one EMA update keeps; 1.0 would freeze the teacher forever."""

    @property
    def keep_rate(self) -> float:
        """Share of the teacher that one update keeps."""
        return self.ema_keep_rate
