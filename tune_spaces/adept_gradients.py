"""ADePT, Table 4: which losses reach the backbone, and which boxes have to look alike.

The paper's figures are of detectors that were fine-tuned afterwards (COCO AP: det+rpn, SS+RPN 6.784; det, SS+RPN 0.564;
det+rpn, SS 41.158; det, SS 41.677). Here decides what region proposals find before that.
"""

from raydet.sweep.space import Sweep


def row(loss: str, boxes: str) -> dict[str, object]:
    """Return the settings of a row."""
    return {"method.backbone_loss": loss, "method.det_proposals": boxes}


sweep = Sweep(
    question="Which losses should reach the backbone, and which boxes should look alike?",
    variants={f"{loss}, {boxes}": row(loss, boxes) for boxes in ("ss+rpn", "ss") for loss in ("det+rpn", "det")},
    metric="recall_100",
)
