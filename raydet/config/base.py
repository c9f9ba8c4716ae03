"""What every configuration section shares."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Threshold = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A frozen part of the configuration; unknown keys are errors, field docstrings are the reference."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class ModelSection(Section):
    """What the settings of every model hold."""

    weights: str | None = None


class DataSection(Section):
    """What the settings of every family's data hold."""

    loader_threads: NonNegativeInt = 2
    """Threads that decode and augment ahead of the step; 0 works in the training thread."""
    prefetch_steps: PositiveInt = 2
    """How many steps of images are prepared ahead."""

    split_seed: int = 0
    """Seed of the labelled split, apart from `seed`, so that runs with several seeds can share one split."""

    @property
    def has_val(self) -> bool:
        """Whether there are images for evaluation during training."""
        return getattr(self, "val", None) is not None

    @property
    def leaves_some_unlabeled(self) -> bool:
        """Whether the run has unlabelled images, as far as the settings say."""
        raise NotImplementedError
