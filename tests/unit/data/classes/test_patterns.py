from __future__ import annotations

import hashlib

import numpy as np
import pytest

from raydet.config.class_data import PatternsConfig
from raydet.data.classes.synthetic import CLASS_NAMES, _coverage, _outline, patterns_table, render


def test_the_classes_take_turns_and_a_larger_set_extends_a_smaller_one() -> None:
    few, many = (patterns_table(PatternsConfig(num_images=count, num_classes=3)) for count in (4, 7))
    assert many.labels.tolist() == [0, 1, 2, 0, 1, 2, 0] and many.class_names == ("circle", "square", "triangle")
    assert many.content[:4].equals(few.content) and many.ids[:4].equals(few.ids)
    assert many.id_at(5) == "patterns-0/5" and many.pixels_at(5).shape == (3, 32, 32)


def test_two_seeds_share_no_picture() -> None:
    sets = [patterns_table(PatternsConfig(num_images=30, seed=seed)).content.to_pylist() for seed in (0, 1)]
    assert len(set(sets[0] + sets[1])) == 60


@pytest.mark.parametrize("size", [8, 33, 128])
def test_pictures_have_the_size_asked_for(size: int) -> None:
    pixels = render(PatternsConfig(size=size), 3)
    assert pixels.shape == (3, size, size) and pixels.dtype == np.uint8 and pixels.std() > 5


def test_outlines_have_the_areas_of_their_shapes() -> None:
    outlines = {name: _outline(name) for name in CLASS_NAMES}
    assert all(0.9 < np.linalg.norm(points, axis=1).max() < 1.2 for points in outlines.values())
    covered = {name: _coverage([points * 40 + 50], 100).sum() / 40**2 for name, points in outlines.items()}
    # circle pi; inscribed square 2; inscribed equilateral triangle 3 sqrt(3) / 4 = 1.30
    assert covered["circle"] == pytest.approx(3.14, abs=0.06)
    assert covered["square"] == pytest.approx(2.0, abs=0.06)
    assert covered["triangle"] == pytest.approx(1.30, abs=0.06)


def test_colours_say_nothing_about_the_class() -> None:
    table = patterns_table(PatternsConfig(num_images=600))
    means = np.array([table.pixels_at(row).float().mean((1, 2)).numpy() for row in range(600)])
    by_class = np.array([means[table.labels == label].mean(0) for label in range(6)])
    # the mean of 100 pictures scatters by 1/10 of the scatter of one
    assert np.abs(by_class - means.mean(0)).max() < 5 * means.std(0).max() / 10


def test_the_recipe_has_not_changed() -> None:
    """A changed picture is another data set: runs and numbers of the old one are not those of the new one."""
    shapes = [render(PatternsConfig(), number) for number in range(6)]
    assert [float(pixels.mean()) for pixels in shapes] == pytest.approx(
        [170.9, 157.4, 120.8, 127.9, 172.9, 75.9], abs=0.5
    )
    assert len({hashlib.blake2b(pixels.tobytes()).hexdigest() for pixels in shapes}) == 6
