"""Which view of an image a classifier's teacher labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydet.config.class_data import ImageDataConfig
from raydet.families.classification.annotator import ClassAnnotator
from raydet.families.classification.config import ClassificationConfig
from raydet.families.classification.data import IMAGES, PreparedImages
from raydet.families.classification.loader import fill_color
from raydet.families.classification.method import ClassificationMethod, classification_method
from raydet.families.classification.views import augmented_view
from raydet.randomness import stream
from raydet.records import TeacherRef
from raydet.registry import build_method
from raydet.vision.digests import digest
from raydet.vision.weights import weights_of
from tests.helpers import TINY_CLASSES, tiny_classes

PLAIN = ("r2d2", "pseudo_label")
ROWS = (0, 3, 7, 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """42 unlabelled images of 16 x 16 pixels, as large as the views."""
    found = tmp_path_factory.mktemp("data")
    IMAGES.prepare(ImageDataConfig.model_validate(TINY_CLASSES["data"]), found)
    return found


def config_of(name: str) -> ClassificationConfig:
    section = TINY_CLASSES["method"] if name == "r2d2" else {"name": name, "burn_in_steps": 4}
    return tiny_classes(Path("unused"), method=section)


def opened(folder: Path, name: str) -> tuple[ClassAnnotator, PreparedImages]:
    data = IMAGES.open(folder)
    return ClassAnnotator(classification_method(config_of(name)), data, "cpu"), data


def test_repredictions_are_of_the_plain_view_and_mean_teachers_labels_of_an_augmented_one():
    def sees(name: str) -> str:
        method = build_method(config_of(name))
        assert isinstance(method, ClassificationMethod)
        return method.teacher_sees

    assert {name: sees(name) for name in (*PLAIN, "mean_teacher")} == {
        "r2d2": "plain",
        "pseudo_label": "plain",
        "mean_teacher": "augmented",
    }


@pytest.mark.parametrize("name", PLAIN)
def test_a_reprediction_looks_at_the_image_as_it_is_whatever_the_version(folder: Path, name: str):
    annotator, data = opened(folder, name)
    assert data.unlabeled is not None
    for row in ROWS:
        for version in (4, 10):  # images are as large as views: a plain view is the image itself, pixel for pixel
            assert torch.equal(annotator.see(data.unlabeled.id_at(row), version), data.unlabeled.pixels_at(row))


def test_mean_teachers_teacher_looks_at_an_augmented_view_without_a_hole(folder: Path):
    (annotator, data), config = opened(folder, "mean_teacher"), config_of("mean_teacher")
    assert data.unlabeled is not None
    moved = 0
    for row in ROWS:
        image_id, pixels = data.unlabeled.id_at(row), data.unlabeled.pixels_at(row)
        drawn = stream(config.seed, "teacher", image_id, 4)
        view = augmented_view(pixels, config.data.views, drawn, fill=fill_color(config), cutout=False)
        assert torch.equal(annotator.see(image_id, 4), view)
        moved += not torch.equal(view, pixels)
    assert moved == len(ROWS)  # by chance one of 50 is the same: 5 x 5 places, flipped or not


@pytest.mark.parametrize("name", PLAIN)
def test_the_logits_of_a_label_are_those_of_the_image_as_it_is(folder: Path, name: str):
    annotator, data = opened(folder, name)
    assert data.unlabeled is not None
    weights = weights_of(annotator.model)
    annotator.load(TeacherRef(4, digest(weights)), weights)
    labels = annotator.label([data.unlabeled.id_at(row) for row in ROWS])
    for row, label in zip(ROWS, labels, strict=True):
        assert (label.image_id, label.teacher) == (data.unlabeled.id_at(row), TeacherRef(4, digest(weights)))
        with torch.no_grad():
            expected = annotator.model(data.unlabeled.pixels_at(row)[None]).logits[0]
        torch.testing.assert_close(label.logits, expected, rtol=1e-4, atol=1e-5)
