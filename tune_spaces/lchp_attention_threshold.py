"""LCHP, Table 3: what counts as foreground on the attention map (delta)."""

from ray import tune

from raydet.sweep.space import Published, Sweep

sweep = Sweep(
    question="What should count as foreground on the attention map (delta)?",
    space={"method.attention_threshold": tune.grid_search([0.5, 0.6, 0.7, 0.8])},
    metric="gt_known",
    published=Published(
        source="LCHP, Table 3",
        figure="GT-Known of LCHP-R, CUB-200-2011 test",
        values={0.5: 88.63, 0.6: 93.09, 0.7: 94.36, 0.8: 89.96},
    ),
)
