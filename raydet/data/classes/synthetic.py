"""The generated `patterns` data set: one shape a picture, its outline is the class, everything else varies.

Position, size, turn, colours, texture and noise say nothing about the class, and a small bar or blob beside the shape
distracts. Image `i` depends on the seed, the size, the number of classes and `i` only, so a larger set extends a
smaller one; the classes take turns.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from raydet.config.class_data import PatternsConfig
from raydet.data.classes.table import ImageTable, raw_table
from raydet.randomness import derive_seed

CLASS_NAMES = ("circle", "square", "triangle", "cross", "star", "crescent")
_OVERSAMPLING = 4
_MIN_CONTRAST = 90.0  # Euclidean RGB distance of the shape's colour to the background's
_MOST_TURN = math.pi / 10
Floats = NDArray[np.floating[Any]]


def patterns_table(config: PatternsConfig) -> ImageTable:
    """Return the whole set in memory: raw pixels `[D, 3, S, S]`, ids `patterns-SEED/NUMBER`."""
    pixels = np.empty((config.num_images, 3, config.size, config.size), dtype=np.uint8)
    for number in range(config.num_images):
        pixels[number] = render(config, number)
    labels = np.arange(config.num_images, dtype=np.int64) % config.num_classes
    ids = [f"patterns-{config.seed}/{number}" for number in range(config.num_images)]
    parts = [(f"patterns (seed {config.seed})", config.num_images)]
    return raw_table(ids, pixels, labels, CLASS_NAMES[: config.num_classes], parts)


def render(config: PatternsConfig, number: int) -> NDArray[np.uint8]:
    """Return image `number` of the set, `[3, S, S]`; its class is `number % num_classes`."""
    rng = np.random.default_rng(derive_seed(config.seed, "patterns", config.size, config.num_classes, number))
    size = config.size
    first, second = _two_colours(rng)
    canvas = _textured(rng, first, size, strength=45.0)
    _paint(canvas, _distractor(rng, size), _textured(rng, rng.uniform(20, 235, 3), size, strength=20.0), 0.7)
    radius = size * rng.uniform(0.22, 0.4)
    centre = rng.uniform(radius * 0.9, size - radius * 0.9, 2)
    outline = _turned(_outline(CLASS_NAMES[number % config.num_classes]), rng.uniform(-_MOST_TURN, _MOST_TURN))
    outline = outline * radius * [rng.uniform(0.85, 1.0), rng.uniform(0.85, 1.0)] + centre
    _paint(canvas, _coverage([outline], size), _textured(rng, second, size, strength=35.0), 1.0)
    canvas = canvas * rng.uniform(0.8, 1.15) + rng.standard_normal(canvas.shape) * rng.uniform(4, 16)
    return np.clip(canvas, 0, 255).astype(np.uint8).transpose(2, 0, 1)


def _two_colours(rng: np.random.Generator) -> tuple[Floats, Floats]:
    while True:
        first, second = rng.uniform(20, 235, 3), rng.uniform(20, 235, 3)
        if np.linalg.norm(first - second) > _MIN_CONTRAST:
            return first, second


def _textured(rng: np.random.Generator, colour: Floats, size: int, strength: float) -> Floats:
    """Return `[S, S, 3]` of one colour with stripes or bumps in its brightness."""
    rows, columns = np.mgrid[:size, :size] / size
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * math.pi)
        wave = np.sin((columns * math.cos(angle) + rows * math.sin(angle)) * rng.uniform(6, 40) + angle)
    else:
        side = int(rng.integers(3, 9))
        bumps = Image.fromarray(rng.uniform(-1, 1, (side, side)).astype(np.float32))
        wave = np.asarray(bumps.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)
    shaded: Floats = colour + wave[..., None] * rng.uniform(0.2, 1.0) * strength
    return shaded


def _outline(name: str) -> Floats:
    """Return the polygon `[K, 2]` of a class inside the unit circle."""
    if name == "cross":
        arm = 0.33
        corner = [(arm, -1), (arm, -arm), (1, -arm)]
        quarters = [_turned(np.array(corner), math.pi / 2 * turn) for turn in range(4)]
        return np.concatenate(quarters) * 0.95
    if name == "crescent":
        outer = _polygon(40)[8:33]  # the left side of the circle, and back along a flatter arc
        inner = outer[::-1] * [0.35, 1.0]
        return np.concatenate([outer, inner]) + [0.3, 0.0]
    corners = {"circle": 48, "square": 4, "triangle": 3, "star": 10}[name]
    points = _polygon(corners, start=math.pi / 4 if name == "square" else -math.pi / 2)
    if name == "star":
        points[1::2] *= 0.42
    return points


def _polygon(corners: int, start: float = 0.0) -> Floats:
    around = start + np.arange(corners) * (2 * math.pi / corners)
    return np.stack([np.cos(around), np.sin(around)], axis=1)


def _turned(points: Floats, angle: float) -> Floats:
    c, s = math.cos(angle), math.sin(angle)
    turned: Floats = points @ np.array([[c, s], [-s, c]])
    return turned


def _distractor(rng: np.random.Generator, size: int) -> Floats:
    """Return the coverage `[S, S]` of one to three thin bars, which no class consists of."""
    bars: list[Floats] = []
    for _ in range(int(rng.integers(1, 4))):
        half = np.array([rng.uniform(0.08, 0.3), rng.uniform(0.015, 0.04)]) * size
        bar = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
        bars.append(_turned(bar, rng.uniform(0, math.pi)) + rng.uniform(0, size, 2))
    return _coverage(bars, size)


def _coverage(outlines: list[Floats], size: int) -> Floats:
    """Return how much of each pixel `[S, S]` polygons cover, 0 to 1."""
    large = Image.new("L", (size * _OVERSAMPLING, size * _OVERSAMPLING))
    for outline in outlines:
        ImageDraw.Draw(large).polygon((outline * _OVERSAMPLING - 0.5).ravel().tolist(), fill=255)
    return np.asarray(large.reduce(_OVERSAMPLING), dtype=np.float64) / 255


def _paint(canvas: Floats, coverage: Floats, colour: Floats, opacity: float) -> None:
    canvas += (coverage * opacity)[..., None] * (colour - canvas)
