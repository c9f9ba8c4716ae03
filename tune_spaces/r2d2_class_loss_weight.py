"""R2-D2, Table 2: the weight of the classification loss (alpha), at beta = 0.03.

Alpha also scales how far a label moves in one step (method.label_lr x alpha / images per step), as in the paper, unless
method.label_step_override is set.
"""

from ray import tune

from raydet.sweep.space import Published, Sweep

sweep = Sweep(
    question="How much should the classification loss weigh (alpha)?",
    space={"method.class_loss_weight": tune.grid_search([0.1, 0.2, 0.3, 0.4, 0.5])},
    settings={"method.entropy_weight": 0.03},
    metric="error",
    mode="min",
    published=Published(
        source="R2-D2, Table 2",
        figure="error, CIFAR-10 test, 4000 labels",
        values={0.1: 5.78, 0.2: 5.44, 0.3: 5.81, 0.4: 5.90, 0.5: 6.11},
    ),
)
