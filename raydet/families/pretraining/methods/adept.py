"""ADePT (Dong et al., "Label-Efficient Object Detection via Region Proposal Network Pre-Training", arXiv 2211.09022).

SoCo's loss L_det (`soco.py`, Eqs. 2 to 7), and region proposals c, o, d that learn the K proposals b_i of a view:

    p = o(c(f(V1))),  t = d(c(f(V1)))
    L_RPN = 1/N_cls sum_i CE(p_i, p_i*) + lambda 1/N_reg sum_i p_i* smoothL1(t_i, t_i*)                          (1)
    L = L_RPN + L_det                                                                                           (8)

An anchor's label p* is 1 from an IoU of 0.7 with any b_i on, or where it is the best one of a b_i; 0 below 0.3; else it
counts not at all. `joint`: the gradient of L_RPN ends before f (`backbone_loss: det`). `separate`: only c, o and d are
trained, by L_RPN, on SoCo's network.

| paper | code |
|---|---|
| K | method.num_boxes |
| lambda | method.rpn_reg_weight |
| N_cls, N_reg | model.rpn_batch |
| c, o, d | rpn.head |

Deviations and what the paper leaves open are in docs/methods/adept.md.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from raydet.contract import LossTerm, Outputs, ParamGroup
from raydet.errors import CheckpointError
from raydet.families.pretraining.batch import IMAGES, ViewBatch
from raydet.families.pretraining.config import AdeptConfig
from raydet.families.pretraining.method import MOMENTS, PretrainingMethod, Shown
from raydet.families.pretraining.model import RPN, PretrainingModel
from raydet.families.pretraining.views import MIN_SIDE_PX
from raydet.randomness import stream
from raydet.train.saved import load_saved
from raydet.vision.device import all_to_device, to_device
from raydet.vision.pretrained import is_skipped
from raydet.vision.rpn import AnchorScores, proposals, rpn_losses
from raydet.vision.weights import load_tensors


class Adept(PretrainingMethod):
    """SoCo, and region proposals that learn where it looks."""

    settings = AdeptConfig
    config: AdeptConfig

    @property
    def has_rpn(self) -> bool:
        """There are region proposals."""
        return True

    @property
    def loss_weights(self) -> dict[str, float]:
        """Those of the mode."""
        own = {"rpn/cls": 1.0, "rpn/reg": self.config.rpn_reg_weight}
        return {"det/sim": 1.0, "det/swapped": 1.0, **own} if self.config.trains_all else own

    def build_model(self, num_classes: int) -> PretrainingModel:
        """Return the networks; in `separate` mode SoCo's, with fresh region proposals.

        Raises CheckpointError where `method.soco_checkpoint` cannot be read, or is of another network.
        """
        model = PretrainingModel(self.run.model, has_rpn=True, trains_all=self.config.trains_all)
        if self.config.soco_checkpoint is not None and not is_skipped():
            load_soco(model, Path(self.config.soco_checkpoint))
        return model

    def param_groups(self) -> list[ParamGroup]:
        """One law; in `separate` mode everything but the region proposals is frozen."""
        if self.config.trains_all:
            return super().param_groups()
        return [
            ParamGroup("rpn", lambda name: name.startswith(RPN), self.lr_at),
            ParamGroup("frozen", lambda name: True, lambda step: None),
        ]

    def after_step(self, student: PretrainingModel, step: int) -> None:
        """Let the target follow what is trained."""
        if self.config.trains_all:
            super().after_step(student, step)

    def losses(self, student: PretrainingModel, batch: ViewBatch, teacher: Any, state: Any) -> Outputs:
        """Return L_det and L_RPN, or L_RPN alone.                                                              (8)"""
        looked = [view - 1 for view in self.config.rpn_views]
        if not self.config.trains_all:
            with torch.no_grad():
                shown = self.show(student, batch, looked)
            scores = [student.score_anchors(features) for features in shown.features]
            terms, on_boxes = self.rpn_terms(student, batch, scores)
            return Outputs(terms, {**self.facts(batch, shown), **on_boxes})
        shown = self.show(student, batch, (0, 1, 2))
        scores = [student.score_anchors(self._for_rpn(shown.features[view])) for view in looked]
        if self.config.det_proposals == "ss+rpn":
            shown = self._with_own_proposals(batch, shown, scores[0], looked[0])
        terms, figures, moments = self.compare(student, batch, shown)
        rpn_terms, on_boxes = self.rpn_terms(student, batch, scores)
        return Outputs({**terms, **rpn_terms}, {**figures, **on_boxes}, {MOMENTS: moments})

    def rpn_terms(
        self, student: PretrainingModel, batch: ViewBatch, scores: list[AnchorScores]
    ) -> tuple[dict[str, LossTerm], dict[str, Tensor]]:
        """Return both parts of L_RPN, and per image `[B]` which share of the drawn anchors lies on a box.          (1)

        Anchors are drawn by image, view and step.
        """
        assert student.rpn is not None
        config, seed = self.run.model, self.run.seed
        cls, reg, drawn = [], [], []
        for view, said in zip(self.config.rpn_views, scores, strict=True):
            truth = all_to_device(_distinct(batch.boxes[view - 1], batch.box_ids), said.anchors.device)
            places = zip(batch.image_ids, batch.slots, strict=True)
            rngs = [stream(seed, "anchors", image, batch.step, slot, view) for image, slot in places]
            objectness, distance, on_boxes = rpn_losses(said, truth, rngs, matcher=student.rpn.matcher, config=config)
            cls.append(objectness.sum())
            reg.append(distance.sum())
            drawn.append(on_boxes)
        count = torch.tensor(len(batch.image_ids) * config.rpn_batch * len(scores))
        terms = {
            "rpn/cls": LossTerm(torch.stack(cls).sum(), count, IMAGES),
            "rpn/reg": LossTerm(torch.stack(reg).sum(), count, IMAGES),
        }
        share = torch.stack(drawn).float().mean(dim=0) / config.rpn_batch
        return terms, {"anchors": to_device(share, cls[0].device)}

    def _for_rpn(self, features: list[Tensor]) -> list[Tensor]:
        """Stop the gradient of L_RPN before the pyramid, unless it is wanted there."""
        return features if self.config.backbone_loss == "det+rpn" else [each.detach() for each in features]

    def _with_own_proposals(self, batch: ViewBatch, shown: Shown, scores: AnchorScores, view: int) -> Shown:
        """Return the views with the best proposals of the network as more boxes, where all three show them."""
        number, side = len(batch.image_ids), shown.sides[view]
        # As if there were one level: the best anchors of all levels together go into NMS.
        whole = replace(scores, level_sizes=(scores.objectness.shape[1],))
        found = proposals(
            whole,
            [(side, side)] * number,
            pre_nms=self.config.rpn_pre_nms,
            post_nms=self.config.num_boxes,
            nms_iou=self.run.model.rpn_nms,
        )
        rows = torch.cat([torch.cat([torch.full_like(own[:, :1], i), own], dim=1) for i, own in enumerate(found)])
        matrices = to_device(batch.matrices, rows.device)
        moved = [carried(rows, matrices, view, to, size) for to, size in enumerate(shown.sides)]
        sides = torch.stack([(each[:, 3:] - each[:, 1:3]).amin(dim=1) for each in moved])
        is_seen = (sides >= MIN_SIDE_PX).all(dim=0)
        rois = tuple(torch.cat([old, new[is_seen]]) for old, new in zip(shown.rois, moved, strict=True))
        return Shown(shown.pixels, shown.features, rois)


def carried(rois: Tensor, matrices: Tensor, view: int, to: int, side: int) -> Tensor:
    """Return boxes `[R, 5]` of one view in pixels of another, clipped to its `side`; `matrices` `[B, 3, 4]`: see
    `ViewBatch`."""
    owner, boxes = rois[:, 0].long(), rois[:, 1:].double()
    (a, tx, d, ty), (e, ux, h, uy) = matrices[owner, view].T, matrices[owner, to].T
    x = (boxes[:, 0::2] - tx[:, None]) / a[:, None] * e[:, None] + ux[:, None]
    y = (boxes[:, 1::2] - ty[:, None]) / d[:, None] * h[:, None] + uy[:, None]
    around = torch.stack([x.amin(dim=1), y.amin(dim=1), x.amax(dim=1), y.amax(dim=1)], dim=1)  # a flip swaps corners
    return torch.cat([rois[:, :1], clip_boxes_to_image(around, (side, side)).to(rois.dtype)], dim=1)


def load_soco(model: PretrainingModel, path: Path) -> None:
    """Take over all but the region proposals from a run or checkpoint folder. Raises CheckpointError."""
    where = f"method.soco_checkpoint={path}"
    saved = load_saved(path, role="student")
    theirs = saved.model.state_dict()
    if not isinstance(saved.model, PretrainingModel):
        raise CheckpointError(
            f"{where}: was made by method.name={saved.config.method.name}, which trains a {saved.config.trains}; name "
            f"a run of method.name=soco"
        )
    own = {name: value for name, value in model.state_dict().items() if name.startswith(RPN)}
    tensors = {name: value for name, value in theirs.items() if not name.startswith(RPN)}
    load_tensors(model, {**own, **tensors}, f"{where}: its tensors")


def _distinct(boxes: Tensor, ids: Tensor) -> list[Tensor]:
    """Return each image's boxes of `[B, K, 4]` once, in order; `ids` `[B, K]` say which are the same."""
    found = []
    for own, names in zip(boxes, ids.tolist(), strict=True):
        first = [place for place, name in enumerate(names) if name not in names[:place]]
        found.append(own[first])
    return found
