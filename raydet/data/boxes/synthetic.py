"""The generated `Shapes` data set: six classes on textured, cluttered backgrounds, for tests and demonstrations.

It is easy enough for a small detector trained from scratch and hard enough that a handful of labels does not do:
colours, sizes, rotations, contrast and noise vary widely, objects hide each other and leave the image, the classes have
a long tail, and ellipses and hexagons are easily taken for circles. Clutter (strokes, blobs, bars) has no boxes.

Boxes span the whole shape inside the image, its hidden parts included; at least half of each object is visible.
Image `i` depends on the seed, the image size and `i` only, so a larger set extends a smaller one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from raydet.config.box_data import ShapesConfig
from raydet.faults import writing
from raydet.randomness import derive_seed

CLASS_NAMES = ("circle", "square", "triangle", "ellipse", "hexagon", "star")
_FREQUENCIES = (0.30, 0.25, 0.18, 0.12, 0.09, 0.06)

_RECIPE = 1  # raise it when the same config gives other images: it is part of the folder's name
_OVERSAMPLING = 4
_MIN_VISIBLE = 0.5  # fraction of an object that nothing else may cover
_MIN_INSIDE = 0.7  # fraction of an object's box that lies in the image
_MIN_CONTRAST = 80.0  # Euclidean RGB distance of an object's colour to what lies under it
_STEPS_PER_PX = 16  # boxes are rounded to a power of two: then x + width is exact and never leaves the image
_MOST_TURN = math.pi / 8  # free turning would take far more images to learn
_TRIES = 12

Floats = NDArray[np.floating[Any]]


def materialise(config: ShapesConfig, folder: Path, *, masks: bool = False) -> Path:
    """Write the data set that `config` describes below `folder`, unless it is there; return its COCO JSON.

    `masks`: with the outlines of the objects, their hidden parts included; images and boxes are the same. The folder's
    name follows from the config. A set appears under its name only once it is complete; two processes may do this at
    the same time.
    """
    digest = hashlib.blake2b(f"{_RECIPE} {config.model_dump_json()}".encode(), digest_size=4).hexdigest()
    end = "-masks" if masks else ""
    final = folder / f"shapes-{config.num_images}-seed{config.seed}-{digest}{end}"
    if not final.is_dir():
        # Not `replacing_path`: of two processes the slower one would take away the set that the other reads already.
        aside = folder / f".{final.name}-{uuid.uuid4().hex[:8]}"
        try:
            with writing(final):
                _write(config, aside, masks=masks)
            os.rename(aside, final)
        except OSError:
            if not final.is_dir():  # else another process was faster, with the same content
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return final / "annotations.json"


@dataclass(frozen=True)
class Scene:
    """One generated image."""

    pixels: NDArray[np.uint8]  # [H, W, 3] RGB
    boxes: Floats  # [N, 4] xyxy, pixels, whole sixteenths
    classes: tuple[int, ...]  # [N] positions in CLASS_NAMES
    outlines: tuple[Floats, ...]  # [N] polygons [K, 2], pixels; corners may lie outside of the image


def render(config: ShapesConfig, number: int) -> Scene:
    """Return image `number` of the set; at least one object is on it."""
    rng = np.random.default_rng(derive_seed(config.seed, "shapes", number))
    canvas = _Canvas(_background(rng, config.height, config.width))
    _scatter_clutter(rng, canvas, int(rng.integers(2, 6)))
    for _ in range(int(rng.integers(1, config.max_objects + 1))):
        _place_object(rng, canvas)
    for _ in range(int(rng.integers(0, 3))):
        _place_bar(rng, canvas)
    pixels = _photograph(rng, canvas.pixels)
    return Scene(pixels, np.stack(canvas.boxes), tuple(canvas.classes), tuple(canvas.outlines))


class _Canvas:
    """The image so far, and which object each pixel shows."""

    def __init__(self, background: Floats) -> None:
        self.pixels = background  # [H, W, 3], 0..255
        self.height, self.width = background.shape[:2]
        self.owner = np.full((self.height, self.width), -1, np.int32)
        self.drawn: list[int] = []  # pixels of each object before anything hid them
        self.boxes: list[Floats] = []  # [4] xyxy each
        self.classes: list[int] = []
        self.outlines: list[Floats] = []  # [K, 2] each

    def patch(self, outline: Floats) -> tuple[tuple[slice, slice], Floats] | None:
        """Return the part of the canvas that a polygon `[K, 2]` touches and its coverage `[h, w]` there, 0..1."""
        low = np.maximum(np.floor(outline.min(axis=0)).astype(int), 0)
        high = np.minimum(np.ceil(outline.max(axis=0)).astype(int), (self.width, self.height))
        w, h = (int(side) for side in high - low)
        if w <= 0 or h <= 0:
            return None
        large = Image.new("L", (w * _OVERSAMPLING, h * _OVERSAMPLING))
        corners = ((outline - low) * _OVERSAMPLING - 0.5).ravel().tolist()
        ImageDraw.Draw(large).polygon(corners, fill=255)
        coverage = np.asarray(large.reduce(_OVERSAMPLING), np.float32) / 255
        return (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))), coverage

    def hides_too_much(self, area: tuple[slice, slice], coverage: Floats) -> bool:
        """Whether painting here would leave less than `_MIN_VISIBLE` of an object."""
        hit = self.owner[area][coverage > 0.5]
        for number in set(hit[hit >= 0].tolist()):
            visible = np.count_nonzero(self.owner == number) - np.count_nonzero(hit == number)
            if visible < _MIN_VISIBLE * self.drawn[number]:
                return True
        return False

    def paint(self, area: tuple[slice, slice], coverage: Floats, colour: Floats) -> None:
        """Blend `colour` (`[3]` or `[h, w, 3]`) into the canvas."""
        below = self.pixels[area]
        self.pixels[area] = below + coverage[..., None] * (colour - below)


def _background(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return a smooth mix of two colours with a finer grain on top, `[H, W, 3]`."""
    first, second = _colour(rng), _colour(rng)
    coarse = _smooth_noise(rng, height, width, cells=int(rng.integers(2, 6)))[..., None]
    fine = _smooth_noise(rng, height, width, cells=int(rng.integers(12, 40)))[..., None]
    mixed = first + coarse * (0.7 * (second - first))
    return np.asarray(mixed + (fine - 0.5) * rng.uniform(10, 45), np.float32)


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Floats:
    """Return noise `[H, W]` in about 0..1 with `cells` bumps along the short side."""
    cell = min(height, width) / cells
    grid = rng.random((math.ceil(height / cell) + 1, math.ceil(width / cell) + 1), dtype=np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def _colour(rng: np.random.Generator) -> Floats:
    return rng.uniform(20, 235, 3).astype(np.float32)


def _contrasting(rng: np.random.Generator, below: Floats) -> Floats:
    for _ in range(_TRIES):
        colour = _colour(rng)
        if np.linalg.norm(colour - below) > _MIN_CONTRAST:
            return colour
    return np.asarray(np.where(below > 127, 30, 225), np.float32)


def _outline(rng: np.random.Generator, name: str) -> Floats:
    """Return the polygon `[K, 2]` of one class inside the unit circle, squashed and a little turned."""
    corners = {"circle": 48, "ellipse": 48, "square": 4, "triangle": 3, "hexagon": 6, "star": 10}[name]
    squash = {"circle": (0.95, 1.0), "ellipse": (0.5, 0.72), "triangle": (0.75, 1.0)}.get(name, (0.88, 1.0))
    first = {"square": math.pi / 4, "triangle": -math.pi / 2, "star": -math.pi / 2}.get(name, 0.0)
    around = first + np.arange(corners) * (2 * math.pi / corners)
    radius = np.ones(corners)
    if name == "star":
        radius[1::2] = rng.uniform(0.38, 0.5)
    points = np.stack([np.cos(around), np.sin(around) * rng.uniform(*squash)], axis=1) * radius[:, None]
    return _turned(points, rng.uniform(-_MOST_TURN, _MOST_TURN))


def _turned(points: NDArray[Any], angle: float) -> Floats:
    c, s = math.cos(angle), math.sin(angle)
    return np.asarray(points @ np.array([[c, s], [-s, c]]), np.float32)


def _place_object(rng: np.random.Generator, canvas: _Canvas) -> None:
    """Add one object where it is mostly inside and hides no other too much; give up after some tries."""
    number = int(rng.choice(len(CLASS_NAMES), p=_FREQUENCIES))
    unit = _outline(rng, CLASS_NAMES[number])
    size = np.array([canvas.width, canvas.height], np.float32)
    radius = size.min() * math.exp(rng.uniform(math.log(0.11), math.log(0.28)))
    for _ in range(_TRIES if canvas.classes else 1000):
        outline = unit * radius + rng.uniform(0, 1, 2).astype(np.float32) * size
        low, high = outline.min(axis=0), outline.max(axis=0)
        box = np.concatenate([np.clip(low, 0, size), np.clip(high, 0, size)]).astype(float)
        if np.prod(box[2:] - box[:2]) < _MIN_INSIDE * np.prod(high - low):
            continue
        patch = canvas.patch(outline)
        if patch is not None and not canvas.hides_too_much(*patch):
            break
    else:
        return
    _paint_object(rng, canvas, outline, radius)
    area, coverage = patch
    canvas.owner[area][coverage > 0.5] = len(canvas.classes)
    canvas.drawn.append(int(np.count_nonzero(coverage > 0.5)))
    canvas.boxes.append(np.round(box * _STEPS_PER_PX) / _STEPS_PER_PX)
    canvas.classes.append(number)
    canvas.outlines.append(outline)


def _paint_object(rng: np.random.Generator, canvas: _Canvas, outline: Floats, radius: float) -> None:
    """Paint a shape: at times with a shadow, a rim or stripes, and always a little shaded."""
    if rng.random() < 0.5:
        shifted = canvas.patch(outline + rng.uniform(0.05, 0.15, 2).astype(np.float32) * radius)
        if shifted is not None:
            canvas.paint(shifted[0], shifted[1] * 0.35, np.zeros(3, np.float32))
    patch = canvas.patch(outline)
    assert patch is not None
    area, coverage = patch
    colour = _contrasting(rng, canvas.pixels[area].mean(axis=(0, 1)))
    if rng.random() < 0.35:
        canvas.paint(area, coverage, np.clip(colour + rng.choice([-70, 70]), 0, 255).astype(np.float32))
        middle = outline.mean(axis=0)
        inner = canvas.patch(middle + (outline - middle) * 0.8)
        if inner is not None:
            area, coverage = inner
    rows, columns = np.mgrid[area].astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    along = (columns * math.cos(angle) + rows * math.sin(angle)) / radius
    along -= along.mean()
    shade = along * rng.uniform(0, 30)
    if rng.random() < 0.25:
        shade += rng.uniform(15, 40) * np.sign(np.sin(along * rng.uniform(6, 12)))
    canvas.paint(area, coverage, colour + shade[..., None])


def _scatter_clutter(rng: np.random.Generator, canvas: _Canvas, count: int) -> None:
    """Paint strokes and irregular blobs below the objects."""
    short = min(canvas.height, canvas.width)
    for _ in range(count):
        if rng.random() < 0.5:
            outline = _bar(rng, short * rng.uniform(0.1, 0.6), short * rng.uniform(0.01, 0.04))
        else:
            corners = int(rng.integers(6, 12))
            around = np.arange(corners) * (2 * math.pi / corners)
            radius = rng.uniform(0.35, 1, corners) * short * rng.uniform(0.05, 0.3)
            outline = np.stack([np.cos(around) * radius, np.sin(around) * radius], axis=1).astype(np.float32)
        patch = canvas.patch(outline + rng.uniform(0, 1, 2).astype(np.float32) * [canvas.width, canvas.height])
        if patch is not None:
            canvas.paint(patch[0], patch[1] * rng.uniform(0.2, 0.5), _colour(rng))


def _place_bar(rng: np.random.Generator, canvas: _Canvas) -> None:
    """Lay a bar across the objects, unless it would hide one too much."""
    short = min(canvas.height, canvas.width)
    outline = _bar(rng, short * rng.uniform(0.4, 1.2), short * rng.uniform(0.025, 0.06))
    patch = canvas.patch(outline + rng.uniform(0, 1, 2).astype(np.float32) * [canvas.width, canvas.height])
    if patch is not None and not canvas.hides_too_much(*patch):
        area, coverage = patch
        canvas.owner[area][coverage > 0.5] = -1
        canvas.paint(area, coverage, _colour(rng))


def _bar(rng: np.random.Generator, length: float, thickness: float) -> Floats:
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [length / 2, thickness / 2]
    return _turned(corners, rng.uniform(0, math.pi))


def _photograph(rng: np.random.Generator, pixels: Floats) -> NDArray[np.uint8]:
    """Light the scene unevenly, lose some sharpness, add sensor noise; return `[H, W, 3]` uint8."""
    height, width = pixels.shape[:2]
    across = np.linspace(-1, 1, width, dtype=np.float32) * rng.uniform(-0.2, 0.2)
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * rng.uniform(-0.2, 0.2)
    lit = pixels * (rng.uniform(0.75, 1.15) + across + down)[..., None].astype(np.float32)
    if rng.random() < 0.4:
        sharp = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
        lit = np.asarray(sharp.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.0))), np.float32)
    noise = rng.standard_normal(lit.shape, dtype=np.float32) * rng.uniform(2, 9)
    return np.clip(lit + noise, 0, 255).astype(np.uint8)


def _write(config: ShapesConfig, folder: Path, *, masks: bool) -> None:
    """Write `images/*.png` and `annotations.json` (COCO, 1-based category ids) into a new folder."""
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(config.num_images):
        scene = render(config, number)
        name = f"images/{number:06d}.png"
        Image.fromarray(scene.pixels).save(folder / name, compress_level=1)
        images.append({"id": number + 1, "file_name": name, "height": config.height, "width": config.width})
        for (x1, y1, x2, y2), label, outline in zip(scene.boxes.tolist(), scene.classes, scene.outlines, strict=True):
            one = {
                "id": len(annotations) + 1,
                "image_id": number + 1,
                "category_id": label + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            outlined = {"segmentation": [np.round(outline.astype(float), 2).ravel().tolist()]} if masks else {}
            annotations.append(one | outlined)
    categories = [{"id": position + 1, "name": name} for position, name in enumerate(CLASS_NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
