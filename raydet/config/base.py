"""What every configuration section shares."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Threshold = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A frozen part of the configuration; unknown keys are errors, field docstrings are the reference."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class SetSection(Section):
    """What the description of every image set holds."""

    path: str


SetConfig = TypeVar("SetConfig", bound=SetSection)


class ModelSection(Section):
    """What the settings of every model hold.

    `weights` is None for a model that starts from random weights. It is written `none`, or `null` as older versions
    did. Whether it may be left out, and what that means, is up to the model.
    """

    weight_keys: ClassVar[tuple[str, ...]] = ("weights",)
    """The settings that may name a local file."""

    weights: str | None = None

    @field_validator("weights")
    @classmethod
    def _none_is_a_word(cls, weights: str | None) -> str | None:
        if weights is not None and not weights.strip():
            raise ValueError("is empty: write imagenet, a local file, or none")
        return None if weights == "none" else weights

    def _fill(self, **values: object) -> None:
        """Set what was left out and follows from what was given, so that the resolved configuration holds it."""
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the section is frozen for everybody else


class DataSection(Section, Generic[SetConfig]):
    """Labelled, unlabelled and validation images."""

    labeled: SetConfig
    """Labelled images."""
    unlabeled: SetConfig | None = None
    """More images; what is annotated there is hidden from training and used for diagnostics only. Default: what the
    choice of labelled images (`labeled_count` and the like) leaves over of `labeled`."""
    val: SetConfig | None = None
    """Images for evaluation during training."""
    test: SetConfig | None = None
    """Images for `raydet evaluate --split test`; checked with the others, never trained or evaluated on before."""

    labeled_count: PositiveInt | None = None
    """Use only so many labelled images, some of every class where possible; the rest becomes unlabelled unless
    `unlabeled` is given."""
    labeled_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Use only this fraction of the labelled images (see `labeled_count`)."""
    labeled_ids: str | None = None
    """File that lists the labelled image ids: a JSON list, or one id a line."""
    split_seed: int = 0
    """Seed of the labelled split, apart from `seed`, so that runs with several seeds can share one split."""

    loader_threads: NonNegativeInt = 2
    """Threads that decode and augment ahead of the step; 0 works in the training thread."""
    prefetch_steps: PositiveInt = 2
    """How many steps of images are prepared ahead."""

    drawn_by: ClassVar[tuple[str, ...]] = ("labeled_count", "labeled_fraction")
    """The keys that draw the labelled images with `split_seed`; `labeled_ids` lists them."""

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Self:
        given = [key for key in (*self.drawn_by, "labeled_ids") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both choose the labelled images; keep one of them")
        return self

    @property
    def sets(self) -> dict[str, SetConfig]:
        """The sets that are given, by name."""
        named = {"labeled": self.labeled, "unlabeled": self.unlabeled, "val": self.val, "test": self.test}
        return {name: one for name, one in named.items() if one is not None}

    @property
    def split_rule(self) -> dict[str, Any]:
        """The settings that decide which images keep their labels; the seed counts only where something is drawn."""
        for key in self.drawn_by:
            if (value := getattr(self, key)) is not None:
                return {key: value, "split_seed": self.split_seed}
        return {} if self.labeled_ids is None else {"labeled_ids": self.labeled_ids}

    @property
    def leaves_some_unlabeled(self) -> bool:
        """Whether the run has unlabelled images, as far as the settings say."""
        return self.unlabeled is not None or (bool(self.split_rule) and self.labeled_fraction != 1)
