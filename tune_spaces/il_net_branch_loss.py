"""IL-net, Fig. 3b: the IoU branch as a classifier (focal loss) or as a regression of the IoU (smooth L1).

At theta = 0.5, mu = 0.75 and beta = 0, and without the ELU, as the configurations published with the code have it for
this figure; the text has it everywhere. The figure is the report's "Learning curves of all trials".
"""

from raydet.sweep.space import Sweep

sweep = Sweep(
    question="Should the IoU branch tell good boxes from bad ones, or say how good they are?",
    variants={
        "classification": {"method.iou_branch.loss": "focal_bce"},
        "regression": {"method.iou_branch.loss": "smooth_l1"},
    },
    settings={
        "method.unsup_reg_weight": 0.0,
        "method.iou_target_threshold": 0.75,
        "method.iou_filter_threshold": 0.5,
        "method.iou_branch.inputs": ["roi_features", "class_logits", "box_deltas"],
        "method.iou_branch.activation": "none",
    },
)
