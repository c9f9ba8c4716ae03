"""Where images without labels come from, the boxes that may hold an object, and the three views of an image."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raydet.config.base import DataSection, Fraction, PositiveFloat, PositiveInt, Views
from raydet.config.box_data import DatasetConfig
from raydet.config.paths import PathText

GRID = "grid"
ThreeShares = tuple[Fraction, Fraction, Fraction]


class ProposalViewsConfig(Views):
    """The three views of an image. Defaults: ADePT's, which are SoCo's and BYOL's where ADePT is silent."""

    size: Annotated[int, Field(ge=16, le=4096)] = 224
    """Side of the first two views (pixels): V1 is the whole image, V2 a crop of it, both squeezed to a square."""
    small_size: Annotated[int, Field(ge=16, le=4096)] = 112
    """Side of V3 (pixels)."""
    v3_mode: Literal["downsample_v2", "independent_crop"] = "downsample_v2"
    """What V3 shows: V2 made smaller (ADePT), or a crop of its own (SoCo's code)."""
    crop_area: tuple[Fraction, Fraction] = (0.5, 1.0)
    """Share of the image's area that a crop has."""
    crop_aspect: tuple[PositiveFloat, PositiveFloat] = (0.75, 4 / 3)
    """Width / height of a crop, drawn log-uniformly."""
    crop_tries: PositiveInt = 6
    """Draw a crop up to so many times until it shows `method.num_boxes` boxes; then some that it shows are repeated."""
    horizontal_flip: Fraction = 0.5
    """Probability of a left-right flip of a view, boxes included; where V3 is V2 made smaller it has V2's."""
    color_jitter: Fraction = 0.8
    """Probability of brightness, contrast (0.4 each), saturation (0.2) and hue (0.1) jitter of a view."""
    grayscale: Fraction = 0.2
    """Probability of dropping a view's colour."""
    blur: ThreeShares = (1.0, 0.1, 0.1)
    """Probabilities of a Gaussian blur of V1, V2 and V3."""
    blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    """Range of the blur's sigma (pixels of a view of 224; smaller views have less in proportion)."""
    solarize: ThreeShares = (0.0, 0.2, 0.2)
    """Probabilities of inverting all values from 128 on, in V1, V2 and V3."""
    box_jitter: Fraction = 0.0
    """Probability that a box of V1 is moved and resized by up to `box_jitter_ratio` of its sides (SoCo: 0.5)."""
    box_jitter_ratio: Fraction = 0.1
    """By how much."""
    box_cutout: Fraction = 0.0
    """Probability that a square inside a box of V2 and V3 becomes black (SoCo: 0.5)."""
    box_cutout_area: tuple[Fraction, Fraction] = (0.1, 0.3)
    """Share of the box's area that the square has."""

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for key in ("crop_area", "crop_aspect", "blur_sigma", "box_cutout_area"):
            low, high = getattr(self, key)
            if low > high or low <= 0:
                raise ValueError(f"{key}=[{low:g}, {high:g}]: expected two values above 0, the lower first")
        if self.small_size > self.size:
            raise ValueError(f"small_size={self.small_size} is larger than size={self.size}: V3 is the small view")
        return self


class ProposalDataConfig(DataSection[DatasetConfig]):
    """Images without labels, and boxes that may hold an object."""

    main_key: ClassVar[str] = "images"

    images: DatasetConfig
    """Images to learn from. Boxes that are annotated there are not seen by training; where `val_count` withholds
    some of the images, these are measured by theirs."""
    proposals: PathText
    """What `raydet proposals IMAGES --out DIR` wrote: DIR, or the proposals.arrow in it. `grid`: the same boxes
    relative to every image, for trying things out. Of `val`, too, where the file has those images."""
    val_count: PositiveInt | None = None
    """Instead of `val`: withhold so many of `images`, drawn with `split_seed`, and measure there which annotated boxes
    the region proposals find. No class loses its last image."""
    views: ProposalViewsConfig = ProposalViewsConfig()
    """The three views of an image."""

    def paths(self) -> tuple[str, ...]:
        """Return the key of the proposals, where it names a file."""
        return () if self.proposals == GRID else ("proposals",)
