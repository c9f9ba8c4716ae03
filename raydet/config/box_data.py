"""Where images come from, how they are split, and how they are augmented."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from raydet.config.base import (
    Fraction,
    LabeledDataSection,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    SetSection,
    Views,
)
from raydet.config.paper_splits import MINORITY_CLASSES, NOVEL_CLASSES
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
    """COCO JSON file, VOC folder, YOLO folder, data.yaml or obj.data, image folder, glob of images, or `shapes`. As
    `data.unlabeled` a folder means all its images, whatever annotations lie there."""
    format: Literal["auto", "coco", "voc", "yolo", "folder", "shapes"] = "auto"
    """How to read `path`; `auto` decides from what lies there (`raydet check-data` says what it chose)."""
    class_map: dict[str, str | None] | PathText | None = None
    """Other names for the classes of this set: name there -> name here, or null to leave the boxes out; classes that
    are not mentioned keep their names. Or a JSON file that holds this."""
    images: PathText | None = None
    """Image root of a COCO JSON; by default the JSON's folder, or its parent where the first image lies there. In all
    formats: the folder that symlinks may lead into."""
    subset: str | None = None
    """VOC: name of the list in ImageSets/Main, or of a subfolder; YOLO: train, val or test of data.yaml; folder with
    several COCO files: a word of the path of one."""
    shapes: ShapesConfig | None = None
    """Settings of the generated set, for `path: shapes`."""

    @model_validator(mode="after")
    def _shapes_go_with_shapes(self) -> DatasetConfig:
        if self.shapes is not None and self.path != "shapes":
            raise ValueError("`shapes` is only for `path: shapes`; remove it or set path: shapes")
        return self


class SplitConfig(Section):
    """Classes that a benchmark tells apart from the others: minority classes, which can be made rare, or novel ones."""

    minority_classes: tuple[str, ...] | Literal["coco_split1", "coco_split2"] = ()
    """Names of classes that keep their boxes in a few labelled images only; in all others they become background, as in
    the benchmark. Or its lists: `coco_split1` (the 20 classes of VOC), `coco_split2` (40 classes). Evaluation gives
    APmaj and APmin."""
    keep_images_per_minority: NonNegativeInt | None = None
    """How many images of each minority class keep all of their boxes, where there are so many. Default: all do, and the
    classes are only told apart at evaluation."""
    novel_classes: tuple[str, ...] | Literal["voc_split1", "voc_split2", "voc_split3"] = ()
    """Few-shot: names of the novel classes, or one of the published lists of VOC: `voc_split1` (bird, bus, cow,
    motorbike, sofa), `voc_split2` (aeroplane, bottle, cow, horse, sofa), `voc_split3` (boat, cat, motorbike, sheep,
    sofa). Evaluation gives AP and AP50 of novel and of base classes: APnovel, APbase, AP50novel, AP50base."""

    @property
    def minority(self) -> tuple[str, ...]:
        """Return the names of the minority classes."""
        given = self.minority_classes
        return MINORITY_CLASSES[given] if isinstance(given, str) else given

    @property
    def novel(self) -> tuple[str, ...]:
        """Return the names of the novel classes."""
        given = self.novel_classes
        return NOVEL_CLASSES[given] if isinstance(given, str) else given

    @model_validator(mode="after")
    def _go_together(self) -> SplitConfig:
        if self.keep_images_per_minority is not None and not self.minority_classes:
            raise ValueError("keep_images_per_minority needs minority_classes: the names of the classes to make rare")
        if self.minority_classes and self.novel_classes:
            raise ValueError("minority_classes and novel_classes both divide the classes in two; keep one of them")
        return self


class ViewsConfig(Views):
    """Weak and strong augmentation. Defaults: Unbiased Teacher on COCO."""

    short_side: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (640, 672, 704, 736, 768, 800)
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
    colors_on: Literal["loader", "device"] = "loader"
    """Who gives a strong view its colours, blur and erasures: the loader, most of whose time that takes, or the device
    that trains. The draws are the same, a pixel differs by rounding."""
    min_box_px: PositiveFloat = 1.0
    """Boxes with a side below this in the view are dropped and counted."""


class DataConfig(LabeledDataSection[DatasetConfig]):
    """Labelled, unlabelled and validation images with boxes."""

    shots_per_class: PositiveInt | None = None
    """Few-shot: label exactly so many boxes of every class, drawn with `split_seed`, and use the images that hold them.
    Other objects in these images count as background, as in the benchmark (docs/few_shot.md); images without a chosen
    box become unlabelled unless `unlabeled` is given."""
    labeled_ids: PathText | None = None
    """File that lists the labelled image ids: a JSON list, one id a line, or Unbiased Teacher's seed file with percent
    and seed behind it, as in `COCO_supervision.txt#10/1`."""
    split: SplitConfig = SplitConfig()
    """Rare classes, made on purpose."""
    federated: bool = True
    """Where a data set says which classes were looked for in an image (LVIS), background counts against those alone."""
    masks: bool = False
    """Read the masks of the labelled, val and test images' objects; `model.detector: mask_rcnn` sets it."""
    on_bad_box: Literal["error", "drop", "clip"] = "error"
    """What to do with boxes that are degenerate or leave their image: stop, drop them, or clip what can be clipped."""
    views: ViewsConfig = ViewsConfig()
    """Augmentation."""

    drawn_by: ClassVar[tuple[str, ...]] = ("shots_per_class", "labeled_count", "labeled_fraction")

    @model_validator(mode="after")
    def _one_way_to_choose_boxes(self) -> DataConfig:
        if self.shots_per_class is not None and self.split.keep_images_per_minority is not None:
            raise ValueError(
                "shots_per_class and split.keep_images_per_minority both choose the boxes that stay; keep one of them"
            )
        return self
