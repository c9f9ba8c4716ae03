"""R2-D2, Table 4: what pulls predictions and pseudo-labels together."""

from ray import tune

from raydet.sweep.space import Published, Sweep

sweep = Sweep(
    question="Which classification loss: KL(prediction || label), KL(label || prediction) or squared difference?",
    space={"method.class_loss_type": tune.grid_search(["kl_pred_to_pseudo", "kl_pseudo_to_pred", "mse"])},
    metric="error",
    mode="min",
    published=Published(
        source="R2-D2, Table 4",
        figure="error, CIFAR-10 test, 4000 labels",
        values={"kl_pred_to_pseudo": 5.78, "kl_pseudo_to_pred": 8.06, "mse": 6.35},
    ),
)
