"""Pictures: the three views of some images, with a colour for each box."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw

from raydet.errors import DataError
from raydet.families.pretraining.loader import views_of
from raydet.families.pretraining.report.inputs import PretrainingInputs
from raydet.families.pretraining.views import ThreeViews
from raydet.randomness import stream
from raydet.report.page import Pictures, Section, grid, paragraph
from raydet.vision.pictures import to_picture

SHOWN = 6  # images
SIDE_PX = 224
COLOURS = ((239, 68, 68), (34, 197, 94), (59, 130, 246), (250, 204, 21), (217, 70, 239), (34, 211, 238))


def views(run: PretrainingInputs, pictures: Pictures) -> Section:
    """Draw what training sees: V1, V2 and V3 of some images side by side, a box in the same colour in each."""
    title = "Views and their boxes"
    if run.data is None or run.proposals is None:
        return Section(title, [paragraph(run.no_data, "absent")])
    images, shown = run.data.labeled, []
    for number in range(min(SHOWN, len(images))):
        row = number * len(images) // min(SHOWN, len(images))
        rng = stream(run.config.seed, "three views", images.id_at(row), 0, number)
        try:
            seen = views_of(images, run.proposals, run.config, run.method.num_boxes, row, rng)
        except DataError as error:
            return Section(title, [paragraph(f"An image cannot be read: {error}", "absent")])
        note = ": no proposal is in all views, or there is none" if seen.is_fallback else ""
        shown.append(pictures.figure(f"views_{row:06d}.jpg", _jpeg(_drawn(seen)), f"{images.id_at(row)}{note}"))
    lead = "V1, V2 and V3 of an image as training sees them. A box has the same colour in all three."
    return Section(title, [paragraph(lead), grid(shown)])


def _drawn(seen: ThreeViews) -> Image.Image:
    """Return the three views side by side, each as large as it is beside the others."""
    scale = SIDE_PX / seen.pixels[0].shape[-1]
    sides = [round(each.shape[-1] * scale) for each in seen.pixels]
    page = Image.new("RGB", (sum(sides), max(sides)), (255, 255, 255))
    left = 0
    for pixels, boxes, side in zip(seen.pixels, seen.boxes.tolist(), sides, strict=True):
        view = to_picture(pixels).resize((side, side))
        draw = ImageDraw.Draw(view)
        for box, name in reversed(list(zip(boxes, seen.ids.tolist(), strict=True))):
            place = seen.ids.tolist().index(name)
            x1, y1, x2, y2 = (value * scale for value in box)
            draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=COLOURS[place % len(COLOURS)], width=2)
        page.paste(view, (left, 0))
        left += side
    return page


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=85)
    return stream.getvalue()
