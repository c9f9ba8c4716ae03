"""What is asked of every method, whatever it does: a tiny run of each through all its stages, looked at step by step.

A new method needs a line in `RUNS` and nothing else here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raydet.config.run import RunConfig
from raydet.contract import LossTerm
from raydet.labels.store import read_all
from raydet.metrics import read_metrics
from raydet.registry import build_method, config_classes, method_class
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from tests.helpers import tiny_classes, tiny_config, tiny_places, tiny_soft, tiny_views


def detector(kind: str = "faster_rcnn", **method: Any) -> Callable[[Path], RunConfig]:
    """Two steps of burn-in and three after it; what a method sets replaces `TINY`'s method."""
    changes = {"optim__steps": 5, "data__labeled_count": 10, "eval__max_images": 2, "model__detector": kind}
    if kind == "cascade_rcnn":
        changes["model__cascade_ious"] = [0.2, 0.25, 0.3]  # a model of two steps places no box well
    return lambda run_dir: tiny_config(run_dir, **changes, method={"burn_in_steps": 2, "ema_keep_rate": 0.5, **method})


def soft(score_floor: float = 0.05, **method: Any) -> Callable[[Path], RunConfig]:
    """A detector on Soft Teacher: two steps of burn-in and three after it."""
    changes = {
        "labels__score_floor": score_floor,
        "optim__steps": 5,
        "data__labeled_count": 10,
        "eval__max_images": 2,
        "model__roi_fg_iou": 0.3,
    }
    settings = {"burn_in_steps": 2, "box_spread_threshold": 0.5, **SURE_SOFT, **method}
    return lambda run_dir: tiny_soft(run_dir, **changes, method=settings)


def classifier(steps: int = 5, **method: Any) -> Callable[[Path], RunConfig]:
    """Two steps of burn-in and three after it, unless the method has other stages."""
    return lambda run_dir: tiny_classes(run_dir, optim__steps=steps, method={"burn_in_steps": 2, **method})


def localizer(**method: Any) -> Callable[[Path], RunConfig]:
    """Two steps of the first stage and three of the second, unless the method has one alone."""
    return lambda run_dir: tiny_places(run_dir, optim__steps=5, method={"burn_in_steps": 2, **method})


def pretrained(soco: bool = False, **method: Any) -> Callable[[Path], RunConfig]:
    """Four steps; with `soco` on the network of a SoCo run of two."""

    def config(run_dir: Path) -> RunConfig:
        if soco:
            path = launch(tiny_views(run_dir.parent / "soco", optim__steps=2, method={"name": "soco"})).path
            method["soco_checkpoint"] = str(path)
        return tiny_views(run_dir, optim__steps=4, method=method)

    return config


# A model of two steps is sure of nothing: a low threshold lets pseudo-boxes through all the same.
SURE_ENOUGH = {"score_threshold": 0.16}
SURE_CASCADE = {"score_threshold": 0.12}  # the mean of three heads is less sure than one
SURE_SOFT = {"pseudo_score_floor": 0.15, "cls_pseudo_threshold": 0.15, "rpn_pseudo_threshold": 0.15}
# Every part of gradient-based sampling within three steps.
EARLY = {"gbr_warmup_steps": 0, "gbt_warmup_steps": 0, "crs_warmup_steps": 0, "crs_rebuild_steps": 1}
# 0 supervised, 2 D2, 4 and 5 repredictions, 6 fine-tuning, 8 the end.
R2D2_STAGES = {
    "burn_in_batch": 8,
    "d2_steps": 2,
    "reprediction_interval_steps": 1,
    "repeat_lrs": [0.05],
    "finetune_steps": 2,
    "finetune_batch": 16,
    "label_step_override": 0.78125,
}

METHODS = tuple(config_classes())
RUNS: dict[str, dict[str, Callable[[Path], RunConfig]]] = {
    "supervised": {
        "plain": detector(name="supervised"),
        "with a branch": detector(name="supervised", iou_branch={"hidden": 16}),
        "cascade": detector("cascade_rcnn", name="supervised"),
        "masks": detector("mask_rcnn", name="supervised"),
    },
    "unbiased_teacher": {
        "plain": detector(name="unbiased_teacher", **SURE_ENOUGH),
        "cascade": detector("cascade_rcnn", name="unbiased_teacher", **SURE_CASCADE),
    },
    "il_net": {
        "plain": detector(name="il_net", **SURE_ENOUGH, iou_filter_threshold=0.2, iou_branch={"hidden": 16}),
        "without a branch": detector(name="il_net", **SURE_ENOUGH, iou_branch_enabled=False),
        "cascade": detector(
            "cascade_rcnn", name="il_net", **SURE_CASCADE, iou_filter_threshold=0.2, iou_branch={"hidden": 16}
        ),
    },
    "soft_teacher": {"plain": soft(), "focal": soft(cls_focal_exponent=1.0)},
    "gradient_sampling": {
        "plain": soft(name="gradient_sampling", **EARLY),
        "direct, rfs": soft(name="gradient_sampling", **EARLY, gbr_solver="direct", unlabeled_sampling="rfs"),
        "off": soft(name="gradient_sampling", gbr_enabled=False, gbt_enabled=False, unlabeled_sampling="random"),
        "on unbiased teacher": detector(
            name="gradient_sampling",
            host="unbiased_teacher",
            pseudo_score_floor=0.15,
            cls_pseudo_threshold=0.16,
            **EARLY,
        ),
    },
    "logit_adjustment": {"plain": soft(name="logit_adjustment")},
    "eqlv2": {"plain": soft(name="eqlv2", score_floor=1e-5, **dict.fromkeys(SURE_SOFT, 1e-4))},  # classes start at .001
    "classifier_retraining": {"plain": soft(name="classifier_retraining", retrain_from_step=4)},
    "supervised_classifier": {"plain": classifier(name="supervised_classifier")},
    "mean_teacher": {"plain": classifier(name="mean_teacher", ramp_up_steps=2)},
    "pseudo_label": {"plain": classifier(name="pseudo_label", reprediction_interval_steps=2)},
    "r2d2": {
        "plain": classifier(8, name="r2d2", **R2D2_STAGES),
        "cross-entropy": classifier(8, name="r2d2", **R2D2_STAGES, labeled_loss="ce"),
        "all labels learned": classifier(8, name="r2d2", **R2D2_STAGES, update_labeled=True),
    },
    "lchp": {
        "plain": localizer(name="lchp", crop_confidence_threshold=0.0),
        "initialisation alone": localizer(name="lchp", stage="init", box_encoding="xyxy"),
        "pseudo-labels alone": localizer(name="lchp", stage="pseudo_label_only"),
        "every other switch": localizer(
            name="lchp",
            attention_source="trunk_features",
            upsample_before_threshold=False,
            mask_fill="black_pixel",
            joint_forward=True,
            pseudo_net_momentum=0.0,
            reg_reduction="mean",
            crop_confidence_threshold=0.0,
            gate_network="pseudo_classifier",
            gate_class="label",
            refine_target="ema",
            target_forward_mode="train",
            stability_every=2,
        ),
        "without masks": localizer(
            name="lchp", mask_out_enabled=False, crop_confidence_threshold=0.0, refine_target="frozen_init"
        ),
    },
    "psol": {"plain": localizer(name="psol")},
    "cam": {"plain": localizer(name="cam", burn_in_steps=0)},
    "soco": {"plain": pretrained(name="soco")},
    "adept": {
        "joint": pretrained(name="adept"),
        "separate": pretrained(soco=True, name="adept", mode="separate", rpn_views=[1, 2]),
        "every other switch": pretrained(
            name="adept",
            backbone_loss="det+rpn",
            det_proposals="ss+rpn",
            rpn_views=[2],
            num_boxes=6,
            rpn_reg_weight=2.0,
        ),
    },
}
"""Method -> runs that together reach every branch of its losses."""


@dataclass(frozen=True, slots=True)
class Term:
    """One loss term of one step."""

    total: float
    count: float
    is_on_graph: bool
    slope: float | None  # largest gradient of this term alone on any parameter; None: it reaches no parameter

    @staticmethod
    def of(term: LossTerm, model: nn.Module) -> Term:
        assert term.total.shape == term.count.shape == (), "a loss term is a scalar sum and a scalar count"
        found: list[torch.Tensor] = []
        if term.total.requires_grad:
            trained = [p for p in model.parameters() if p.requires_grad]
            slopes = torch.autograd.grad(term.total, trained, retain_graph=True, allow_unused=True)
            found = [slope.abs().amax() for slope in slopes if slope is not None]
        slope = float(torch.stack(found).amax()) if found else None
        return Term(float(term.total.detach()), float(term.count), term.total.requires_grad, slope)


@dataclass(frozen=True, slots=True)
class Step:
    """What a method said of one step's batch."""

    step: int
    unlabeled: int
    terms: dict[str, Term]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run and its steps."""

    config: RunConfig
    folder: RunFolder
    steps: list[Step]

    @property
    def weights(self) -> dict[str, float]:
        return build_method(self.config).loss_weights

    def stages(self) -> list[list[Step]]:
        """Return the steps of each stage; a method may end a stage at the start or at the end of the run."""
        inner = {end for end in build_method(self.config).stage_ends if 0 < end < self.config.length}
        ends = [0, *sorted(inner), self.config.length]
        return [[step for step in self.steps if first <= step.step < end] for first, end in pairwise(ends)]


@pytest.fixture(scope="module", params=[(name, run) for name in METHODS for run in RUNS.get(name, ())], ids=": ".join)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train, and look at every step's terms on the way."""
    name, variant = request.param
    config = RUNS[name][variant](tmp_path_factory.mktemp("every") / "run")
    assert config.method.name == name
    method = method_class(config)
    real, steps = method.losses, []

    def watched(self: Any, student: nn.Module, batch: Any, teacher: Any, state: Any) -> Any:
        found = real(self, student, batch, teacher, state)
        assert all(term.group in {*batch.sizes, None} for term in found.losses.values())
        terms = {name: Term.of(term, student) for name, term in found.losses.items()}
        steps.append(Step(batch.step, batch.sizes.get("unlabeled", 0), terms))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "losses", watched)
        folder = launch(config)
    return Run(config, folder, steps)


def test_every_method_has_a_run_here():
    missing, gone = sorted(set(METHODS) - RUNS.keys()), sorted(RUNS.keys() - set(METHODS))
    assert not missing, f"methods without a tiny run: add {missing} to RUNS of {Path(__file__).name}"
    assert not gone, f"RUNS of {Path(__file__).name} names methods that do not exist: {gone}"
    assert all(RUNS.values()), "a method without any run"


def test_it_trains_to_its_end_and_is_evaluated(run: Run):
    assert [step.step for step in run.steps] == list(range(run.config.length))
    judged = [line for line in read_metrics(run.folder.metrics) if line["kind"] == "eval"]
    assert run.config.length in {line["step"] for line in judged}
    assert all(run.stages()), "a stage without a step"


def test_its_terms_are_those_that_have_a_weight_and_all_are_finite(run: Run):
    for step in run.steps:
        assert step.terms.keys() == run.weights.keys(), step.step
        for name, term in step.terms.items():
            assert torch.isfinite(torch.tensor([term.total, term.count, term.slope or 0.0])).all(), (step.step, name)
            assert term.count >= 0, (step.step, name)


def test_a_term_without_elements_is_zero_and_still_on_the_graph(run: Run):
    # Else an empty share of one rank would divide by nothing, or leave that rank's gradients out of the sum.
    for step in run.steps:
        for name, term in step.terms.items():
            assert term.is_on_graph or not run.weights[name], (step.step, name)
            assert term.count or not term.total, (step.step, name)


def test_every_weighted_term_with_elements_reaches_a_parameter_in_each_stage(run: Run):
    reached = set()
    for stage in run.stages():
        wanted = {n for step in stage for n, term in step.terms.items() if run.weights[n] > 0 and term.count > 0}
        pulling = {n for step in stage for n, term in step.terms.items() if term.slope}
        assert wanted <= pulling, f"steps {stage[0].step} to {stage[-1].step}: no gradient of {wanted - pulling}"
        reached |= wanted
    assert reached == {name for name, weight in run.weights.items() if weight > 0}, "terms that never had an element"


def test_every_term_says_something_at_some_step(run: Run):
    # Terms of weight 0 are for the log: without a gradient to look at, a number that is always 0 gives them away.
    silent = {name for name in run.weights if not any(step.terms[name].total for step in run.steps)}
    assert not silent


def test_steps_that_want_labels_have_them_and_the_others_have_none(run: Run):
    schedule = build_method(run.config).schedule()
    for step in run.steps:
        assert (step.unlabeled > 0) == (schedule.version_for(step.step) is not None), step.step
        elements = {name for name, term in step.terms.items() if name.startswith("unsup/") and term.count}
        assert step.unlabeled or not elements, step.step
    versions = {version for table in read_all(run.folder.labels) for version in table["version"].to_pylist()}
    published = {schedule.version_for(step.step) for step in run.steps} - {None}
    assert versions == published
    assert bool(published) == run.config.uses_labels
