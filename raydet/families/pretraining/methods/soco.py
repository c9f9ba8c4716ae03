"""SoCo (Wei et al., "Aligning Pretraining for Detection via Object-Level Contrastive Learning", NeurIPS 2021), as ADePT
(Dong et al., arXiv 2211.09022, Section 3.3) writes it down.

Of box i in views V1, V2, V3, by the online branch theta and the target xi, whose gradient is stopped:

    v = q(p(g(RoIAlign(f(V1), b_i)))),  v' = p(g(RoIAlign(f(V2), b_i))),  v'' the same of V3              (2) to (5)
    L_sim = 1/K sum_i [-2 cos(v, v') - 2 cos(v, v'')]                                                          (6)
    L_det = L_sim + the same with V1 through the target and V2, V3 through the online branch                   (7)
    xi_k = m_k xi + (1 - m_k) theta,   m_k = 1 - (1 - m_0) (cos(pi k / K) + 1) / 2           before each step

| paper | code |
|---|---|
| K | method.num_boxes |
| f, g | backbone, roi_heads.box_head |
| p, q | projector, predictor |
| m_0 | method.ema_momentum_start |

Deviations and what the papers leave open are in docs/methods/adept.md.
"""

from __future__ import annotations

from typing import Any

from raydet.contract import Outputs
from raydet.families.pretraining.batch import ViewBatch
from raydet.families.pretraining.method import MOMENTS, PretrainingMethod
from raydet.families.pretraining.model import PretrainingModel


class Soco(PretrainingMethod):
    """Boxes of one image look alike in three views."""

    @property
    def loss_weights(self) -> dict[str, float]:
        """The loss and its mirror."""
        return {"det/sim": 1.0, "det/swapped": 1.0}

    def losses(self, student: PretrainingModel, batch: ViewBatch, teacher: Any, state: Any) -> Outputs:
        """Return L_det.                                                                                        (7)"""
        terms, figures, moments = self.compare(student, batch, self.show(student, batch, (0, 1, 2)))
        return Outputs(terms, figures, {MOMENTS: moments})
