"""Images of different sizes as one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from raydet.vision.device import to_device

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SIZE_DIVISOR = 32  # up to this stride every level's grid covers the frame exactly; that of level 64 may reach beyond it


@dataclass(frozen=True, slots=True, eq=False)
class ImageBatch:
    """Images, normalised, in the upper left corner of equally large zero-padded frames."""

    pixels: Tensor  # [N, 3, H, W] float32, channels last, ImageNet-normalised RGB; H and W are multiples of `divisor`
    sizes: tuple[tuple[int, int], ...]  # (height, width) of each image without its padding
    divisor: int = SIZE_DIVISOR

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def frames(self) -> tuple[tuple[int, int], ...]:
        """Return the (height, width) of the frame that each image needs by itself."""
        return tuple(_frame([size], self.divisor) for size in self.sizes)

    def by_frame(self) -> list[tuple[list[int], ImageBatch]]:
        """Group images that need the same frame, and cut the frames to size. Returns (positions, images) pairs.

        What is computed for an image then does not depend on how large its neighbours in the batch are.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for i, frame in enumerate(self.frames):
            groups.setdefault(frame, []).append(i)
        if len(groups) == 1 and next(iter(groups)) == tuple(self.pixels.shape[-2:]):
            return [(list(range(len(self))), self)]
        found = []
        for (height, width), rows in groups.items():
            pixels = self.pixels[rows, :, :height, :width].contiguous(memory_format=torch.channels_last)
            found.append((rows, ImageBatch(pixels, tuple(self.sizes[i] for i in rows), self.divisor)))
        return found


def collate(pixels: Sequence[Tensor], device: torch.device | str, divisor: int = SIZE_DIVISOR) -> ImageBatch:
    """Normalise and stack images `[3, h, w]` uint8 RGB on `device`, in frames with sides that `divisor` divides.

    Always with ImageNet's figures: a backbone that was trained with others converts (`backbones.Pyramid`).
    """
    sizes = tuple((int(image.shape[-2]), int(image.shape[-1])) for image in pixels)
    height, width = _frame(sizes, divisor)
    mean, std = imagenet_figures(torch.device(device))
    frames = torch.zeros(len(pixels), height, width, 3, device=device)
    batch = frames.permute(0, 3, 1, 2)  # channels last: convolutions are faster so, on CPUs and on tensor cores
    for frame, image, (h, w) in zip(batch, pixels, sizes, strict=True):
        assert image.dtype == torch.uint8, f"images are uint8, got {image.dtype}"
        frame[:, :h, :w] = (to_device(image, device).float() / 255 - mean) / std
    return ImageBatch(batch, sizes, divisor)


@cache
def imagenet_figures(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ImageNet's mean and deviation on a device, `[3, 1, 1]`: sent there once."""
    mean, std = (torch.tensor(each)[:, None, None].to(device) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std


def _frame(sizes: Sequence[tuple[int, int]], divisor: int) -> tuple[int, int]:
    """Return the smallest frame that holds all sizes and whose sides `divisor` divides."""
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor
