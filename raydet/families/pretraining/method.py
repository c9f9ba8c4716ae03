"""What a method of pre-training is, beside what every method is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from raydet.contract import Alarm, DataSizes, LossTerm, Method
from raydet.families.pretraining.batch import IMAGES, ViewBatch
from raydet.families.pretraining.config import PretrainingConfig, PretrainingSection
from raydet.families.pretraining.model import Branch, PretrainingModel, levels, normalised, rois_of
from raydet.families.pretraining.similarity import disagreement, keep_rate, moments, spread, swapped
from raydet.group import Group
from raydet.labels.schedule import LabelSchedule
from raydet.vision.device import to_device
from raydet.window import Window

MOMENTS = "moments"
FEW_OWN_BOXES = 0.5  # of the images: with more of them whole views, nothing is learned about objects
ALIKE = 0.9  # cosine of online and target branch: above it the loss has nothing left to say


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """The three views of a batch on the device, and the pyramid of each by the online branch."""

    pixels: tuple[Tensor, ...]  # [B, 3, S, S] float32
    features: tuple[list[Tensor], ...]  # of the views that were asked for, V1 first
    rois: tuple[Tensor, ...]  # [R, 5] (image, then xyxy in pixels of the view); row r is the same object in all views

    @property
    def sides(self) -> tuple[int, ...]:
        """Return the sides of the views in pixels."""
        return tuple(int(each.shape[-1]) for each in self.pixels)


class PretrainingMethod(Method[PretrainingConfig, ViewBatch]):
    """A method that learns from images without labels."""

    settings: ClassVar[type[PretrainingSection]] = PretrainingSection
    config: PretrainingSection
    spread: float | None = None
    """How much projections of different boxes differ, of the last step, over all ranks; see `similarity.spread`."""

    @property
    def has_rpn(self) -> bool:
        """Whether there are region proposals."""
        return False

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """Nothing changes on the way."""
        return ()

    def schedule(self) -> LabelSchedule:
        """No step needs labels: boxes are data."""
        return LabelSchedule.none()

    def build_model(self, num_classes: int) -> PretrainingModel:
        """Return the networks, from random weights unless `model.weights` names some."""
        return PretrainingModel(self.run.model, has_rpn=self.has_rpn)

    def after_step(self, student: PretrainingModel, step: int) -> None:
        """Let the target follow, as update k = step + 1 of K: the one before the next step's target forward.

        Update 0 would average two equal networks.
        """
        student.update_target(keep_rate(self.config.ema_momentum_start, step + 1, self.run.length))

    def update(
        self, state: Any, batch: ViewBatch, per_view: Mapping[str, Tensor], sums: Mapping[str, Tensor], group: Group
    ) -> None:
        """Note how much the projections differ."""
        if MOMENTS in sums:
            self.spread = spread(sums[MOMENTS])

    # --- the similarity of boxes --------------------------------------------------------------------------------------

    def show(self, student: PretrainingModel, batch: ViewBatch, views: Sequence[int]) -> Shown:
        """Return the pyramids of some views (0 to 2) by the online branch, in this order."""
        device = next(student.parameters()).device
        pixels = tuple(normalised(each, device) for each in batch.pixels)
        features = tuple(student.features(pixels[view]) for view in views)
        return Shown(pixels, features, tuple(rois_of(to_device(each, device)) for each in batch.boxes))

    def compare(
        self, student: PretrainingModel, batch: ViewBatch, shown: Shown
    ) -> tuple[dict[str, LossTerm], dict[str, Tensor], Tensor]:
        """Return L_sim and its mirror, figures per image, and the moments of the projections of V1.              (7)

        Each is the mean over boxes; with K boxes an image that is the mean over images of Eq. 6's.
        """
        online = [self._projected(student, *each) for each in zip(shown.features, shown.rois, shown.sides, strict=True)]
        said = [student.predictor(rows) for rows in online]  # v, (5)
        with torch.no_grad():  # in the mode it is in: norms of the target use its own forward's statistics
            wanted = [
                self._projected(student.target, student.target.features(pixels), rois, side)
                for pixels, rois, side in zip(shown.pixels, shown.rois, shown.sides, strict=True)
            ]
        ahead = disagreement(said[0], (wanted[1], wanted[2]))
        back = swapped(wanted[0], (said[1], said[2]))
        count = torch.tensor(len(ahead))
        terms = {"det/sim": LossTerm(ahead.sum(), count, IMAGES), "det/swapped": LossTerm(back.sum(), count, IMAGES)}
        alike = -(ahead.detach() + back.detach()) / 8  # the mean of four cosines
        figures = {"similarity": _per_image(alike, shown.rois[0], len(batch.image_ids)), **self.facts(batch, shown)}
        return terms, figures, moments(online[0])

    def facts(self, batch: ViewBatch, shown: Shown) -> dict[str, Tensor]:
        """Return what boxes are like, per image `[B]`: fallbacks, repetitions, shares of the pyramid's levels."""
        number, bounds = len(batch.image_ids), self.run.model.level_bounds
        rois = torch.cat(shown.rois)
        level_of = levels(rois[:, 1:], bounds)
        shares = {
            f"level_{level}": _per_image((level_of == level).float(), rois, number) for level in range(len(bounds) + 1)
        }
        facts = to_device(batch.facts, rois.device)
        return {"fallback": facts[:, 0], "repeated": facts[:, 1], **shares}

    def _projected(self, branch: Branch, features: list[Tensor], rois: Tensor, side: int) -> Tensor:
        """Return z = p(g(RoIAlign(f, b))) `[R, D]`.                                                      (2) to (5)"""
        return branch.project(features, rois, side)

    # --- looking at it ------------------------------------------------------------------------------------------------

    def explain_barren(self, window: Window) -> Alarm | None:
        """Say that all boxes get the same projection, and why, or that there are hardly any boxes."""
        sums, after = window.sums, self.config.alarm_after_steps
        images = sums.get("count/fallback", 0.0)
        fallback = sums.get("sum/fallback", 0.0) / images if images else 0.0
        is_flat = self.spread is not None and self.spread < self.config.collapse_std
        if is_flat:
            return Alarm("collapse", self._collapse(sums, fallback), after)
        if fallback > FEW_OWN_BOXES:
            return Alarm("few_proposals", f"{_without_boxes(fallback)} {_MORE_BOXES}", after)
        return None

    def _collapse(self, sums: Mapping[str, float], fallback: float) -> str:
        """Return what a collapse looks like here, and its most likely cause."""
        known = sums.get("count/similarity", 0.0)
        alike = sums.get("sum/similarity", 0.0) / known if known else 0.0
        norms = self.run.model.fpn_norm
        said = (
            f"the projections of different boxes vary by {self.spread:.1%} of what is healthy (below "
            f"method.collapse_std={self.config.collapse_std:g}), and online and target branch agree to {alike:.2f}: "
        )
        if fallback > FEW_OWN_BOXES:
            return f"{said}{_without_boxes(fallback)} Whole views look alike. {_MORE_BOXES}"
        if alike < ALIKE:
            return (
                f"{said}the loss is high all the same, so this is the optimiser's doing, or the beginning: lower "
                f"optim.lr={self.run.optim.lr:g}, or raise optim.warmup_steps={self.run.optim.warmup_steps}"
            )
        if norms != "batch":
            return (
                f"{said}the network has collapsed to one point. model.fpn_norm={norms} sees one image at a time, so "
                f"nothing keeps boxes apart: use model.fpn_norm=batch, or a lower optim.lr={self.run.optim.lr:g}"
            )
        return (
            f"{said}the network has collapsed to one point. The target follows too fast for this learning rate: lower "
            f"optim.lr={self.run.optim.lr:g}, raise method.ema_momentum_start={self.config.ema_momentum_start:g} or "
            f"optim.labeled_batch={self.run.optim.labeled_batch}"
        )

    def notes(self, sizes: DataSizes) -> list[str]:
        """Say how many epochs the run is."""
        batch = self.run.optim.labeled_batch
        epochs = self.run.length * batch / max(1, sizes.labeled)
        return [f"{epochs:.1f} epochs of {sizes.labeled / batch:.1f} steps; every image in three views"]


_MORE_BOXES = (
    "Look at the report's views, and make more proposals with raydet proposals: another --scale or --min-size, wider "
    "--aspect-range or --sqrt-area-range"
)


def _without_boxes(share: float) -> str:
    return f"of {share:.0%} of the images no proposal is in all views, so that the whole view is their one box."


def _per_image(rows: Tensor, rois: Tensor, number: int) -> Tensor:
    """Return the mean `[number]` of the rows `[R]` of each image; NaN where it has none."""
    owner = rois[:, 0].long()
    zeros = torch.zeros(number, device=rows.device)
    return zeros.index_add(0, owner, rows) / zeros.index_add(0, owner, torch.ones_like(rows))
