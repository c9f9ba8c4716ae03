"""A saved detector as one ONNX file: from the pixels of one image to its detections.

Input `image`: uint8 `[3, H, W]`, RGB. H x W is fixed: the evaluation size of the run's most common image shape; resize
other images to it. Outputs, best first, N varies: `boxes` float32 `[N, 4]` xyxy in pixels of the input; `labels` int64
`[N]`, from 0 on in the order of the metadata's `class_names`; `scores` float32 `[N]`.

Everything is inside: normalisation, padding, backbone, proposals, RoI head, the method's gate, class-wise NMS, the best
`test_detections`. The exporter wants as few data-dependent shapes as possible, so the number of proposals is fixed here
and missing ones are marked; the result is the same. That is not assumed: onnxruntime runs the file on images of the
run, and the file gets its name only if the detections are PyTorch's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, clip_boxes_to_image
from torchvision.transforms.v2 import functional as F

from raydet.errors import UserError
from raydet.families.detection.data import BOXES
from raydet.families.detection.saved import SavedDetector
from raydet.families.detection.views import eval_view
from raydet.files import replacing_path
from raydet.records import Candidates
from raydet.vision.detector import MIN_SIDE_PX, Detector
from raydet.vision.images import IMAGENET_MEAN, IMAGENET_STD, SIZE_DIVISOR, ImageBatch, collate
from raydet.vision.roi import box_coder
from raydet.vision.rpn import MIN_SIDE_PX as MIN_PROPOSAL_SIDE_PX
from raydet.vision.rpn import AnchorScores

OPSET = 18
CHECKED_IMAGES = 3  # of the run; noise comes on top
TOLERANCE_PX, TOLERANCE_SCORE = 0.1, 1e-3
_BOOL = 9  # ONNX's number for the type
_NEVER = -1e30  # a score that no box has
_anchor_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))


def export_onnx(saved: SavedDetector, out: Path) -> str:
    """Write the whole detector to `out`; return what was written and how far it is from PyTorch.

    Raises UserError where the `onnx` extra is missing, and where the file's detections are not PyTorch's (it is then
    not written).
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--out {out}: ONNX needs {', '.join(missing)}: pip install 'raydet[onnx]'")
    if type(saved.model).probabilities is not Detector.probabilities:
        raise UserError(
            f"--out {out}: the scores of method.name={saved.config.method.name} are no softmax, and ONNX export knows "
            f"no other; export to FILE.safetensors"
        )
    images = _images_to_check(saved)
    with replacing_path(out) as aside:
        _write(saved, images[0], aside)
        found = _compare(saved, aside, images)
    height, width = images[0].shape[1:]
    return (
        f"{out}: {saved.role} at step {saved.checkpoint.step}, input uint8 [3, {height}, {width}] RGB; onnxruntime and "
        f"PyTorch agree on {found.detections} detections in {len(images)} images: boxes within {found.pixels:.1e} "
        f"pixels, scores within {found.score:.1e}"
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest differences between two lists of detections."""

    pixels: float
    score: float
    detections: int  # how many were compared


class OneImage(nn.Module):
    """`Method.detect` for one image of a fixed size, with fixed shapes up to the gate."""

    def __init__(self, saved: SavedDetector, size: tuple[int, int]) -> None:
        super().__init__()
        self.model = saved.model
        self.config = saved.config.model
        self.gate = saved.method.gate
        self.size = size
        self.padding = (0, -size[1] % SIZE_DIVISOR, 0, -size[0] % SIZE_DIVISOR)  # left, right, top, bottom

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, labels and scores for pixels `[3, H, W]` uint8."""
        model, config = self.model, self.config
        frame = ImageBatch(self.normalised(image), (self.size,))
        features = model.features(frame)
        rois, exists = self.propose(model.score_anchors(features))
        said = model.score_rois(features, [rois])
        logits, deltas, quality = said.class_logits, said.box_deltas, model.quality(said)
        scores = logits.softmax(dim=1)[:, 1:]  # [P, K]
        boxes = box_coder.decode(deltas, [rois])[:, 1:].flatten(0, 1)
        boxes = clip_boxes_to_image(boxes, self.size)
        classes = torch.arange(scores.shape[1]).repeat(scores.shape[0])
        each = scores.shape[1]
        rows = Candidates(boxes, classes, scores.flatten(), quality.repeat_interleave(each), config.test_score_floor)
        is_real = (rows.scores > config.test_score_floor) & _is_large(boxes, MIN_SIDE_PX)
        rows = self.gate(rows.where(is_real & exists.repeat_interleave(each)))
        rows = rows.where(survives_nms(rows.boxes, rows.scores, rows.classes, model.num_classes, config.test_nms))
        rows = rows.where(rows.scores.sort(descending=True).indices[: config.test_detections])
        return rows.boxes, rows.classes, rows.scores

    def normalised(self, image: Tensor) -> Tensor:
        """Do what `collate` does: `[1, 3, H', W']` float32."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        return nn.functional.pad(((image.float() / 255 - mean) / std)[None], self.padding)

    def propose(self, scores: AnchorScores) -> tuple[Tensor, Tensor]:
        """Return as many proposals `[P, 4]` as there can be, best first, and a mask `[P]` of those that exist."""
        config = self.config
        best, levels, offset = [], [], 0
        for level, size in enumerate(scores.level_sizes):
            top = scores.objectness[0, offset : offset + size].topk(min(config.rpn_pre_nms_test, size)).indices
            best.append(top + offset)
            levels.append(torch.full_like(top, level))
            offset += size
        rows, level_of = torch.cat(best), torch.cat(levels)
        objectness = scores.objectness[0, rows]
        boxes = _anchor_coder.decode_single(scores.deltas[0, rows], scores.anchors[rows])
        boxes = clip_boxes_to_image(boxes, self.size)
        kept = survives_nms(boxes, objectness, level_of, len(levels), config.rpn_nms)
        # Boxes without an inside overlap nothing: whether they go before or after NMS makes no difference.
        kept = kept & _is_large(boxes, MIN_PROPOSAL_SIDE_PX)
        ranked = torch.where(kept, objectness, torch.full_like(objectness, _NEVER))
        values, order = ranked.topk(min(config.rpn_post_nms_test, ranked.shape[0]))
        return boxes[order], values > _NEVER


@torch.library.custom_op("raydet::survives_nms", mutates_args=())
def survives_nms(boxes: Tensor, scores: Tensor, classes: Tensor, num_classes: int, iou: float) -> Tensor:
    """Return a mask `[R]` of the boxes `[R, 4]` that class-wise NMS keeps.

    One operator for the exporter, which cannot follow a list of survivors, and one ONNX node; see `_nms_in_onnx`.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[batched_nms(boxes, scores, classes, iou)] = True
    return kept


@survives_nms.register_fake
def _(boxes: Tensor, scores: Tensor, classes: Tensor, num_classes: int, iou: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def _nms_in_onnx(boxes: Any, scores: Any, classes: Any, num_classes: int, iou: float) -> Any:
    """Say `survives_nms` in ONNX: every box competes in its own class's row of a table of scores."""
    from onnxscript import opset18

    op: Any = opset18  # its types know nothing of values that are yet to be computed
    rows = op.Unsqueeze(op.Constant(value_ints=list(range(num_classes))), [1])
    own = op.Equal(rows, op.Unsqueeze(classes, [0]))
    table = op.Where(own, op.Unsqueeze(scores, [0]), op.Constant(value_float=_NEVER))
    survivors = op.NonMaxSuppression(
        op.Unsqueeze(boxes, [0]),
        op.Unsqueeze(table, [0]),
        op.Constant(value_ints=[2**31 - 1]),
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[_NEVER]),
    )  # [S, 3]: image, class, box
    which = op.Slice(survivors, [2], [3], [1])
    ones = op.Expand(op.Constant(value_ints=[1]), op.Slice(op.Shape(survivors), [0], [1]))
    zeros = op.Expand(op.Constant(value_ints=[0]), op.Shape(scores))
    return op.Cast(op.ScatterND(zeros, which, ones), to=_BOOL)


def _is_large(boxes: Tensor, min_side_px: float) -> Tensor:
    return ((boxes[:, 2:] - boxes[:, :2]) >= min_side_px).all(dim=1)


def _images_to_check(saved: SavedDetector) -> list[Tensor]:
    """Return uint8 images `[3, H, W]`: some of the run's, at the size of its most common shape, and one of noise."""
    prepared = BOXES.open(saved.checkpoint.path.parents[1] / "data")
    index = prepared.val if prepared.val is not None else prepared.labeled
    shapes = [index.size_at(i) for i in range(len(index))]
    usual = Counter(shapes).most_common(1)[0][0]
    positions = sorted(range(len(index)), key=lambda i: shapes[i] != usual)[:CHECKED_IMAGES]
    first, _ = eval_view(index.pixels_at(positions[0]), saved.config.data.views)
    size = list(first.shape[1:])
    others = [F.resize(index.pixels_at(i), size, antialias=True) for i in positions[1:]]
    noise = torch.randint(256, first.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return [first, *others, noise]


def _write(saved: SavedDetector, image: Tensor, file: Path) -> None:
    model = OneImage(saved, (int(image.shape[1]), int(image.shape[2]))).eval()
    with _quiet():
        program = torch.onnx.export(
            model,
            (image,),
            input_names=["image"],
            output_names=["boxes", "labels", "scores"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            custom_translation_table={torch.ops.raydet.survives_nms.default: _nms_in_onnx},
        )
    assert program is not None
    program.model.metadata_props["class_names"] = json.dumps(saved.class_names)
    program.save(file)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about itself from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _compare(saved: SavedDetector, file: Path, images: list[Tensor]) -> Difference:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = Difference(0.0, 0.0, 0)
    for image in images:
        with torch.no_grad():
            (expected,) = saved.method.detect(saved.model, collate([image], "cpu"))
        boxes, labels, scores = (torch.from_numpy(each) for each in session.run(None, {"image": image.numpy()}))
        found = Candidates(boxes, labels, scores, torch.ones_like(scores), expected.complete_above)
        least = saved.config.model.test_score_floor
        if len(expected) == saved.config.model.test_detections:
            least = float(expected.scores[-1])  # which of two equal boxes is cut off says nothing
        for these, those in ((expected, found), (found, expected)):
            each = difference(these, those, above=least + TOLERANCE_SCORE)
            worst = Difference(
                max(worst.pixels, each.pixels), max(worst.score, each.score), worst.detections + each.detections
            )
    if not (worst.pixels <= TOLERANCE_PX and worst.score <= TOLERANCE_SCORE):
        raise UserError(
            f"the ONNX file does not say what PyTorch says (boxes differ by {worst.pixels:g} pixels, scores by "
            f"{worst.score:g}, infinite: a box is missing); it was not written. Export to FILE.safetensors, and please "
            f"report this with the versions of torch, onnxscript and onnxruntime"
        )
    return Difference(worst.pixels, worst.score, worst.detections // 2)  # counted from both sides


def difference(these: Candidates, those: Candidates, *, above: float) -> Difference:
    """Compare each of `these` that scores higher than `above` with the nearest of `those` of its class."""
    pixels, score, compared = 0.0, 0.0, 0
    for box, label, value in zip(these.boxes, these.classes, these.scores, strict=True):
        if value <= above:
            continue
        compared += 1
        same = those.where(those.classes == label)
        if len(same) == 0:
            return Difference(math.inf, math.inf, compared)
        distance = (same.boxes - box).abs().amax(dim=1) + (same.scores - value).abs()
        nearest = int(distance.argmin())
        pixels = max(pixels, float((same.boxes[nearest] - box).abs().max()))
        score = max(score, float((same.scores[nearest] - value).abs()))
    return Difference(pixels, score, compared)
