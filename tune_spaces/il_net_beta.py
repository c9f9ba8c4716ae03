"""IL-net, Table 1 and Fig. 3a: the weight of the unsupervised box regression (beta), without the IoU branch."""

from ray import tune

from raydet.sweep.space import Published, Sweep

sweep = Sweep(
    question="How much should box regression on pseudo-boxes weigh (beta)?",
    space={"method.unsup_reg_weight": tune.grid_search([0.5, 1.0, 2.0, 4.0])},
    settings={"method.iou_branch_enabled": False},
    published=Published(
        source="IL-net, Table 1",
        figure="AP, COCO val, 10 % of the labels",
        values={0.5: 31.775, 1.0: 31.947, 2.0: 31.754, 4.0: 30.445},
    ),
)
