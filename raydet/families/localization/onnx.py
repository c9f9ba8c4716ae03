"""A saved localizer as one ONNX file: from the pixels of one test view to its box and its class logits.

Input `image`: uint8 `[3, S, S]`, RGB, S = `data.views.size`: the image squeezed (and cut) as `data.views.test_view`
says. Outputs: `box` float32 `[4]` xyxy in pixels of the input; `logits` float32 `[N]` in the order of the metadata's
`class_names`. Normalisation and both networks are inside. onnxruntime runs the file on images of the run, and it gets
its name only if it says what PyTorch says.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from raydet.errors import UserError
from raydet.families.localization.data import LOCATED
from raydet.families.localization.evaluate import views_of
from raydet.families.localization.saved import SavedLocalizer
from raydet.files import replacing_path
from raydet.text import plural
from raydet.vision.onnx import OPSET, check_packages, quiet

CHECKED_IMAGES = 3  # of the run; noise comes on top
TOLERANCE_PX, TOLERANCE_LOGITS = 0.1, 1e-2


class OneImage(nn.Module):
    """Both networks on one test view."""

    def __init__(self, saved: SavedLocalizer) -> None:
        super().__init__()
        self.model, self._method = saved.model, saved.method

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return box `[4]` in pixels and logits `[N]` of `image` `[3, S, S]` uint8."""
        pixels = (image.float() / 255)[None]
        logits = self.model.classifier(pixels).logits
        box = self._method.locate(self.model, pixels, logits.argmax(dim=1))[0, 0]
        return box * image.shape[-1], logits[0]


def export_onnx(saved: SavedLocalizer, out: Path, *, size: str | None = None) -> str:
    """Write both networks to `out`; return what was written and how far it is from PyTorch.

    Raises UserError where the `onnx` extra is missing, where the method has no localizer, and where the file does not
    say what PyTorch says (it is then not written).
    """
    if size is not None:
        raise UserError(
            f"--size {size}: a localizer's file takes the views that it was trained on, data.views.size="
            f"{saved.config.data.views.size} square; leave it out"
        )
    check_packages(out)
    if saved.model.localizer is None:
        raise UserError(
            f"--out {out}: ONNX is for runs with a localizer; this one (method.name={saved.config.method.name}) makes "
            f"its boxes of maps. Export FILE.safetensors, or label images with raydet label"
        )
    images = _images_to_check(saved)
    network = OneImage(saved).eval()
    with replacing_path(out) as aside:
        _write(network, images[0], json.dumps(saved.class_names), aside)
        pixels, logits = _compare(network, aside, images)
    side = images[0].shape[-1]
    return (
        f"{out}: {saved.role} at step {saved.checkpoint.step}, input uint8 [3, {side}, {side}] RGB; onnxruntime and "
        f"PyTorch agree on {plural(len(images), 'image')}: boxes within {pixels:.1e} pixels, logits within {logits:.1e}"
    )


def _images_to_check(saved: SavedLocalizer) -> list[Tensor]:
    """Return test views `[3, S, S]` uint8: some of the run's, and one of noise."""
    data = LOCATED.open(saved.checkpoint.path.parents[1] / "data")
    index = data.val if data.val is not None else data.labeled
    seen = views_of(index, range(min(CHECKED_IMAGES, len(index))), saved.config.data.views).pixels
    noise = torch.randint(256, seen[0].shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return [*seen, noise]


def _write(network: OneImage, image: Tensor, class_names: str, file: Path) -> None:
    with quiet():
        program = torch.onnx.export(
            network,
            (image,),
            input_names=["image"],
            output_names=["box", "logits"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["class_names"] = class_names
    program.save(file)


def _compare(network: OneImage, file: Path, images: list[Tensor]) -> tuple[float, float]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    pixels, logits = 0.0, 0.0
    for image in images:
        with torch.no_grad():
            expected = network(image)
        found = (torch.from_numpy(each) for each in session.run(None, {"image": image.numpy()}))
        box, said = ((one - other).abs().max() for one, other in zip(expected, found, strict=True))
        pixels, logits = max(pixels, float(box)), max(logits, float(said))
    if not (pixels <= TOLERANCE_PX and logits <= TOLERANCE_LOGITS):
        raise UserError(
            f"the ONNX file does not say what PyTorch says (boxes differ by {pixels:g} pixels, logits by {logits:g}); "
            f"it was not written. Export to FILE.safetensors, and please report this with the versions of torch, "
            f"onnxscript and onnxruntime"
        )
    return pixels, logits
