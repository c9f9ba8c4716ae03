"""R2-D2, Table 3: the weight of the predictions' entropy (beta), at alpha = 0.1."""

from ray import tune

from raydet.sweep.space import Published, Sweep

sweep = Sweep(
    question="How much should the entropy of the predictions weigh (beta)?",
    space={"method.entropy_weight": tune.grid_search([0.01, 0.02, 0.03, 0.04, 0.05])},
    settings={"method.class_loss_weight": 0.1},
    metric="error",
    mode="min",
    published=Published(
        source="R2-D2, Table 3",
        figure="error, CIFAR-10 test, 4000 labels",
        values={0.01: 5.62, 0.02: 5.75, 0.03: 5.78, 0.04: 5.83, 0.05: 5.76},
    ),
)
