"""PNGs with 16 bits a value in colour, or of gray with transparency: Pillow reads the first byte of the two."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raydet.config.box_data import DataConfig, DatasetConfig
from raydet.data.decode import decode
from raydet.data.glance import complaint, glance
from raydet.errors import DataError
from raydet.families.classification.data import IMAGES
from raydet.families.detection.data import BOXES
from tests.tiny_data import coco_content, write_coco
from tests.tiny_images import data_config, write_parquet

COLOR_TYPES = {2: 4, 3: 2, 4: 6}  # of a PNG by its channels: gray and alpha, RGB, RGBA


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def write_png16(file: Path, values: Any, before_pixels: bytes = b"") -> Path:
    """Write values `[H, W, 2 to 4]`, each byte as the difference to the pixel on its left, as encoders do."""
    wide = np.asarray(values)
    height, width, channels = wide.shape
    lines = wide.astype(">u2").view(np.uint8).reshape(height, width, 2 * channels)
    left = np.concatenate([np.zeros_like(lines[:, :1]), lines[:, :-1]], axis=1)
    rows = b"".join(b"\1" + row.tobytes() for row in lines - left)
    header = struct.pack(">IIBBBBB", width, height, 16, COLOR_TYPES[channels], 0, 0, 0)
    chunks = [chunk(b"IHDR", header), before_pixels, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return file


def colors(largest: int, smallest: int = 200) -> Any:
    """Values `[80, 100, 3]`: red rises from `smallest` to `largest`, green falls, blue is a third of red."""
    red = np.linspace(smallest, largest, 8000).round().reshape(80, 100)
    return np.stack([red, red[::-1, ::-1], red // 3], axis=2)


@pytest.mark.parametrize("alpha", [[], [0], [65535]])
def test_colors_of_16_bits_are_scaled_by_the_range_and_not_cut_to_their_first_byte(tmp_path: Path, alpha: list[int]):
    pixels = [[[0, 257, 4095, *alpha], [32768, 65535, 16, *alpha]]]
    file = write_png16(tmp_path / "a.png", pixels)
    # / 257: 0, 1, 15.9 and 127.502, 255, 0.06
    assert decode(file).permute(1, 2, 0).tolist() == [[[0, 1, 16], [128, 255, 0]]]
    # * 255 / 4095: 0, 16.004, 255 and two that are clipped, 0.996
    assert decode(file, (0, 4095)).permute(1, 2, 0).tolist() == [[[0, 16, 255], [255, 255, 1]]]


def test_gray_of_16_bits_with_transparency_is_scaled_by_the_range(tmp_path: Path):
    file = write_png16(tmp_path / "a.png", [[[0, 65535], [257, 0], [4095, 7], [32768, 65535]]])
    assert decode(file).tolist() == [[[0, 1, 16, 128]]] * 3
    assert decode(file, (0, 4095)).tolist() == [[[0, 16, 255, 255]]] * 3


def test_eight_bits_stay_what_they_are_whatever_the_range(tmp_path: Path):
    for mode in ("RGB", "RGBA", "LA", "L", "P"):
        picture = Image.fromarray(np.arange(240, dtype=np.uint8).reshape(8, 10, 3)).convert(mode)
        picture.save(tmp_path / "a.png")
        assert (
            decode(tmp_path / "a.png", (0, 4095)).permute(1, 2, 0).tolist() == np.array(picture.convert("RGB")).tolist()
        )
        assert not glance(tmp_path / "a.png", "a.png").is_wide


def test_colors_of_16_bits_are_turned_as_exif_says(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    file = write_png16(tmp_path / "a.png", [[[0, 0, 0], [257, 514, 65535]]], turned)
    assert decode(file).permute(1, 2, 0).tolist() == [[[0, 0, 0]], [[1, 2, 255]]]


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_a_cut_picture_of_16_bits_is_refused(tmp_path: Path, channels: int):
    values = np.random.default_rng(0).integers(0, 65536, (40, 50, channels))
    data = write_png16(tmp_path / "a.png", values).read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a\.png: truncated or damaged image"):
        decode(tmp_path / "a.png")
    assert "truncated or damaged image" in complaint(tmp_path / "a.png", "a.png", decode_all=False)[1]


def test_colors_of_16_bits_that_end_nearly_black_are_told_and_the_advice_works(tmp_path: Path):
    content = coco_content()
    for entry, name in zip(content["images"], ("a.png", "b.png"), strict=True):
        entry["file_name"] = name
    dark = DatasetConfig(path=str(write_coco(tmp_path / "dark", content)))
    for number, name in enumerate(("a.png", "b.png")):
        write_png16(tmp_path / "dark" / name, colors(1500, 200 + number))
    report = BOXES.check_one(dark)
    assert report.counts == {("warning", "images-dark"): 1}
    assert "the largest value is 1,500, which becomes 6 of 255" in str(report.problems[0])
    assert "set data.views.gray16_range: [0, 4095]" in str(report.problems[0])
    settings = DataConfig.model_validate({"labeled": dark.path, "views": {"gray16_range": [0, 4095]}})
    data = BOXES.prepare(settings, tmp_path / "run")
    assert data.warnings == () and int(data.labeled.pixels_at(0).max()) == 93  # 1500 * 255 / 4095 = 93.4
    for number, name in enumerate(("a.png", "b.png")):
        write_png16(tmp_path / "dark" / name, colors(60_000, 200 + number))
    assert BOXES.check_one(dark).counts == {}


def test_pictures_inside_of_a_parquet_file_are_told_too(tmp_path: Path):
    pictures = [write_png16(tmp_path / f"{n}.png", colors(1500, 200 + n)).read_bytes() for n in range(2)]
    file = write_parquet(tmp_path / "set.parquet", (0, 1), names=("cat", "dog"), images=pictures)
    data = IMAGES.prepare(data_config(file), tmp_path / "run")
    assert any("images-dark" in warning and "1,500" in warning for warning in data.warnings)
