"""What every configuration section shares."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raydet.config.paths import PathText

Fraction = Annotated[float, Field(ge=0, le=1)]
Threshold = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A frozen part of the configuration; unknown keys are errors, field docstrings are the reference."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())

    def paths(self) -> tuple[str, ...]:
        """Return the keys that name local files which the run's processes open, and so have to find from anywhere."""
        return ()

    def is_default(self, key: str) -> bool:
        """Return whether a setting is the default, written out or not: configurations that raydet writes say all."""
        return bool(getattr(self, key) == type(self).model_fields[key].default)


class Views(Section):
    """What the augmentation of every family holds."""

    gray16_range: tuple[NonNegativeInt, NonNegativeInt] = (0, 65535)
    """The values of 16-bit pictures, gray or colour, that become 0 to 255, e.g. [0, 4095] where 12 bits are used."""

    @model_validator(mode="after")
    def _range_has_a_width(self) -> Self:
        low, high = self.gray16_range
        if not low < high <= 65535:
            raise ValueError(f"gray16_range=[{low}, {high}]: expected two values of 0 to 65535, the lower first")
        return self


class SetSection(Section):
    """What the description of every image set holds."""

    path: PathText

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


SetConfig = TypeVar("SetConfig", bound=SetSection)


class ModelSection(Section):
    """What the settings of every model hold.

    `weights` is None for a model that starts from random weights. It is written `none`, or `null` as older versions
    did. Whether it may be left out, and what that means, is up to the model.
    """

    weight_keys: ClassVar[tuple[str, ...]] = ("weights",)
    """The settings that may name a local file."""

    weights: PathText | None = None

    @field_validator("weights")
    @classmethod
    def _none_is_a_word(cls, weights: str | None) -> str | None:
        if weights is not None and not weights.strip():
            raise ValueError("is empty: write imagenet, a local file, or none")
        return None if weights == "none" else weights

    @property
    def started_from(self) -> str | None:
        """The run or file whose weights the model starts from, beside those of `weights`; None where there is none."""
        return None

    def _fill(self, **values: object) -> None:
        """Set what was left out and follows from what was given, so that the resolved configuration holds it."""
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the section is frozen for everybody else


class DataSection(Section, Generic[SetConfig]):
    """Images to train on and to evaluate on, whatever is known of them."""

    main_key: ClassVar[str] = "labeled"
    """The key of the set that a run goes through, which all code calls the labelled one."""
    drawn_by: ClassVar[tuple[str, ...]] = ()
    """The keys that draw the labelled images with `split_seed`."""

    val: SetConfig | None = None
    """Images for evaluation during training."""
    val_count: PositiveInt | None = None
    """Instead of `val`: withhold so many images of `labeled` from training, drawn with `split_seed`, and evaluate on
    them. No class loses its last image."""
    split_seed: int = 0
    """Seed of the labelled split, apart from `seed`, so that runs with several seeds can share one split."""

    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with pictures that cannot be read: stop before the run, or leave them out of their set. `skip` decodes
    every picture once before the run, and lists what is left out in RUN/data/skipped.jsonl."""

    loader_threads: NonNegativeInt = 2
    """Threads that decode and augment ahead of the step; 0 works in the training thread."""
    prefetch_steps: PositiveInt = 2
    """How many steps of images are prepared ahead."""

    @model_validator(mode="after")
    def _one_way_to_evaluate(self) -> Self:
        if self.val_count is not None and self.val is not None:
            raise ValueError("val and val_count both say what to evaluate on; keep one of them")
        return self

    @property
    def main(self) -> SetConfig:
        """The set that a run goes through."""
        found: SetConfig = getattr(self, self.main_key)
        return found

    @property
    def has_labels(self) -> bool:
        """Whether something is known of the images that a run goes through."""
        return self.main_key == "labeled"

    @property
    def kind_of_images(self) -> str:
        """What the images that a run goes through are called."""
        return "labelled" if self.has_labels else self.main_key

    @property
    def has_val(self) -> bool:
        """Whether the run has images for evaluation."""
        return self.val is not None or self.val_count is not None

    @property
    def sets(self) -> dict[str, SetConfig]:
        """The sets that are given, by name; the main one, which comes first, is called `labeled`."""
        named = {"labeled": self.main, **{name: getattr(self, name, None) for name in ("unlabeled", "val", "test")}}
        return {name: one for name, one in named.items() if one is not None}

    @property
    def split_rule(self) -> dict[str, Any]:
        """The settings that decide which images keep their labels; the seed counts only where something is drawn."""
        drawn = {key: value for key in (*self.drawn_by, "val_count") if (value := getattr(self, key)) is not None}
        return {**drawn, "split_seed": self.split_seed} if drawn else {}

    @property
    def leaves_some_unlabeled(self) -> bool:
        """Whether the run has unlabelled images beside its main set, as far as the settings say."""
        return False


class LabeledDataSection(DataSection[SetConfig]):
    """Labelled, unlabelled and validation images."""

    labeled: SetConfig
    """Labelled images."""
    unlabeled: SetConfig | None = None
    """More images; what is annotated there is hidden from training and used for diagnostics only. Default: what the
    choice of labelled images (`labeled_count` and the like) leaves over of `labeled`."""
    test: SetConfig | None = None
    """Images for `raydet evaluate --split test`; checked with the others, never trained or evaluated on before."""

    labeled_count: PositiveInt | None = None
    """Use only so many labelled images, some of every class where possible; the rest becomes unlabelled unless
    `unlabeled` is given."""
    labeled_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Use only this fraction of the labelled images (see `labeled_count`)."""
    labeled_ids: PathText | None = None
    """File that lists the labelled image ids: a JSON list, or one id a line."""

    drawn_by: ClassVar[tuple[str, ...]] = ("labeled_count", "labeled_fraction")
    """The keys that draw the labelled images with `split_seed`; `labeled_ids` lists them."""

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Self:
        given = [key for key in (*self.drawn_by, "labeled_ids") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both choose the labelled images; keep one of them")
        if self.val_count is not None and self.labeled_ids is not None:
            raise ValueError("val_count could withhold images that labeled_ids lists: give `val`, or another choice")
        return self

    @property
    def split_rule(self) -> dict[str, Any]:
        """The settings that decide which images keep their labels; the seed counts only where something is drawn."""
        return super().split_rule if self.labeled_ids is None else {"labeled_ids": self.labeled_ids}

    @property
    def leaves_some_unlabeled(self) -> bool:
        """Whether the run has unlabelled images, as far as the settings say."""
        chooses = any(getattr(self, key) is not None for key in (*self.drawn_by, "labeled_ids"))
        return self.unlabeled is not None or (chooses and self.labeled_fraction != 1)
