from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import raydet.data.decode as decode_module
from raydet.data.decode import MAX_PIXELS, decode, image_size
from raydet.errors import DataError
from tests.helpers import data_folder
from tests.tiny_data import write_image


def pillow(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


@pytest.fixture(params=["simplejpeg", "pillow"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with and without the fast path: the verdict must be the same."""
    if request.param == "pillow":
        monkeypatch.setattr(decode_module, "simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg")
    return str(request.param)


def test_the_fast_path_is_used_and_pixel_identical_on_real_jpegs(monkeypatch: pytest.MonkeyPatch) -> None:
    simplejpeg = pytest.importorskip("simplejpeg")
    calls = []

    class Spy:
        @staticmethod
        def decode_jpeg(*args: object, **keywords: object) -> object:
            calls.append(1)
            return simplejpeg.decode_jpeg(*args, **keywords)

    monkeypatch.setattr(decode_module, "simplejpeg", Spy)
    paths = [p for name in ("bccd", "cards") for p in sorted((data_folder(name) / "images").iterdir())[:12]]
    for path in paths:
        pixels = decode(path)
        assert pixels.dtype == torch.uint8
        assert torch.equal(pixels, pillow(path)), path
        assert image_size(path) == tuple(pixels.shape[1:])
    assert len(calls) == len(paths)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_pixels_and_size(tmp_path: Path, engine: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write_image(tmp_path / "a.jpg", width=30, height=20, exif=exif)
    pixels = decode(path)
    # Orientations 5 to 8 turn by a quarter: 30 x 20 becomes 20 x 30.
    assert tuple(pixels.shape) == ((3, 30, 20) if orientation >= 5 else (3, 20, 30))
    assert image_size(path) == tuple(pixels.shape[1:])
    raw = pillow(path)
    expected = {
        1: raw,
        2: raw.flip(2),
        3: raw.flip(1, 2),
        4: raw.flip(1),
        5: raw.transpose(1, 2),
        6: raw.rot90(-1, (1, 2)),
        7: raw.rot90(2, (1, 2)).transpose(1, 2),
        8: raw.rot90(1, (1, 2)),
    }[orientation]
    assert torch.equal(pixels, expected)


def test_png_exif_before_the_pixels_counts(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write_image(tmp_path / "a.png", width=30, height=20, exif=exif)
    assert image_size(path) == (30, 20)
    assert tuple(decode(path).shape) == (3, 30, 20)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert tuple(decode(path).shape) == (3, 80, 100)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("L", "jpg"), ("1", "png"), ("P", "png"), ("LA", "png"), ("RGBA", "png"), ("RGBA", "webp"),
     ("CMYK", "jpg"), ("RGB", "bmp"), ("L", "bmp"), ("RGB", "webp")],
)  # fmt: skip
def test_every_pixel_format_becomes_rgb(tmp_path: Path, engine: str, mode: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    write_image(tmp_path / "rgb.png", width=16, height=9)
    Image.open(tmp_path / "rgb.png").convert(mode).save(path)
    assert torch.equal(decode(path), pillow(path))
    assert tuple(decode(path).shape) == (3, 9, 16)


def test_16_bit_gray_is_scaled_not_clipped(tmp_path: Path) -> None:
    wide = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(wide).save(tmp_path / "a.png")
    # / 257: 0, 1, 127.5 -> 128 (32768 / 257 = 127.502), 255
    assert decode(tmp_path / "a.png")[0].tolist() == [[0, 1, 128, 255]]


def test_palette_with_transparency_keeps_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255] + [0] * 762)
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=b"\x00\xff")
    assert decode(tmp_path / "a.png")[:, 0].T.tolist() == [[255, 0, 0], [0, 0, 255]]


def test_of_an_animation_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert decode(tmp_path / "a.webp")[:, 0, 0].tolist() == [255, 0, 0]


def test_content_decides_not_the_ending(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert tuple(decode(tmp_path / "a.jpg").shape) == (3, 80, 100)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_shapes_are_images_too(tmp_path: Path, engine: str, width: int, height: int) -> None:
    for suffix in ("jpg", "png"):
        path = write_image(tmp_path / f"a.{suffix}", width, height)
        assert tuple(decode(path).shape) == (3, height, width)


def test_progressive_jpegs_are_the_references(tmp_path: Path, engine: str) -> None:
    path = write_image(tmp_path / "a.jpg", progressive=True)
    assert torch.equal(decode(path), pillow(path))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_a_file_cut_anywhere_is_refused_or_complete(tmp_path: Path, engine: str, suffix: str) -> None:
    path = write_image(tmp_path / f"a.{suffix}", width=24, height=17)
    data, whole = path.read_bytes(), decode(path)
    refused = 0
    for length in {*range(0, len(data), 41), *range(len(data) - 30, len(data))}:
        path.write_bytes(data[:length])
        try:
            pixels = decode(path)
        except DataError:
            refused += 1
        else:
            # JPEG's end marker and PNG's last chunk hold no pixels: without them the image is still whole.
            assert torch.equal(pixels, whole), f"{length} of {len(data)} bytes"
            assert length > len(data) - 24
    assert refused > 0


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\n <html>", "web page"),
        (b"GIF89a\x01\x00\x01\x00", "GIF"),
        (b"II*\x00\x08\x00\x00\x00", "TIFF"),
        (b"\x00\x00\x00\x18ftypheic", "HEIC or AVIF"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "PNG|image"),
        (b"hello", "not an image"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_named(tmp_path: Path, engine: str, content: bytes, text: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=text) as caught:
        decode(path)
    assert str(path) in str(caught.value)
    with pytest.raises(DataError, match=text):
        image_size(path)


def test_a_real_gif_is_refused_with_advice(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.gif")
    with pytest.raises(DataError, match="convert it to JPEG or PNG"):
        decode(tmp_path / "a.gif")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused_from_the_header(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.new("1", (8, 8)).save(data, "PNG")
    bomb = bytearray(data.getvalue())
    for width, height in ((60_000, 60_000), (MAX_PIXELS // 10_000 + 1, 10_000)):
        bomb[16:24] = struct.pack(">II", width, height)
        bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
        path = tmp_path / "bomb.png"
        path.write_bytes(bytes(bomb))
        for read in (decode, image_size):
            with pytest.raises(DataError, match="pixels; make a smaller copy"):
                read(path)


def test_missing_files_folders_and_pipes_are_refused_without_waiting(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such image file"):
        decode(tmp_path / "none.jpg")
    with pytest.raises(DataError, match="not a regular file"):
        decode(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match="not a regular file"):
        decode(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match="not a regular file"):
        image_size(tmp_path / "pipe.jpg")
