"""Which images only some classifiers get right: the section that classification adds to a page that compares runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from raydet.data.classes.index import ImageIndex
from raydet.errors import UserError
from raydet.families.classification.data import IMAGES
from raydet.families.classification.evaluate import predict
from raydet.families.classification.report.gallery import class_picture
from raydet.report.compare.runs import Compared
from raydet.report.page import Pictures, Section, grid, heading, paragraph, table
from raydet.text import plural
from raydet.train.saved import SavedModel, load_saved

TITLE = "Where they differ"
MOST_RUNS = 4
SHOWN = 8  # images of each kind


def makers_for(max_images: int) -> Sequence[Callable[[Compared, Pictures], Section]]:
    """Return the section's maker."""
    return [partial(differences, max_images=max_images)] if max_images else []


def differences(compared: Compared, pictures: Pictures, *, max_images: int) -> Section:
    """Run the newest models on some validation images; count and show those that only some get right."""
    runs = compared.examples(MOST_RUNS)
    try:
        index = IMAGES.open(runs[0].folder / "data").val
        assert index is not None  # the runs were evaluated on it
        rows = compared.rows_to_show(index, max_images)
        models = [load_saved(run.folder) for run in runs]
        count = f"{plural(len(models), 'model')} on {plural(len(rows), 'image')}"
        print(f"raydet: looking for images that only some get right: {count}", file=sys.stderr, flush=True)
        said = np.stack([_classes(model, index, rows) for model in models])
    except UserError as error:
        return Section(TITLE, [paragraph(f"No pictures: {error}", "absent")])
    truth = index.labels()[rows]
    right = (said == truth) & (truth >= 0)
    names = [compared.names[run.folder] for run in runs]
    steps = ", ".join(f"{n}: {m.role} of step {m.checkpoint.step}" for n, m in zip(names, models, strict=True))
    lead = f"The newest models ({steps}) on {plural(len(rows), 'validation image')}."
    cells = [[name, *counts] for name, counts in zip(names, agreement(right), strict=True)]
    body = [paragraph(lead), table(["right, where beside it is wrong", *names], cells)]
    for place, name in enumerate(names):
        alone = np.flatnonzero(right[place] & (right.sum(axis=0) == 1))[:SHOWN]
        shown = [
            _picture(f"compare_{place}_{i}.png", index, rows[i], np.delete(said[:, i], place), pictures)
            for i in alone.tolist()
        ]
        body += [heading(f"Only {name} is right"), grid(shown, "thumbs") if shown else paragraph("Nowhere.", "absent")]
    return Section(TITLE, body)


def agreement(right: NDArray[np.bool_]) -> list[list[str]]:
    """Return, for models `[R, n]`, how many images each gets right where each other one is wrong."""
    return [
        ["–" if a == b else str(int((right[a] & ~right[b]).sum())) for b in range(len(right))]
        for a in range(len(right))
    ]


def _classes(saved: SavedModel, index: ImageIndex, rows: list[int]) -> NDArray[np.int64]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = saved.model.to(device)
    found = predict(model, index, rows, saved.config.data.views, device)  # type: ignore[arg-type, attr-defined]
    return found.logits.argmax(dim=1).numpy()


def _picture(name: str, index: ImageIndex, row: int, others: NDArray[np.int64], pictures: Pictures) -> str:
    """Return an image, with its class and what the other models take it for; or what is wrong with it."""
    classes = index.class_names
    try:
        content = class_picture(index.pixels_at(row).numpy())
    except UserError as error:
        return paragraph(f"{index.name_at(row)}: {error}", "absent")
    taken = ", ".join(classes[k] for k in dict.fromkeys(others.tolist()))
    return pictures.figure(name, content, f"{classes[index.label_at(row)]}; taken for {taken}")
