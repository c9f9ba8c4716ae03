"""A saved detector as one ONNX file: from the pixels of images to their detections.

Input `images`: uint8 `[B, 3, H, W]`, RGB, any number of images of one size, any size from 32 x 32 on; trained and
evaluated is the size that the metadata tells how to resize to. Outputs, image by image and the best first, N varies:
`boxes` float32 `[N, 4]` xyxy in pixels of the input; `labels` int64 `[N]`, from 0 on in the order of the metadata's
`class_names`; `scores` float32 `[N]`; `image` int64 `[N]`, the place in the batch. The metadata's `contract` says it
too. With a fixed size the input is one image of that size; where the exporter cannot follow a network through any
size, the file is made so, and says so.

Everything is inside: normalisation, padding, backbone, proposals, RoI head, the method's gate, class-wise NMS, the best
`test_detections` of each image. That is not assumed: onnxruntime runs the file on images of the run, in several batches
and sizes, and the file gets its name only if the detections are PyTorch's.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from raydet import __version__
from raydet.errors import UserError
from raydet.families.detection.data import BOXES
from raydet.families.detection.onnx_graph import DetectionGraph, nms_in_onnx
from raydet.families.detection.saved import SavedDetector
from raydet.families.detection.views import eval_view
from raydet.files import replacing_path
from raydet.records import Candidates
from raydet.text import plural
from raydet.vision.detector import Detector
from raydet.vision.onnx import OPSET, check_packages, quiet

CHECKED_IMAGES = 3  # of the run; noise comes on top
LEAST_SIDE, MOST_SIDE, MOST_IMAGES = 32, 8192, 256  # of an input of any size
TOLERANCE_PX, TOLERANCE_SCORE = 0.1, 1e-3
Size = tuple[int, int]  # height, width


def export_onnx(saved: SavedDetector, out: Path, *, size: str | None = None) -> str:
    """Write the whole detector to `out`; return what was written and how far it is from PyTorch.

    `size`: HEIGHTxWIDTH for a file that takes one image of that size. Raises UserError where the `onnx` extra is
    missing, and where the file's detections are not PyTorch's (it is then not written).
    """
    check_packages(out)
    if saved.config.model.detector == "mask_rcnn":
        raise UserError(
            f"--out {out}: an ONNX file of model.detector=mask_rcnn would have boxes and no masks; export to "
            f"FILE.safetensors, which plain torchvision's MaskRCNN loads"
        )
    if type(saved.model).probabilities is not Detector.probabilities:
        raise UserError(
            f"--out {out}: the scores of method.name={saved.config.method.name} are no softmax, and ONNX export knows "
            f"no other; export to FILE.safetensors"
        )
    fixed = None if size is None else _parsed(size)
    images = _images_to_check(saved, fixed)
    why = ""
    with replacing_path(out) as aside:
        if fixed is None:
            try:
                _write(saved, _other_size(images[:2]), aside, fixed=None)
            except Exception as error:  # the exporter raises anything where it cannot follow a network
                fixed = (int(images[0].shape[1]), int(images[0].shape[2]))
                why = f" (fixed: this network cannot be exported for any size: {_first_line(error)})"
        if fixed is not None:
            _write(saved, images[:1], aside, fixed=fixed)
        found = _compare(saved, aside, _batches(images, is_fixed=fixed is not None))
    takes = "any number of images of any one size" if fixed is None else f"one image of {fixed[0]} x {fixed[1]}{why}"
    height, width = images[0].shape[1:]
    shape = "[B, 3, H, W]" if fixed is None else f"[1, 3, {height}, {width}]"
    return (
        f"{out}: {saved.role} at step {saved.checkpoint.step}, input uint8 {shape} RGB: {takes}; onnxruntime and "
        f"PyTorch agree on {plural(found.detections, 'detection')} in {plural(found.images, 'image')} of "
        f"{found.sizes} sizes: boxes within {found.pixels:.1e} pixels, scores within {found.score:.1e}"
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest differences between two lists of detections."""

    pixels: float
    score: float
    detections: int  # how many were compared
    images: int = 1
    sizes: int = 1


def _parsed(size: str) -> Size:
    found = re.fullmatch(r"(\d{2,5})x(\d{2,5})", size)
    if found is None or min(map(int, found.groups())) < LEAST_SIDE:
        raise UserError(f"--size {size}: expected HEIGHTxWIDTH in pixels, each at least {LEAST_SIDE}, e.g. 800x1216")
    return int(found.group(1)), int(found.group(2))


def _images_to_check(saved: SavedDetector, fixed: Size | None) -> list[Tensor]:
    """Return uint8 images `[3, H, W]` of one size, some of the run's and one of noise: the fixed size, or that of the
    run's most common shape at evaluation."""
    prepared = BOXES.open(saved.checkpoint.path.parents[1] / "data")
    index = prepared.val if prepared.val is not None else prepared.labeled
    shapes = [index.size_at(i) for i in range(len(index))]
    usual = Counter(shapes).most_common(1)[0][0]
    positions = sorted(range(len(index)), key=lambda i: shapes[i] != usual)[:CHECKED_IMAGES]
    first, _ = eval_view(index.pixels_at(positions[0]), saved.config.data.views)
    size = list(fixed or first.shape[1:])
    images = [F.resize(index.pixels_at(i), size, antialias=True) for i in positions[1:]]
    first = first if fixed is None else F.resize(first, size, antialias=True)
    noise = torch.randint(256, first.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return [first, *images, noise]


def _batches(images: Sequence[Tensor], *, is_fixed: bool) -> list[Tensor]:
    """Return the batches `[B, 3, H, W]` that a file is checked with: of two sizes and several numbers, where it can."""
    if is_fixed:
        return [image[None] for image in images]
    return [torch.stack(list(images[:-1])), images[-1][None], torch.stack(_other_size(images[:2]))]


def _other_size(images: Sequence[Tensor]) -> list[Tensor]:
    """Return images at another size, whose sides no stride divides."""
    height, width = images[0].shape[1:]
    size = [max(LEAST_SIDE, height * 3 // 4) + 5, max(LEAST_SIDE, width * 7 // 8) + 3]
    resized = [F.resize(image, size, antialias=True) for image in images]
    return resized if len(resized) > 1 else resized * 2


def _write(saved: SavedDetector, images: Sequence[Tensor], file: Path, *, fixed: Size | None) -> None:
    """Write a file that takes any batch, or one image of a fixed size; `images` are what the exporter follows."""
    with quiet():
        program = torch.onnx.export(
            _followed(DetectionGraph(saved).eval(), torch.stack(list(images)), is_fixed=fixed is not None),
            (),
            input_names=["images"],
            output_names=["boxes", "labels", "scores", "image"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            custom_translation_table={torch.ops.raydet.survives_nms.default: nms_in_onnx},
        )
    assert program is not None
    about = program.model.metadata_props
    about["class_names"] = json.dumps(saved.class_names)
    about["contract"] = json.dumps(contract(saved, fixed))
    about["raydet_version"] = __version__
    program.save(file)


def _followed(graph: DetectionGraph, images: Tensor, *, is_fixed: bool) -> torch.export.ExportedProgram:
    """Return the program that a graph is, for images of one size or of any."""
    number = torch.export.Dim.DYNAMIC(min=1, max=MOST_IMAGES)
    side = torch.export.Dim.DYNAMIC(min=LEAST_SIDE, max=MOST_SIDE)
    shapes = None if is_fixed else {"images": {0: number, 2: side, 3: side}}
    program = torch.export.export(graph, (images,), dynamic_shapes=shapes, strict=False)
    # What it checks of sizes while it runs: some bounds are larger than ONNX's whole numbers.
    nodes = program.graph_module.graph
    for node in reversed(list(nodes.nodes)):
        if node.op == "call_function" and re.search("_assert|sym_constrain", str(node.target)):
            nodes.erase_node(node)
    nodes.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def contract(saved: SavedDetector, fixed: Size | None) -> dict[str, Any]:
    """Return what the file takes and gives, for its metadata."""
    views = saved.config.data.views
    shape = ["B", 3, "H", "W"] if fixed is None else [1, 3, *fixed]
    resize = f"short side {views.eval_short_side}, long side at most {views.max_long_side}, as at evaluation"
    return {
        "input": {"images": {"type": "uint8", "shape": shape, "order": "RGB", "least_side": LEAST_SIDE}},
        "resize": resize if fixed is None else "to the input's size",
        "outputs": {
            "boxes": {"type": "float32", "shape": ["N", 4], "meaning": "xyxy, pixels of the input"},
            "labels": {"type": "int64", "shape": ["N"], "meaning": "place in class_names"},
            "scores": {"type": "float32", "shape": ["N"], "meaning": "class confidence, falling within an image"},
            "image": {"type": "int64", "shape": ["N"], "meaning": "place in the batch, rising"},
        },
        "at_most": {"detections_per_image": saved.config.model.test_detections},
        "model": saved.role,
        "step": saved.checkpoint.step,
    }


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _compare(saved: SavedDetector, file: Path, batches: Sequence[Tensor]) -> Difference:
    """Compare the file with PyTorch. Raises UserError where they differ."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    pixels, score, detections = 0.0, 0.0, 0
    least_score = saved.config.model.test_score_floor
    for batch in batches:
        with torch.no_grad():
            expected = saved.method.detect(saved.model, saved.model.framed(list(batch)))
        for expects, finds in zip(expected, _run(session, batch), strict=True):
            least = least_score
            if len(expects) == saved.config.model.test_detections:
                least = float(expects.scores[-1])  # which of two equal boxes is cut off says nothing
            for these, those in ((expects, finds), (finds, expects)):
                each = difference(these, those, above=least + TOLERANCE_SCORE)
                pixels, score = max(pixels, each.pixels), max(score, each.score)
                detections += each.detections
    if not (pixels <= TOLERANCE_PX and score <= TOLERANCE_SCORE):
        raise UserError(
            f"the ONNX file does not say what PyTorch says (boxes differ by {pixels:g} pixels, scores by "
            f"{score:g}, infinite: a box is missing); it was not written. Export to FILE.safetensors, and please "
            f"report this with the versions of torch, onnxscript and onnxruntime"
        )
    sizes = {tuple(batch.shape[2:]) for batch in batches}
    # Detections are counted from both sides.
    return Difference(pixels, score, detections // 2, sum(len(batch) for batch in batches), len(sizes))


def _run(session: Any, batch: Tensor) -> list[Candidates]:
    """Return what a file says of each image of a batch."""
    said = session.run(["boxes", "labels", "scores", "image"], {"images": batch.numpy()})
    boxes, labels, scores, image = (torch.from_numpy(each) for each in said)
    owns = [image == place for place in range(len(batch))]
    return [Candidates(boxes[own], labels[own], scores[own], torch.ones_like(scores[own]), 0.0) for own in owns]


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
