"""Where images come from, how they are split, and how they are augmented."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raydet.config.base import DataSection, Fraction, PositiveFloat, PositiveInt, Section, SetSection
from raydet.config.paths import PathText


class ShapesConfig(Section):
    """The generated `Shapes` data set: textured background, clutter, occlusion, a long tail, look-alike classes."""

    num_images: PositiveInt = 200
    """How many images."""
    seed: int = 0
    """Two seeds give disjoint image sets."""
    height: Annotated[int, Field(ge=32, le=4096)] = 128
    """Image height in pixels."""
    width: Annotated[int, Field(ge=32, le=4096)] = 160
    """Image width in pixels."""
    max_objects: PositiveInt = 5
    """Most objects in one image."""


class DatasetConfig(SetSection):
    """One data set. In YAML a plain string is short for `path: <string>`.

    Paths may hold `~`, `${NAME}` and `${NAME:-default}`, as everywhere; relative paths start at the working directory.
    """

    path: PathText
    """COCO JSON file, VOC folder, YOLO folder or data.yaml, image folder, glob of images, or `shapes`."""
    format: Literal["auto", "coco", "voc", "yolo", "folder", "shapes"] = "auto"
    """How to read `path`; `auto` decides from what lies there (`raydet check-data` says what it chose)."""
    images: PathText | None = None
    """Image root of a COCO JSON; by default the JSON's folder, or its parent where the first image lies there."""
    subset: str | None = None
    """VOC: name of the list in ImageSets/Main; YOLO: train, val or test of data.yaml."""
    shapes: ShapesConfig | None = None
    """Settings of the generated set, for `path: shapes`."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _shapes_go_with_shapes(self) -> DatasetConfig:
        if self.shapes is not None and self.path != "shapes":
            raise ValueError("`shapes` is only for `path: shapes`; remove it or set path: shapes")
        return self


class ViewsConfig(Section):
    """Weak and strong augmentation. Defaults: Unbiased Teacher on COCO."""

    short_side: tuple[PositiveInt, ...] = (640, 672, 704, 736, 768, 800)
    """Weak view: the short edge is resized to one of these, drawn per view (pixels)."""
    max_long_side: PositiveInt = 1333
    """The long edge never exceeds this (pixels)."""
    eval_short_side: PositiveInt = 800
    """Short edge at evaluation (pixels)."""
    horizontal_flip: Fraction = 0.5
    """Probability of a left-right flip."""
    vertical_flip: Fraction = 0.0
    """Probability of an up-down flip; for pictures without an up, such as microscopy."""
    color_jitter: Fraction = 0.8
    """Probability of brightness, contrast, saturation (0.4 each) and hue (0.1) jitter in the strong view."""
    grayscale: Fraction = 0.2
    """Probability of dropping colour in the strong view."""
    blur: Fraction = 0.5
    """Probability of a Gaussian blur with sigma from `blur_sigma` in the strong view."""
    blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    """Range of the blur's sigma (pixels)."""
    erase: tuple[Fraction, Fraction, Fraction] = (0.7, 0.5, 0.3)
    """Probabilities of the three random erasings of the strong view; boxes are never edited by them."""
    min_box_px: PositiveFloat = 1.0
    """Boxes with a side below this in the view are dropped and counted."""


class DataConfig(DataSection[DatasetConfig]):
    """Labelled, unlabelled and validation images with boxes."""

    labeled_ids: PathText | None = None
    """File that lists the labelled image ids: a JSON list, one id a line, or Unbiased Teacher's seed file with percent
    and seed behind it, as in `COCO_supervision.txt#10/1`."""
    on_bad_box: Literal["error", "drop", "clip"] = "error"
    """What to do with boxes that are degenerate or leave their image: stop, drop them, or clip what can be clipped."""
    views: ViewsConfig = ViewsConfig()
    """Augmentation."""
