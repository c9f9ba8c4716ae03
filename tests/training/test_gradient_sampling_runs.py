"""Gradient-based sampling in a run: which images are listed, and what a resume has to give back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet.contract import DataSizes, sizes_of
from raydet.errors import CheckpointError
from raydet.families.detection.data import BOXES
from raydet.families.detection.methods import gradient_sampling
from raydet.families.detection.methods.gradient_sampling import GradientSampling
from raydet.group import Group
from raydet.metrics import read_metrics
from raydet.records import PseudoBoxes, TeacherRef
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.launch import launch
from tests.helpers import tiny_config, tiny_soft
from tests.integration.runs import assert_same_bits, losses, saved
from tests.training.balanced import EARLY, built, run_of, sampled, state_of, sums_of, updated


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(run_of(tmp_path_factory.mktemp("straight") / "run")).path


def test_listings_change_which_images_are_seen(straight: Path, tmp_path: Path):
    listed = saved(straight)["memory.repeats"]
    assert saved(straight)["memory.first_steps"].tolist() == [8, 11]
    assert float(listed.max()) > 1 and float(listed.min()) == 1
    plain = launch(run_of(tmp_path / "run", method={"unlabeled_sampling": "random"})).path
    mine, theirs = losses(straight), losses(plain)
    assert mine[:5] == theirs[:5]  # the first listing begins at step 5
    assert mine[5:] != theirs[5:]


@pytest.mark.parametrize("host", ["soft_teacher", "unbiased_teacher"])
def test_the_log_counts_the_pseudo_boxes_that_the_classes_are_trained_on(host: str, tmp_path: Path):
    # No box passes the common threshold; those of the classes go down to the floor. No box leaves a view.
    method: dict[str, object] = {"cls_pseudo_threshold": 0.25, "pseudo_score_floor": 0.17, "host": host}
    if host == "soft_teacher":
        still = {"short_side": [52, 72], "translate": 0, "rotate_degrees": 0, "shear_degrees": 0}
        config = sampled(tmp_path / "run", method={**method, "rpn_pseudo_threshold": 0.25, "views": still})
    else:
        own = {**EARLY, **method, "burn_in_steps": 0, "ema_keep_rate": 0.5}
        config = tiny_config(tmp_path / "run", method=own)
    steps = [record for record in read_metrics(launch(config).metrics) if record["kind"] == "step"]
    trained_on = [record["loss/unsup/boxes_cls/raw"] for record in steps]
    assert [record["pseudo/boxes_per_image"] for record in steps] == pytest.approx(trained_on)
    assert max(trained_on) > 1
    for record in steps:
        assert sum(record["pseudo/per_class"]) == pytest.approx(record["pseudo/boxes_per_image"])
        kept = record["pseudo/candidates_per_image"] - record["gate/score/dropped"]
        assert kept == pytest.approx(record["pseudo/boxes_per_image"])
        assert record.get("pseudo/mean_score", 0.0) < 0.25


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_a_run_that_is_stopped_before_at_or_after_a_rebuild_goes_on_bit_for_bit(
    straight: Path, stop: int, tmp_path: Path
):
    launch(run_of(tmp_path / "run", run__stop_at=stop))
    launch(run_of(tmp_path / "run"), resume=True)
    assert_same_bits(straight, tmp_path / "run")
    assert losses(straight) == losses(tmp_path / "run")
    mine, theirs = (latest_checkpoint(run / "checkpoints") for run in (straight, tmp_path / "run"))
    assert mine is not None and theirs is not None and mine.state["teachers"] == theirs.state["teachers"]
    assert list(mine.state["teachers"]) == ["6", "8", "10"]  # from that of step 9 on, 6 <= 9 - 2, the last rebuild's


@pytest.mark.parametrize("fails_at", [4, 7])
def test_a_worker_that_is_killed_loses_no_statistics(
    straight: Path, fails_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = GradientSampling.update

    def dying(self: Any, state: Any, batch: Any, *rest: Any) -> None:
        if batch.step == fails_at:
            raise OSError("killed")
        real(self, state, batch, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(gradient_sampling.GradientSampling, "update", dying)
        with pytest.raises(OSError, match="killed"):
            launch(run_of(tmp_path / "run", checkpoint__every=3))
    launch(run_of(tmp_path / "run", checkpoint__every=3), resume=True)
    assert_same_bits(straight, tmp_path / "run")


def test_how_far_ahead_images_are_prepared_changes_nothing(straight: Path, tmp_path: Path):
    launch(run_of(tmp_path / "run", data__loader_threads=0, data__prefetch_steps=1))
    assert_same_bits(straight, tmp_path / "run")


def test_with_all_switches_off_it_is_soft_teacher_to_the_bit(tmp_path: Path):
    off = {"gbr_enabled": False, "gbt_enabled": False, "unlabeled_sampling": "random", "labeled_sampling": "random"}
    mine = launch(sampled(tmp_path / "mine", method=off)).path
    theirs = launch(tiny_soft(tmp_path / "theirs")).path
    found, expected = saved(mine), saved(theirs)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert losses(mine) == losses(theirs)


# --- listing images --------------------------------------------------------------------------------------------------


def said(row: int, classes: list[int], scores: list[float]) -> tuple[int, PseudoBoxes]:
    n = len(classes)
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]]).repeat(n, 1)
    numbers = torch.tensor(classes, dtype=torch.int64)
    label = PseudoBoxes(f"u{row}", TeacherRef(0, ""), boxes, numbers, torch.tensor(scores), torch.ones(n), 0.05)
    return row, label


class Labelled:
    """A labelled set of 96 images: class 0 in all of them, class 1 in one, class 2 in none."""

    def __len__(self) -> int:
        return 96

    def classes_at(self, row: int) -> np.ndarray:
        return np.array([0, 1] if row == 0 else [0])


def sizes(unlabeled: int = 5) -> DataSizes:
    sets: Any = type("Sets", (), {"labeled": Labelled()})()
    return DataSizes(96, unlabeled, 3, sets)


LABELS = [
    said(0, [0], [0.95]),
    said(1, [0, 1], [0.8, 0.9]),  # class 1 by .3 above the threshold
    said(2, [1], [0.6]),  # just at the threshold: counted, margin 0
    said(3, [1], [0.59]),  # below: as if there were nothing
]


def listed(**method: object) -> list[float]:
    settings = {"cls_pseudo_threshold": 0.6, "rpn_pseudo_threshold": 0.6, "pseudo_score_floor": 0.5}
    chosen = built(gbt_enabled=False, **settings, **method)
    state = state_of(unlabeled=5)
    chosen.rebuild(state, sizes(), 6, iter(LABELS), Group())
    (listing,) = chosen.listings(state, DataSizes(96, 5, 3))
    assert listing.set_name == "unlabeled" and listing.first_step == 6
    return listing.factors.tolist()


def test_images_are_listed_by_their_surest_rare_boxes():
    # N = 96 labelled + 3 with a box: f_1 = (1 + 2) / 99; lambda = 4 * 6 / 8 = 3: r_1 = sqrt(3 * 33) = 9.950;
    # f_0 = (96 + 2) / 99: r_0 = sqrt(3 * 99 / 98) = 1.741. Image 0: .35 * 1.741 < 1; image 1: .3 * 9.950 = 2.985
    chosen = listed(crs_repeat_threshold_max=4.0, repeat_rounding="stochastic")
    assert chosen == pytest.approx([1, 2.985, 1, 1, 1], abs=1e-3)
    assert listed(crs_repeat_threshold_max=4.0) == [1, 3, 1, 1, 1]


def test_rfs_lists_images_by_their_rarest_box_however_sure():
    # t = 1: r_1 = sqrt(33) = 5.745, r_0 = sqrt(99 / 98) = 1.005; ceil makes 2 of it
    found = listed(unlabeled_sampling="rfs", rfs_repeat_threshold=1.0, repeat_rounding="stochastic")
    assert found == pytest.approx([1.005, 5.745, 5.745, 1, 1], abs=1e-3)
    assert listed(unlabeled_sampling="rfs", rfs_repeat_threshold=1.0) == [2, 6, 6, 1, 1]


def test_labelled_images_are_listed_by_repeat_factor_sampling(tmp_path: Path):
    method = built(rfs_repeat_threshold=0.5)
    data = BOXES.prepare(sampled(tmp_path).data, tmp_path / "data")
    (listing,) = method.listings(state_of(unlabeled=14), sizes_of(data))
    assert listing.set_name == "labeled" and listing.first_step == 0
    counts = np.zeros(6)
    for row in range(10):
        counts[data.labeled.classes_at(row)] += 1
    for row in range(10):
        rarest = min(counts[c] for c in data.labeled.classes_at(row)) / 10 if len(data.labeled.classes_at(row)) else 1
        assert listing.factors[row] == np.ceil(max(1.0, np.sqrt(0.5 / rarest)))
    assert built(labeled_sampling="random").listings(state_of(), sizes_of(data)) == []


# --- saving ----------------------------------------------------------------------------------------------------------


def test_the_state_is_what_was_saved(tmp_path: Path):
    state = state_of()
    assert state.tensors() == {}  # nothing was learned: a run may be forked from this
    method = built(gbr_warmup_steps=0)
    updated(method, state, 0, sums_of(torch.rand(4, 4) - torch.eye(4) * 3))
    state.list_anew(7, np.array([1.0, 2.0, 3.0, 1.0]))
    copy = state_of()
    copy.load(state.tensors(), "there")
    for name, value in state.tensors().items():
        assert torch.equal(copy.tensors()[name], value), name
    assert [listing.first_step for listing in copy.listings()] == [7]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.pop("matrix"), "class statistics lack 'matrix'"),
        (lambda t: t.update(repeats=torch.ones(2, 9)), r"repeats of its class statistics is torch.float32 \[2, 9\]"),
        (lambda t: t["matrix"].fill_(float("nan")), "matrix of its class statistics holds NaN"),
        (lambda t: t.update(updates=torch.tensor(1.0)), "updates of its class statistics is torch.float32"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(spoil: Any, said: str):
    state = state_of()
    updated(built(), state, 0, sums_of(-torch.eye(4)))
    tensors = {name: value.clone() for name, value in state.tensors().items()}
    spoil(tensors)
    with pytest.raises(CheckpointError, match=f"^there: .*{said}"):
        state_of().load(tensors, "there")
