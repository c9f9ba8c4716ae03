"""How often images are listed in an epoch, from the classes that are in them: repeat factor sampling (RFS, Gupta et
al., CVPR 2019), class-rebalancing sampling (CrS, Li et al., ICCV 2023), and listing classes equally often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raydet.records import PseudoBoxes, PseudoLabel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def class_frequencies(images_with: Ints, images: int) -> Floats:
    """Return f_c `[n]`: the share of images that hold a class."""
    return images_with / max(images, 1)


def class_factors(frequencies: Floats, threshold: float) -> Floats:
    """Return r_c = max(1, sqrt(t / f_c)) `[n]`; 1 for classes that are nowhere."""
    there = frequencies > 0
    return np.where(there, np.maximum(1.0, np.sqrt(threshold / np.where(there, frequencies, 1.0))), 1.0)


def balanced_factors(frequencies: Floats, most: float) -> Floats:
    """Return f_max / f_c `[n]`, at most `most`: listed so often, all classes are met equally often."""
    there = frequencies > 0
    return np.where(there, np.minimum(frequencies.max(initial=0.0) / np.where(there, frequencies, 1.0), most), 1.0)


def image_factor(classes: Sequence[int] | Ints, factors: Floats) -> float:
    """Return r_I = max_c r_c over the classes of an image; 1 without any."""
    return float(max(1.0, factors[np.asarray(classes, dtype=np.int64)].max(initial=1.0)))


def crs_image_factor(classes: Ints, margins: Floats, factors: Floats) -> float:
    """Return r_I = max(1, max_j r_{c_j} * margin_j): a margin, score - theta_c, says how sure box j is."""
    return float(max(1.0, (factors[classes] * margins).max(initial=1.0)))


def crs_threshold(step: int, steps: int, highest: float) -> float:
    """Return lambda(t) = min(gamma t / T, gamma)."""
    return min(highest * step / steps, highest)


def images_per_class(classes_of: Iterable[Sequence[int] | Ints], num_classes: int) -> Ints:
    """Return in how many images each class is `[n]`."""
    counts = np.zeros(num_classes, dtype=np.int64)
    for classes in classes_of:
        counts[np.unique(np.asarray(classes, dtype=np.int64))] += 1
    return counts


def sure_boxes(labels: Iterable[tuple[int, PseudoLabel]], theta: Tensor) -> dict[int, tuple[Ints, Floats]]:
    """Return class and margin, score - theta_c, of the boxes of each image that reach the threshold of their class.

    `labels` come with their images' rows, `theta` is `[n]`; images without such a box are left out.
    """
    found = {}
    for row, label in labels:
        assert isinstance(label, PseudoBoxes)
        margins = label.scores - theta[label.classes]
        sure = margins >= 0
        if bool(sure.any()):
            found[row] = label.classes[sure].numpy(), margins[sure].double().numpy()
    return found


def rounded(factors: Floats, rounding: Literal["ceil", "stochastic"]) -> Floats:
    """Return what the order of images takes: whole numbers, or parts that it draws anew every epoch."""
    return np.ceil(factors) if rounding == "ceil" else factors
