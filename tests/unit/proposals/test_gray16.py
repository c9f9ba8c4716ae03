"""Pictures of 16 bits are searched as they are trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from raydet.cli import main
from raydet.data.proposals import Proposals
from raydet.errors import DataError
from raydet.families.pretraining.proposals import require_same_brightness

BITS_12 = ["--gray16-range", "0", "4080"]


def search(folder: Path, out: Path, *options: str) -> int:
    return main(["proposals", str(folder), "--out", str(out), "--actors", "0", *options])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The same bright block twice: in eight bits, and times 16 in sixteen, as a camera of 12 bits has it."""
    image = Image.new("L", (120, 90), 90)
    ImageDraw.Draw(image).rectangle((30, 20, 79, 69), fill=200)
    for name in ("seen", "wide"):
        (tmp_path / name).mkdir()
    image.save(tmp_path / "seen" / "a.png")
    Image.fromarray(np.asarray(image).astype(np.uint16) * 16).save(tmp_path / "wide" / "a.png")  # 255 * 16 = 4080
    return tmp_path


def test_the_range_that_is_asked_for_becomes_the_brightness_that_is_searched(pictures: Path, capsys):
    pytest.importorskip("cv2")
    boxes = {}
    for name, folder, options in (("eight", "seen", []), ("twelve", "wide", BITS_12), ("dark", "wide", [])):
        assert search(pictures / folder, pictures / name, *options) == 0
        found = Proposals.open(pictures / name)
        boxes[name] = found.boxes_at(found.position("a.png")).tolist()
    assert boxes["twelve"] == boxes["eight"]
    assert boxes["dark"] != boxes["eight"]
    capsys.readouterr()
    assert search(pictures / "wide", pictures / "dark", *BITS_12) == 2
    assert "gray16_range" in capsys.readouterr().err


@pytest.mark.parametrize("given", [("9", "9"), ("-1", "9"), ("0", "65536")])
def test_a_range_that_is_none_is_refused(pictures: Path, given: tuple[str, str], capsys):
    assert search(pictures / "wide", pictures / "out", "--source", "grid", "--gray16-range", *given) == 2
    assert f"--gray16-range {given[0]} {given[1]}: expected two values of 0 to 65535" in capsys.readouterr().err


def test_a_run_that_sees_pictures_brighter_than_they_were_searched_is_refused(pictures: Path):
    pytest.importorskip("cv2")
    assert search(pictures / "wide", pictures / "dark") == 0
    require_same_brightness(str(pictures / "dark"), (0, 65535))
    with pytest.raises(DataError, match=r"searched with \[0, 65535\].*raydet proposals .*--gray16-range 0 4080"):
        require_same_brightness(str(pictures / "dark"), (0, 4080))
    assert search(pictures / "wide", pictures / "grid", "--source", "grid") == 0
    require_same_brightness(str(pictures / "grid"), (0, 4080))  # a grid looks at no pixel
    require_same_brightness("grid", (0, 4080))
