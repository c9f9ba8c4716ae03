"""IL-net, Table 5: unsupervised regression, and what the IoU branch reads.

The rows are named as in the paper: regression, shared feature, class scores, box deltas.
"""

from raydet.sweep.space import Published, Sweep

FEATURES, SCORES, DELTAS = "roi_features", "class_logits", "box_deltas"
NO_BRANCH = {"method.iou_branch_enabled": False}


def row(reg_weight: float, *inputs: str) -> dict[str, object]:
    """Return the settings of a row."""
    branch: dict[str, object] = {"method.iou_branch.inputs": list(inputs)} if inputs else dict(NO_BRANCH)
    return {"method.unsup_reg_weight": reg_weight, **branch}


sweep = Sweep(
    question="What do regression on pseudo-boxes and each input of the IoU branch add?",
    variants={
        "----": row(0.0),
        "x---": row(1.0),
        "xx--": row(1.0, FEATURES),
        "xxx-": row(1.0, FEATURES, SCORES),
        "xxxx": row(1.0, FEATURES, SCORES, DELTAS),
        "-xxx": row(0.0, FEATURES, SCORES, DELTAS),
    },
    published=Published(
        source="IL-net, Table 5",
        figure="AP, COCO val, 10 % of the labels",
        values={"----": 31.027, "x---": 31.947, "xx--": 31.754, "xxx-": 32.166, "xxxx": 31.923, "-xxx": 31.630},
    ),
)
