"""Classifier retraining (Kang et al., ICLR 2020, "Decoupling Representation and Classifier for Long-Tailed
Recognition"), on Soft or Unbiased Teacher.

First the host trains as it does. Then everything is frozen but the last layer of the RoI classifier, which goes on with
labelled images listed so that classes are met equally often: image I max_c f_max / f_c times in an epoch.

Deviations CRT-D1: the layer goes on from its weights, it does not start anew; CRT-D2: pseudo-boxes go on training it
too. See `docs/methods/long_tail_baselines.md`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from raydet.contract import DataSizes, LossTerm, Outputs, ParamGroup
from raydet.data.order import Listing
from raydet.families.detection.batch import StudentBatch
from raydet.families.detection.hosts import HostedMethod, classes_of
from raydet.families.detection.long_tail_config import ClassifierRetrainingConfig
from raydet.families.detection.methods.soft_teacher import cls_terms
from raydet.families.detection.repeats import (
    balanced_factors,
    class_frequencies,
    image_factor,
    images_per_class,
    rounded,
)
from raydet.vision import losses

CLASSIFIER = "roi_heads.box_predictor.cls_score."


class ClassifierRetraining(HostedMethod):
    """The last layer of the classifier trains once more, on balanced classes."""

    settings = ClassifierRetrainingConfig
    config: ClassifierRetrainingConfig
    unseen_by_burn_in = HostedMethod.host_unseen_by_burn_in | {"retrain_from_step", "most_repeats"}

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """The burn-in's end, and the step from which on only the classifier trains."""
        return (*super().stage_ends, self.config.retrain_from_step)

    @property
    def fresh_optimizer_at(self) -> tuple[int, ...]:
        """The classifier starts without momentum."""
        return (self.config.retrain_from_step,)

    def param_groups(self) -> list[ParamGroup]:
        """The classifier, and the rest, which is frozen in the end."""
        first = self.config.retrain_from_step
        return [
            ParamGroup("classifier", lambda name: name.startswith(CLASSIFIER), self.lr_at),
            ParamGroup("rest", lambda name: True, lambda step: self.lr_at(step) if step < first else None),
        ]

    def losses(self, student: Any, batch: StudentBatch, teacher: Any, state: Any) -> Outputs:
        """Return all terms; in the end only that of the RoI classes has elements."""
        found = self.host.forward(student, batch, teacher, self.config.cls_pseudo_threshold)
        rows = losses.focal_cross_entropy(found.roi.logits, found.roi.labels, self.config.cls_focal_exponent)
        classes = cls_terms(batch, found.roi, rows * found.weights, found.weights)
        terms = found.terms
        if batch.step >= self.config.retrain_from_step:
            none = LossTerm(rows[:0].sum(), torch.tensor(0.0))
            terms = {name: term if name.startswith("unsup/boxes") else none for name, term in terms.items()}
        return Outputs(terms | classes)

    def listings(self, state: Any, sizes: DataSizes) -> list[Listing]:
        """List labelled images by the host's rule, then by balanced classes."""
        if sizes.sets is None:
            return []
        classes = classes_of(sizes.sets.labeled)
        frequencies = class_frequencies(images_per_class(classes, sizes.classes), len(classes))
        factors = balanced_factors(frequencies, self.config.most_repeats)
        every = rounded(np.array([image_factor(each, factors) for each in classes]), self.config.repeat_rounding)
        return [*super().listings(state, sizes), Listing("labeled", self.config.retrain_from_step, every)]
