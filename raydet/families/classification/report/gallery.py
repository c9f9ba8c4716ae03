"""Small pictures of images."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

THUMB_PX = 112  # longest side


def class_picture(pixels: np.ndarray) -> bytes:
    """Return a small PNG of an image, uint8 `[3, H, W]` RGB; small images are enlarged without smoothing."""
    image = Image.fromarray(pixels.transpose(1, 2, 0))
    scale = THUMB_PX / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    shown.save(stream, format="PNG")
    return stream.getvalue()
