"""Pictures: the boxes of each stage in colour, and the attention before and after masking."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from raydet.errors import UserError
from raydet.families.localization.report.inputs import LocalizationInputs
from raydet.families.localization.snapshot import VAL, Places
from raydet.families.localization.views import eval_view
from raydet.report.page import Pictures, Section, grid, paragraph
from raydet.vision.pictures import to_picture

SIDE_PX = 300
YELLOW, GREEN, BLUE, RED = (250, 204, 21), (34, 197, 94), (59, 130, 246), (239, 68, 68)


def boxes_of_each_stage(run: LocalizationInputs, pictures: Pictures) -> Section:
    """Draw pseudo-boxes yellow, the first stage's boxes green, the second's blue, true ones red (Figs. 2 and 3)."""
    title = "Boxes of each stage"
    stages = [each for each in (run.snapshot_of(span) for span in run.spans) if each is not None]
    if not stages or run.data is None or run.data.val is None or not len(stages[-1][VAL].rows):
        reason = run.no_snapshots or _no_data(run) or "The run has no validation images."
        return Section(title, [paragraph(reason, "absent")])
    val = run.data.val
    colours = (GREEN, BLUE) if len(run.spans) > 1 else (GREEN,)

    def drawn(place: int, row: int) -> list[str]:
        layers = [(run.truth(val, val, row).numpy(), RED)]
        layers += [(stages[0][VAL].pseudo[place : place + 1], YELLOW)]
        layers += [(each[VAL].boxes[place : place + 1], colour) for each, colour in zip(stages, colours, strict=False)]
        content = _jpeg(_drawn(_picture(run, row), layers))
        return [pictures.figure(f"boxes_{row:06d}.jpg", content, val.id_at(row))]

    shown = _of_each(run, stages[-1][VAL].rows, drawn)
    named = [f"{['yellow', 'green', 'blue'][i + 1]}: end of {span.name}" for i, span in enumerate(run.spans[:2])]
    has_pseudo = bool(np.isfinite(stages[0][VAL].pseudo).any())
    lead = "; ".join([*(["yellow: pseudo-label"] if has_pseudo else []), *named, "red: true boxes"])
    return Section(title, [paragraph(f"Validation images, as they are measured. {lead}."), grid(shown, "pairs")])


def attention(run: LocalizationInputs, pictures: Pictures) -> Section:
    """Draw attention maps over their images, before and after the first region is masked (the paper's Fig. 1)."""
    title = "Attention before and after masking"
    found = next(
        (run.snapshots[step][VAL] for step in sorted(run.snapshots) if _has_maps(run.snapshots[step][VAL])), None
    )
    if found is None or run.data is None or run.data.val is None:
        none = "The method does not use Algorithm 1, or there are no validation images."
        return Section(title, [paragraph(run.no_snapshots or _no_data(run) or none, "absent")])
    val, places = run.data.val, found

    def drawn(place: int, row: int) -> list[str]:
        picture, figures = _picture(run, row), []
        pairs = [("image", places.attention, places.first), ("masked", places.masked_attention, places.second)]
        for kind, maps, boxes in pairs:
            if maps[place].size:
                content = _jpeg(_drawn(_heated(picture, maps[place]), [(boxes[place : place + 1], YELLOW)]))
                figures.append(pictures.figure(f"attention_{row:06d}_{kind}.jpg", content, f"{val.id_at(row)}: {kind}"))
        return figures

    shown = _of_each(run, places.rows[:6], drawn)
    lead = "Red: what is looked at. Yellow: the region above the threshold; the pseudo-label is around both of a pair."
    return Section(title, [paragraph(lead), grid(shown, "pairs")])


def _of_each(run: LocalizationInputs, rows: np.ndarray, drawn: Callable[[int, int], list[str]]) -> list[str]:
    """Return the pictures that `drawn` makes of each validation image, by its place and row; or what is wrong with it:
    a picture that cannot be read costs no other one."""
    assert run.data is not None and run.data.val is not None
    found = []
    for place, row in enumerate(rows.tolist()):
        try:
            found += drawn(place, row)
        except UserError as error:
            found.append(paragraph(f"{run.data.val.id_at(row)}: {error}", "absent"))
    return found


def _no_data(run: LocalizationInputs) -> str:
    """Return why there are no images at all; empty where there are."""
    return run.no_truth if run.data is None else ""


def _has_maps(places: Places) -> bool:
    return any(each.size for each in places.attention)


def _picture(run: LocalizationInputs, row: int) -> Image.Image:
    assert run.data is not None and run.data.val is not None
    viewed, _ = eval_view(run.data.val.pixels_at(row), run.config.data.views)
    return to_picture(viewed).resize((SIDE_PX, SIDE_PX))


def _drawn(image: Image.Image, layers: list[tuple[np.ndarray, tuple[int, int, int]]]) -> Image.Image:
    """Draw boxes (shares of the view) on a picture; those that are not finite or have no inside are left out."""
    draw = ImageDraw.Draw(image)
    for boxes, colour in layers:
        for box in boxes:
            if np.isfinite(box).all() and (box[2:] > box[:2]).all():
                x1, y1, x2, y2 = (float(value) * (SIDE_PX - 1) for value in box)
                draw.rectangle((x1, y1, x2, y2), outline=colour, width=3)
    return image


def _heated(image: Image.Image, attention: np.ndarray) -> Image.Image:
    """Lay a map in [0, 1] over a picture, red where it is high."""
    enlarged = Image.fromarray(np.uint8(255 * attention)).resize(image.size, Image.Resampling.BILINEAR)
    share = np.asarray(enlarged, dtype=np.float32)[:, :, None] / 255
    pixels = np.asarray(image, dtype=np.float32)
    return Image.fromarray(np.uint8(pixels * (1 - 0.65 * share) + np.array(RED) * 0.65 * share))


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=82)
    return stream.getvalue()
