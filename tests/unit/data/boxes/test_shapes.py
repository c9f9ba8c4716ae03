from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydet.config.box_data import ShapesConfig
from raydet.data.boxes import synthetic as shapes
from raydet.data.boxes.synthetic import CLASS_NAMES, materialise, render


def test_an_image_depends_on_seed_and_number_only() -> None:
    small, large = ShapesConfig(num_images=3), ShapesConfig(num_images=1000)
    for number in range(3):
        a, b = render(small, number), render(large, number)
        assert np.array_equal(a.pixels, b.pixels) and np.array_equal(a.boxes, b.boxes) and a.classes == b.classes
    assert not np.array_equal(render(small, 0).pixels, render(small, 1).pixels)
    assert not np.array_equal(render(small, 0).pixels, render(ShapesConfig(seed=1), 0).pixels)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (128, 160), (300, 90)])
def test_boxes_lie_inside_images_of_any_size(height: int, width: int) -> None:
    config = ShapesConfig(height=height, width=width, max_objects=8)
    for number in range(20):
        scene = render(config, number)
        assert scene.pixels.shape == (height, width, 3) and scene.pixels.dtype == np.uint8
        assert 1 <= len(scene.classes) == len(scene.boxes) <= 8
        assert (scene.boxes >= 0).all() and (scene.boxes <= [width, height, width, height]).all()
        assert (scene.boxes[:, 2:] - scene.boxes[:, :2] > 1).all()


def test_the_classes_have_a_long_tail() -> None:
    config = ShapesConfig(height=48, width=64)
    counts = Counter(label for number in range(300) for label in render(config, number).classes)
    by_class = [counts[label] for label in range(len(CLASS_NAMES))]
    assert by_class[0] > 3 * by_class[5] > 0
    assert by_class[0] == max(by_class) and by_class[5] == min(by_class)


def test_a_box_spans_what_is_drawn() -> None:
    for number in range(20):
        canvas = shapes._Canvas(np.zeros((100, 140, 3), np.float32))
        shapes._place_object(np.random.default_rng(number), canvas)
        rows, columns = (canvas.owner == 0).nonzero()
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        # Sharp corners thin out before they end: a star's or triangle's tip covers no whole pixel.
        assert np.abs(np.array(seen) - canvas.boxes[0]).max() <= 2.5


def test_half_of_every_object_stays_visible() -> None:
    for number in range(30):
        rng = np.random.default_rng(number)
        canvas = shapes._Canvas(np.zeros((64, 64, 3), np.float32))
        for _ in range(8):
            shapes._place_object(rng, canvas)
            shapes._place_bar(rng, canvas)
        for label, drawn in enumerate(canvas.drawn):
            assert np.count_nonzero(canvas.owner == label) >= 0.5 * drawn


def test_materialise_writes_a_complete_coco_data_set(tmp_path: Path) -> None:
    config = ShapesConfig(num_images=6, height=64, width=80)
    file = materialise(config, tmp_path)
    content = json.loads(file.read_text())
    assert [entry["name"] for entry in content["categories"]] == list(CLASS_NAMES)
    assert [entry["id"] for entry in content["images"]] == [1, 2, 3, 4, 5, 6]
    scene = render(config, 4)
    with Image.open(file.parent / content["images"][4]["file_name"]) as image:
        assert np.array_equal(np.asarray(image), scene.pixels)
    found = [entry for entry in content["annotations"] if entry["image_id"] == 5]
    assert [entry["category_id"] - 1 for entry in found] == list(scene.classes)
    for entry, (x1, y1, x2, y2) in zip(found, scene.boxes.tolist(), strict=True):
        x, y, w, h = entry["bbox"]
        assert (x, y, x + w, y + h) == (x1, y1, x2, y2)
        assert entry["area"] == w * h and entry["iscrowd"] == 0


def test_materialise_does_the_work_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ShapesConfig(num_images=2, height=32, width=32)
    first = materialise(config, tmp_path)
    monkeypatch.setattr(shapes, "_write", lambda *_: pytest.fail("written again"))
    assert materialise(config, tmp_path) == first


def test_an_interrupted_set_is_never_mistaken_for_a_complete_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ShapesConfig(num_images=3, height=32, width=32)

    def stop_at_the_second(settings: ShapesConfig, number: int) -> shapes.Scene:
        if number == 1:
            raise KeyboardInterrupt
        return render(settings, number)

    monkeypatch.setattr(shapes, "render", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        materialise(config, tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert len(json.loads(materialise(config, tmp_path).read_text())["images"]) == 3


def test_writers_at_the_same_time_agree(tmp_path: Path) -> None:
    config = ShapesConfig(num_images=4, height=32, width=32)
    with ThreadPoolExecutor(4) as threads:
        files = set(threads.map(lambda _: materialise(config, tmp_path), range(4)))
    assert len(files) == 1 and len(list(tmp_path.iterdir())) == 1


def test_another_config_gets_another_folder(tmp_path: Path) -> None:
    one = ShapesConfig(num_images=1, height=32, width=32)
    others = [one.model_copy(update=change) for change in ({"seed": 1}, {"max_objects": 2}, {"width": 40})]
    assert len({materialise(config, tmp_path) for config in [one, *others]}) == 4
