"""Where proposals come from. A source is small data that travels to actors; `finder` builds what works there."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raydet.data.proposals import grid_boxes
from raydet.errors import ConfigError, DataError
from raydet.proposals.filters import Boxes

Finder = Callable[[Tensor, str], Boxes]
"""From an image `[3, H, W]` uint8 RGB and its name to boxes `[P, 4]`, as `filters` has them. Called in several
threads at once. Raises DataError where the image cannot be served; it is then skipped with that reason."""


class Source(Protocol):
    """A way to propose boxes."""

    def settings(self) -> dict[str, Any]:
        """Return all that the boxes depend on, but for the image, as plain data; `name` is the source's."""

    def check(self) -> None:
        """Raise ConfigError where it cannot work here."""

    def finder(self) -> Finder:
        """Return what proposes, in the process that is to work."""


@dataclass(frozen=True, slots=True)
class SelectiveSearch:
    """Selective search (Uijlings et al., IJCV 2013) by OpenCV's contributed module, with ADePT's parameters.

    One segmentation (Felzenszwalb and Huttenlocher, IJCV 2004) of the image in one colour space; regions are merged by
    colour, texture, size and fill, equally weighted; every region that comes by is a box. OpenCV numbers boxes at
    random; which boxes there are is not random.
    """

    scale: float = 500.0  # of the segmentation: larger, larger segments
    sigma: float = 0.9  # of the Gaussian blur before it
    min_size: int = 10  # pixels of a segment
    color_space: Literal["rgb", "hsv"] = "rgb"
    max_side: int = 1000  # a larger image is searched at this long side: the time grows with the square; 0: never

    def settings(self) -> dict[str, Any]:
        """Return parameters, and OpenCV's version."""
        return {"name": "selective_search", **asdict(self), "opencv": str(_opencv().__version__)}

    def check(self) -> None:
        """Raise ConfigError for parameters outside their range, or without OpenCV."""
        if not (self.scale > 0 and self.sigma > 0 and self.min_size >= 1 and self.max_side >= 0):
            raise ConfigError(
                f"--scale {self.scale:g} --sigma {self.sigma:g} --min-size {self.min_size} --max-side {self.max_side}: "
                f"expected scale and sigma above 0, min-size 1 or more, max-side 0 or more"
            )
        _opencv()

    def finder(self) -> Finder:
        """Return the search; it lets other threads work, and has one itself."""
        cv2 = _opencv()
        cv2.setNumThreads(1)
        return lambda pixels, name: self._search(cv2, pixels)

    def _search(self, cv2: Any, pixels: Tensor) -> Boxes:
        image: NDArray[np.uint8] = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
        height, width = image.shape[:2]
        if self.max_side and max(height, width) > self.max_side:
            factor = self.max_side / max(height, width)
            size = (max(1, round(width * factor)), max(1, round(height * factor)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        if self.color_space == "hsv":
            image = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        kit = cv2.ximgproc.segmentation
        search = kit.createSelectiveSearchSegmentation()
        search.addImage(image)
        search.addGraphSegmentation(kit.createGraphSegmentation(self.sigma, float(self.scale), self.min_size))
        parts = ("Color", "Texture", "Size", "Fill")
        each = [getattr(kit, f"createSelectiveSearchSegmentationStrategy{part}")() for part in parts]
        search.addStrategy(kit.createSelectiveSearchSegmentationStrategyMultiple(*each))
        found = np.asarray(search.process(), np.float64).reshape(-1, 4)  # x y w h
        boxes = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
        stretch = (width / image.shape[1], height / image.shape[0])
        return np.asarray(boxes * (*stretch, *stretch), np.float64)


@dataclass(frozen=True, slots=True)
class Grid:
    """The same boxes relative to every image: a grid of places at some sizes and shapes. Looks at no pixel."""

    sizes: tuple[float, ...] = (0.3, 0.5, 0.75)  # sqrt(w h) / sqrt(W H)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # w / h
    step: float = 0.5  # from box to box, in sides of the box

    def settings(self) -> dict[str, Any]:
        """Return sizes, ratios and step."""
        return {"name": "grid", **asdict(self)}

    def check(self) -> None:
        """Do nothing: there is nothing to go wrong."""

    def finder(self) -> Finder:
        """Return what lays the grid over an image."""
        return lambda pixels, name: grid_boxes(
            int(pixels.shape[2]), int(pixels.shape[1]), self.sizes, self.ratios, self.step
        )


@dataclass(frozen=True, slots=True, eq=False)
class FromFile:
    """Boxes that something else has found: a COCO JSON, whose file names are those below the image root."""

    path: str
    digest: str  # of the file
    found: Mapping[str, tuple[int, int, Boxes]]  # name -> width, height, boxes

    def settings(self) -> dict[str, Any]:
        """Return the digest of the file; where it lies is no matter."""
        return {"name": "file", "digest": self.digest}

    def check(self) -> None:
        """Do nothing: `read_file` has."""

    def finder(self) -> Finder:
        """Return what looks boxes up, and refuses images that the file does not know, or knows with another size."""
        return self._look_up

    def _look_up(self, pixels: Tensor, name: str) -> Boxes:
        if (known := self.found.get(name)) is None:
            raise DataError(f"{self.path} has no image {name!r}; its first: {next(iter(self.found), 'none')!r}")
        width, height, boxes = known
        if (width, height) != (pixels.shape[2], pixels.shape[1]):
            here = f"{pixels.shape[2]} x {pixels.shape[1]}"
            raise DataError(f"{name}: {self.path} has boxes for {width} x {height} pixels, the image is {here}")
        return boxes


def read_file(path: Path) -> FromFile:
    """Read a COCO JSON. Raises DataError where it is none, naming the entry that is wrong."""
    try:
        raw = path.read_bytes()
        content = json.loads(raw)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from None
    where = "the file"
    try:
        images: dict[Any, tuple[str, int, int, list[Any]]] = {}
        for number, image in enumerate(content["images"]):
            where = f"images[{number}]"
            name = str(image["file_name"])
            if image["id"] in images:
                raise ValueError(f"id {image['id']!r:.40} is that of {images[image['id']][0]!r:.200} too")
            images[image["id"]] = (name, _side(image, "width"), _side(image, "height"), [])
        for number, box in enumerate(content["annotations"]):
            where = f"annotations[{number}]"
            x, y, w, h = map(float, box["bbox"])
            if not np.isfinite((x, y, w, h, x + w, y + h)).all():
                raise ValueError("bbox has a number that is not finite")
            images[box["image_id"]][3].append((x, y, x + w, y + h))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DataError(f"{path}: not a COCO instance file: {where}: {type(error).__name__}: {error}") from None
    found = {name: (w, h, np.array(boxes, np.float64).reshape(-1, 4)) for name, w, h, boxes in images.values()}
    if len(found) < len(images):
        raise DataError(f"{path}: two images have the same file_name; names tell images apart here")
    return FromFile(str(path), hashlib.sha256(raw).hexdigest(), found)


def _side(image: Mapping[str, Any], key: str) -> int:
    """Return a side of an image. Raises ValueError, with the image's name, for all but a whole number."""
    value = image[key]
    # 640.0 is what some tools write; 640.7 is the side of no image, and Infinity and 1e400 are numbers to JSON too.
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not is_whole:
        name = str(image["file_name"])
        raise ValueError(f"{key} of {name!r:.200} must be a whole number of pixels, got {value!r:.40}")
    return int(value)


def _opencv() -> Any:
    try:
        cv2 = importlib.import_module("cv2")
        _ = cv2.ximgproc.segmentation
    except (ImportError, AttributeError):  # not there, or the package without contributed modules
        raise ConfigError(
            "selective search needs OpenCV with its contributed modules: pip install 'raydet[proposals]' (the package "
            "opencv-contrib-python-headless; opencv-python beside it must go). Without it: --source grid or file"
        ) from None
    return cv2
