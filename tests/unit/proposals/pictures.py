"""Small pictures with a thing in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

THING = (30, 20, 80, 60)  # left, top, right, bottom edge, the last two excluded


def picture(file: Path, size: tuple[int, int] = (120, 90), thing: tuple[int, int, int, int] | None = THING) -> Path:
    """Write a grey picture with a red block; noise, so that it is no drawing."""
    image = Image.new("RGB", size, (90, 90, 90))
    if thing is not None:
        ImageDraw.Draw(image).rectangle((thing[0], thing[1], thing[2] - 1, thing[3] - 1), fill=(200, 30, 30))
    noise = np.random.default_rng(0).integers(-3, 4, (size[1], size[0], 3))
    Image.fromarray((np.asarray(image) + noise).astype(np.uint8)).save(file)
    return file
