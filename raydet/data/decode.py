"""Image files to pixels: JPEG, PNG, WebP and BMP, judged by content, never half an image; PNGs of 16 bits become 8.

Pillow is the reference. Where simplejpeg is installed, plain RGB JPEGs take a faster path that gives the same pixels;
whatever it refuses goes to Pillow, so that both installations give the same verdict on the same file.
"""

from __future__ import annotations

import io
import stat
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from raydet.errors import DataError

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_PIXELS = 178_956_970  # 512 MiB as RGB; Pillow calls larger images decompression bombs
FULL_RANGE = (0, 65535)  # of 16 bits
_EXIF_ORIENTATION = 0x0112
_GRAY_ALPHA = 4  # the colour type of a PNG, its byte 25
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(path: str | Path, gray16_range: tuple[int, int] = FULL_RANGE) -> Tensor:
    """Return an image's pixels, uint8 `[3, H, W]` RGB, after EXIF rotation (a channels-last view).

    Of an animation the first frame counts; transparency is dropped; of 16 bits, gray or colour, the values
    `gray16_range` become 0 to 255. Raises DataError for files that are missing, of another format, damaged, truncated,
    or larger than `MAX_PIXELS`.
    """
    return decode_bytes(read_file(Path(path)), str(path), gray16_range)


def decode_bytes(data: bytes, name: str, gray16_range: tuple[int, int] = FULL_RANGE) -> Tensor:
    """Do the same for a file's content; `name` is what messages call it."""
    image = open_image(name, io.BytesIO(data), data[:512])
    orientation = orientation_of(image)
    pixels = _fast(image, data) if orientation == 1 else None
    if pixels is None:
        pixels = _reference(name, image, data, orientation, gray16_range)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def image_size(path: str | Path) -> tuple[int, int]:
    """Return `(height, width)` after EXIF rotation, from the header alone. Raises DataError as `decode` does."""
    file = Path(path)
    require_file(file)
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
            stream.seek(0)
            image = open_image(file, stream, head)
            turned = orientation_of(image) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None


def require_file(path: Path) -> None:
    """Raise DataError where there is no regular file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file; copy it there or correct the name") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not stat.S_ISREG(mode):  # a pipe or a device would block or never end
        raise DataError(f"{path}: not a regular file; name an image file")


def read_file(path: Path) -> bytes:
    """Return the content of a regular file. Raises DataError where there is none, or it cannot be read."""
    require_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def open_image(path: Path | str, stream: IO[bytes], head: bytes) -> Image.Image:
    """Open an image without decoding it; `head` is the beginning of the file, for the message."""
    try:
        image = Image.open(stream, formats=FORMATS)
    except Image.DecompressionBombError:
        raise DataError(f"{path}: more than {MAX_PIXELS:,} pixels; make a smaller copy of the image") from None
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged headers
        raise DataError(f"{path}: {_what_it_is(head, error)}") from None
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        raise DataError(f"{path}: {size} is more than {MAX_PIXELS:,} pixels; make a smaller copy of the image")
    return image


def _what_it_is(head: bytes, error: Exception) -> str:
    if not head:
        return "empty file (0 bytes); download or copy it again"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page saved under an image name; download the image again"
    other = {b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"8BPS": "Photoshop", b"%PDF": "PDF"}
    name = next((name for magic, name in other.items() if head.startswith(magic)), None)
    name = "HEIC or AVIF" if head[4:8] == b"ftyp" else name
    if name is not None:
        return f"a {name} file; convert it to JPEG or PNG (JPEG, PNG, WebP and BMP can be read)"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be read (JPEG, PNG, WebP, BMP), or its header is damaged; replace the file"
    return f"damaged image header: {error}; replace the file"


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none."""
    # Without this, Pillow decodes a whole PNG in search of an EXIF block behind the pixels.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about rotation; the pixels may be fine
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _fast(image: Image.Image, data: bytes) -> NDArray[np.uint8] | None:
    """Decode a plain RGB JPEG `[H, W, 3]`, or return None where Pillow has to judge."""
    if simplejpeg is None or image.format != "JPEG" or image.mode != "RGB" or "progressive" in image.info:
        return None
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == (image.height, image.width) else None


def _reference(
    path: Path | str, image: Image.Image, data: bytes, orientation: int, gray16_range: tuple[int, int]
) -> NDArray[np.uint8]:
    """Decode with Pillow to `[H, W, 3]`."""
    try:
        image.seek(0)
        image.load()
        rgb = _to_rgb(_scaled(wide_values(image, data), gray16_range) if is_wide(image, data) else image)
        if orientation != 1:
            rgb = rgb.transpose(_UPRIGHT[orientation])
    except Exception as error:  # see _open
        raise DataError(f"{path}: truncated or damaged image: {error}; replace the file") from None
    return np.array(rgb, dtype=np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


# --- 16 bits ----------------------------------------------------------------------------------------------------------


def is_wide(image: Image.Image, head: bytes) -> bool:
    """Return whether an image has more than 8 bits a value; `head` is the beginning of its file."""
    # The mode tells it of gray alone. A PNG's first chunk has the bits at byte 24.
    return image.mode.startswith("I") or (image.format == "PNG" and head[12:16] == b"IHDR" and head[24:25] == b"\x10")


def wide_values(image: Image.Image, data: bytes) -> NDArray[np.uint16]:
    """Return the values of an image that is wide, without transparency: `[H, W]` of gray, else `[H, W, 3]`.

    Of two bytes Pillow keeps the first, except of plain gray. The second is what another reading of the file gives.
    """
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    if data[25] == _GRAY_ALPHA:  # its two bytes of gray and two of alpha are read as red, green, blue and alpha
        header = b"IHDR" + data[16:24] + b"\x08\x06" + data[26:29]
        again = data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]
        both = np.asarray(Image.open(io.BytesIO(again), formats=("PNG",)))
        high, low = both[..., 0], both[..., 1]
    else:
        swapped = Image.open(io.BytesIO(data), formats=("PNG",))
        swapped.tile = [tile._replace(args=f"{image.mode};16L") for tile in swapped.tile]  # as if low came first
        high, low = np.asarray(image)[..., :3], np.asarray(swapped)[..., :3]
    values: NDArray[np.uint16] = high.astype(np.uint16) << 8 | low
    return values


def _scaled(values: NDArray[np.uint16], gray16_range: tuple[int, int]) -> Image.Image:
    low, high = gray16_range
    becomes = np.rint((np.arange(65536.0).clip(low, high) - low) / ((high - low) / 255)).astype(np.uint8)
    return Image.fromarray(becomes[values])
