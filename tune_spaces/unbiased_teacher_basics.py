"""The knobs users ask for most, for any teacher-student method.

The learning rates suit AdamW on a small model; for SGD on a ResNet copy this file and write 0.003 to 0.03.
"""

from ray import tune

from raydet.sweep.space import Sweep

sweep = Sweep(
    question="Which score threshold, unsupervised weight, EMA, batch ratio and learning rate suit this data set?",
    space={
        "method.score_threshold": tune.quniform(0.5, 0.9, 0.05),
        "method.unsup_cls_weight": tune.choice([0.5, 1.0, 2.0, 4.0]),
        "method.ema_keep_rate": tune.choice([0.99, 0.996, 0.999, 0.9996]),
        "optim.unlabeled_batch": tune.choice([8, 12, 24]),
        "optim.lr": tune.choice([3e-4, 1e-3, 2e-3]),
    },
    samples=16,
)
