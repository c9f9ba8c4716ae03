"""Where the images of a classifier come from, which of them keep their label, and how they are augmented."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from raydet.config.base import Fraction, LabeledDataSection, NonNegativeInt, PositiveInt, Section, SetSection, Views
from raydet.config.paths import PathText


class PatternsConfig(Section):
    """The generated `patterns` data set: small pictures of one shape each, whose outline is the class."""

    num_images: PositiveInt = 200
    """How many images; the classes take turns."""
    seed: int = 0
    """Two seeds give disjoint image sets."""
    size: Annotated[int, Field(ge=8, le=512)] = 32
    """Side of the square images (pixels)."""
    num_classes: Annotated[int, Field(ge=2, le=6)] = 6
    """How many classes."""


class ImageSetConfig(SetSection):
    """One set of images. In YAML a plain string is short for `path: <string>`.

    Paths may hold `~`, `${NAME}` and `${NAME:-default}`, as everywhere; relative paths start at the working directory.
    """

    path: PathText
    """Folder of CIFAR batches, SVHN .mat or IDX files, a folder with one folder per class, a .parquet file, a folder or
    glob of them, or `patterns`; a glob of images, such as `photos/**/*.jpg`, reads them without labels."""
    format: Literal["auto", "cifar10", "cifar100", "svhn", "folder", "idx", "parquet", "patterns"] = "auto"
    """How to read `path`; `auto` decides from what lies there (`raydet check-data` says what it chose)."""
    subset: str | None = None
    """CIFAR and IDX: train or test. SVHN: train, extra or test. folder: the folder below `path`, e.g. train. Folder
    of Parquet: the files SUBSET.parquet and SUBSET-*.parquet. Must be given where there are several."""
    image_column: str = "image"
    """Parquet: the column of encoded images (bytes, or a struct with `bytes`)."""
    label_column: str = "label"
    """Parquet: the column of labels (whole numbers from 0, or class names)."""
    id_column: str = "image_id"
    """Parquet: the column of image ids; where it is missing, rows are numbered through."""
    class_names: PathText | None = None
    """Parquet and IDX: a JSON list of class names in label order; default: the file's metadata (Parquet), or a
    classes.json beside it."""
    patterns: PatternsConfig | None = None
    """Settings of the generated set, for `path: patterns`."""

    @model_validator(mode="after")
    def _patterns_go_with_patterns(self) -> ImageSetConfig:
        if self.patterns is not None and self.path != "patterns":
            raise ValueError("`patterns` is only for `path: patterns`; remove it or set path: patterns")
        return self


class ImageViewsConfig(Views):
    """How images are augmented."""

    size: Annotated[int, Field(ge=8, le=4096)] = 32
    """Side of the square that the network sees (pixels); images of another size are resized."""
    crop: Literal["translate", "resized", "none"] = "translate"
    """`translate`: moved by up to `max_translate` pixels, reflected at the border. `resized`: random resized crop in
    training, the middle at evaluation (ImageNet). `none`: whole."""
    max_translate: NonNegativeInt = 4
    """Furthest translation in each direction (pixels)."""
    horizontal_flip: Fraction = 0.5
    """Probability of a left-right flip; 0 for digits."""
    cutout_size: NonNegativeInt = 16
    """Side of the square hole of Cutout (pixels), where the method uses it; 0: none."""

    @model_validator(mode="after")
    def _reflection_is_possible(self) -> ImageViewsConfig:
        if self.crop == "translate" and self.max_translate >= self.size:
            raise ValueError(f"max_translate={self.max_translate} must be below size={self.size}: lower it")
        return self


class ImageDataConfig(LabeledDataSection[ImageSetConfig]):
    """Labelled, unlabelled and validation images of a classifier."""

    labeled_per_class: PositiveInt | None = None
    """Use only so many labelled images of each class; the rest becomes unlabelled unless `unlabeled` is given."""
    views: ImageViewsConfig = ImageViewsConfig()
    """Augmentation."""

    drawn_by: ClassVar[tuple[str, ...]] = ("labeled_per_class", "labeled_count", "labeled_fraction")
