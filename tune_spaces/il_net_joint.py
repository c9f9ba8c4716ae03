"""IL-net: mu, theta, beta and gamma at once. Few values of mu, because each trains a burn-in of its own."""

from ray import tune

from raydet.sweep.space import Sweep

sweep = Sweep(
    question="Which mu, theta, beta and gamma work best together?",
    space={
        "method.iou_target_threshold": tune.choice([0.7, 0.75, 0.8]),
        "method.iou_filter_threshold": tune.quniform(0.3, 0.6, 0.05),
        "method.unsup_reg_weight": tune.choice([0.5, 1.0, 2.0]),
        "method.unsup_iou_weight": tune.choice([0.5, 1.0, 2.0, 4.0]),
    },
    samples=16,
)
