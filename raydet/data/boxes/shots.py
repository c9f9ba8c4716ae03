"""K shots of every class: which boxes stay, and with them which images are labelled.

The protocol of few-shot detection (Kang et al., ICCV 2019; Wang et al., ICML 2020): of every class exactly K boxes are
labelled. What else is annotated in the images that were picked is not known, so it counts as background there.

The boxes of a class have an order of their own, which depends on the seed, the class's name and the images' ids: image
by image in a shuffle, within an image shuffled too. The first K are labelled. So more shots contain the fewer, and of
the images that were picked the same boxes are chosen again, whether the others are at hand or not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydet.data.boxes.source import Table
from raydet.errors import DataError
from raydet.randomness import derive_seed
from raydet.text import some


def chosen_boxes(table: Table, shots: int, seed: int) -> NDArray[np.bool_]:
    """Return a mask `[B]` of the boxes of `table` that are labelled: exactly `shots` of each class, none of them crowd.

    Raises DataError that names the classes with fewer boxes, and how many they have.
    """
    counts = table.usable_per_class()
    short = [f"{table.class_names[c]!r} has {counts[c]:,}" for c in np.flatnonzero(counts < shots)]
    if short:
        raise DataError(
            f"data.shots_per_class is {shots:,}, but of the boxes to train on class {some(short)}; lower it, add "
            f"boxes, or leave such classes out (data.labeled.class_map: {{NAME: null}})"
        )
    rows, first = table.box_rows(), table.first
    chosen = np.zeros(len(table.classes), dtype=np.bool_)
    for number, name in enumerate(table.class_names):
        own = np.flatnonzero((table.classes == number) & ~table.crowd)
        images = {row: derive_seed(seed, "shots", name, table.ids[row]) for row in set(rows[own].tolist())}
        keys = [
            (images[row], derive_seed(seed, "shots", name, table.ids[row], box - int(first[row])))
            for box, row in zip(own.tolist(), rows[own].tolist(), strict=True)
        ]
        order = sorted(range(len(own)), key=keys.__getitem__)
        chosen[own[order[:shots]]] = True
    return chosen
