"""Where images with one class each come from, and the boxes that they are measured by."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from raydet.config.base import Fraction, LabeledDataSection, PositiveInt, SetSection, Views
from raydet.config.box_data import ShapesConfig
from raydet.config.paths import PathText


class LocatedSetConfig(SetSection):
    """One set of images. In YAML a plain string is short for `path: <string>`.

    Paths may hold `~`, `${NAME}` and `${NAME:-default}`, as everywhere; relative paths start at the working directory.
    """

    path: PathText
    """CUB_200_2011 folder, ILSVRC folder (ImageNet-1k with its XML files), tiny-imagenet-200 folder, COCO JSON with
    one class per image, a folder with one folder per class, a .parquet file, a folder or glob of them, or `shapes`."""
    format: Literal["auto", "cub", "imagenet", "tiny_imagenet", "coco", "folder", "parquet", "shapes"] = "auto"
    """How to read `path`; `auto` decides from what lies there (`raydet check-data` says what it chose)."""
    subset: str | None = None
    """CUB: train or test. ImageNet and Tiny-ImageNet: train or val. folder: the folder below `path`. Folder with
    several COCO files: a word of the path of one. Folder of Parquet: the files SUBSET.parquet and SUBSET-*.parquet.
    Must be given where there are several."""
    images: PathText | None = None
    """Image root of a COCO JSON; by default the JSON's folder, or its parent where the first image lies there."""
    read_boxes: bool = True
    """Read the boxes, where there are any. Training never sees them; off saves reading ImageNet's XML files."""
    image_column: str = "image"
    """Parquet: the column of encoded images (bytes, or a struct with `bytes`)."""
    label_column: str = "label"
    """Parquet: the column of labels (whole numbers from 0, or class names)."""
    id_column: str = "image_id"
    """Parquet: the column of image ids; where it is missing, rows are numbered through."""
    box_column: str = "boxes"
    """Parquet: the column of boxes, a list of four numbers or of such lists, in pixels; where it is missing, there are
    none."""
    box_format: Literal["xyxy", "xywh"] = "xyxy"
    """Parquet: what the four numbers are, both corners or the upper left corner and the size."""
    class_names: PathText | None = None
    """Parquet: a JSON list of class names in label order; default: the file's metadata, or a classes.json beside it."""
    shapes: ShapesConfig | None = None
    """Settings of the generated set, for `path: shapes`; the class of an image is that of its only object."""

    @model_validator(mode="after")
    def _shapes_go_with_shapes(self) -> LocatedSetConfig:
        if (self.shapes is not None) and self.path != "shapes":
            raise ValueError("`shapes` is only for `path: shapes`; remove it or set path: shapes")
        if self.shapes is not None and self.shapes.max_objects != 1:
            raise ValueError("shapes.max_objects must be 1: here an image has one object, whose class is the image's")
        return self


class LocatedViewsConfig(Views):
    """How images are cut and augmented. Defaults: LCHP's."""

    resize: Annotated[int, Field(ge=16, le=4096)] = 512
    """Every image is squeezed to a square of this side (pixels), whatever its shape and size."""
    size: Annotated[int, Field(ge=16, le=4096)] = 448
    """Side of the square that is cut out of it (pixels): what the networks see."""
    horizontal_flip: Fraction = 0.5
    """Probability of a left-right flip of the plain view."""
    test_view: Literal["center", "whole"] = "center"
    """What is measured, and labelled: the middle `size` of the squeezed image, or the whole image at `size`."""

    @model_validator(mode="after")
    def _crop_fits(self) -> LocatedViewsConfig:
        if self.size > self.resize:
            raise ValueError(f"size={self.size} cannot be cut out of resize={self.resize}: lower the first")
        return self


class LocatedDataConfig(LabeledDataSection[LocatedSetConfig]):
    """Images with one class each. Training sees classes alone; boxes are for evaluation and diagnostics."""

    labeled_per_class: PositiveInt | None = None
    """Use only so many labelled images of each class."""
    on_several_classes: Literal["error", "drop", "largest"] = "error"
    """COCO: an image with boxes of several classes has no one class: stop, leave the image out, or take the class of
    the largest box and forget the other classes' boxes. Several boxes of one class are fine: the best one counts."""
    views: LocatedViewsConfig = LocatedViewsConfig()
    """Augmentation."""

    drawn_by: ClassVar[tuple[str, ...]] = ("labeled_per_class", "labeled_count", "labeled_fraction")

    @model_validator(mode="after")
    def _nothing_is_unlabeled(self) -> LocatedDataConfig:
        if self.unlabeled is not None:
            raise ValueError("unlabeled: these methods learn from class labels alone; remove it")
        return self
