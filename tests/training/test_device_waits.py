"""What a GPU would be waited for in a step, and whether anything of a run is on the wrong device: on a double of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.config.run import RunConfig
from raydet.group import Group
from raydet.records import Candidates
from raydet.train.journal import Journal
from raydet.train.launch import launch
from raydet.train.worker import train_rank
from raydet.vision.device import on_host
from raydet.vision.nms import nms_within
from raydet.vision.weights import from_arrays, load_weights, to_arrays, weights_of
from tests.device_double import DEVICE, OnDevice, waits
from tests.helpers import tiny_config
from tests.training.test_every_method import RUNS

Found = list[Counter[tuple[str, str]]]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Found]:
    """Train on the double; what each step waits for up to its line in the journal."""
    steps: Found = []

    def train(config: RunConfig, group: Group, make_source: Any) -> None:
        with waits() as found:
            before = Counter[tuple[str, str]]()

            def step(self: Journal, *args: Any, **kwargs: Any) -> None:
                nonlocal before
                steps.append(found - before)
                before = found.copy()
                original(self, *args, **kwargs)
                before = found.copy()

            original = Journal.step
            monkeypatch.setattr(Journal, "step", step)
            train_rank(config, Group(group.rank, group.world, DEVICE), make_source)

    monkeypatch.setattr("raydet.train.launch.train_rank", train)
    yield steps


def by_file(found: Counter[tuple[str, str]]) -> dict[str, int]:
    """How often each file waits."""
    files = Counter[str]()
    for (line, _), number in found.items():
        files[line.split(":")[0]] += number
    return dict(files)


def test_a_burn_in_step_waits_for_the_nms_of_each_image_and_for_five_lengths(counted: Found, tmp_path: Path):
    launch(tiny_config(tmp_path / "run", run__stop_at=3))
    # 4 labelled images, strong and weak: 8 views
    assert by_file(counted[2]) == {
        "vision/nms.py": 8,
        "vision/rpn.py": 1,  # how many proposals have an inside
        "vision/matching.py": 2,  # how many anchors, and how many RoIs, were drawn
        "vision/roi_pooling.py": 1,  # how many RoIs each level serves
        "train/step.py": 1,  # losses, votes, the gradient's norm
    }


def test_labels_add_the_nms_of_their_images_and_four_waits_per_forward(counted: Found, tmp_path: Path):
    launch(tiny_config(tmp_path / "run", labels__forward_images=4))
    # 8 views of labelled and 4 of unlabelled images, and 4 that the teacher sees, all of one size
    assert by_file(counted[7]) == {
        "vision/nms.py": 8 + 4 + 4,  # IL-net keeps what its teacher says before NMS
        "vision/rpn.py": 2,
        "vision/matching.py": 2,
        "vision/roi_pooling.py": 2,
        "vision/detector.py": 2,  # which class scores pass the floor; how many of each image
        "vision/device.py": 1,  # boxes, classes, scores and quality of all images
        "vision/digests.py": 1,  # the published teacher
        "train/step.py": 1,
    }


ON_THE_DEVICE = [
    *[(name, "plain") for name in RUNS if "plain" in RUNS[name] and name not in ("supervised", "unbiased_teacher")],
    ("supervised", "masks"),
    ("il_net", "cascade"),
    ("gradient_sampling", "direct, rfs"),
    ("gradient_sampling", "on unbiased teacher"),
    ("lchp", "every other switch"),
    ("adept", "joint"),
]


@pytest.mark.parametrize(("name", "variant"), ON_THE_DEVICE)
def test_every_part_of_a_run_is_on_the_device(name: str, variant: str, counted: Found, tmp_path: Path):
    launch(RUNS[name][variant](tmp_path / "run"))
    assert len(counted) >= 4  # an operation on tensors of both places would have ended it


def test_weights_travel_to_the_device_and_back_unchanged():
    def network() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(
            memory_format=torch.channels_last
        )

    given, other = network(), network()
    with waits() as found:
        there = other.to(DEVICE)
        load_weights(there, weights_of(given))
        assert all(isinstance(value, OnDevice) for value in there.state_dict().values())
        sent = weights_of(there)
        assert all(isinstance(value, OnDevice) for value in sent.values())
        assert found.total() == 0  # from the teacher that follows to the one that labels, on one device
        back = from_arrays(to_arrays(sent))
        assert found.total() == 2  # float32 and the counter's int64
        assert all(torch.equal(value, back[name]) for name, value in given.state_dict().items())


def test_detections_come_back_from_the_device_in_one_copy():
    found = [
        Candidates(torch.rand(n, 4), torch.arange(n) + 1200, torch.rand(n), torch.rand(n), 0.1 * n) for n in (3, 0, 2)
    ]
    with waits() as waited:
        there = [
            Candidates(*(OnDevice(column) for column in (c.boxes, c.classes, c.scores, c.quality)), c.complete_above)
            for c in found
        ]
        back = on_host(there)
        assert waited.total() == 1
    for one, other in zip(found, back, strict=True):
        for name in ("boxes", "classes", "scores", "quality", "complete_above"):
            assert torch.equal(torch.as_tensor(getattr(one, name)), torch.as_tensor(getattr(other, name))), name


def test_nms_on_the_device_is_that_of_the_cpu():
    rng = torch.Generator().manual_seed(0)
    low = 50 * torch.rand(200, 2, generator=rng)
    boxes = torch.cat([low, low + 5 + 20 * torch.rand(200, 2, generator=rng)], dim=1)
    scores, groups = torch.rand(200, generator=rng), torch.randint(0, 5, (200,), generator=rng)
    expected = nms_within(boxes, scores, groups, 0.5)
    with waits():
        found = nms_within(OnDevice(boxes), OnDevice(scores), OnDevice(groups), 0.5)
    assert 20 < len(expected) < 200 and found.inner.tolist() == expected.tolist()
