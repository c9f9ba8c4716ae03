"""LCHP, Table 4: how sure the classifier must be of a box's crop (tau). At 0 the paper's run fails."""

from ray import tune

from raydet.sweep.space import Published, Sweep

sweep = Sweep(
    question="How sure must the classifier be of a box's crop (tau)?",
    space={"method.crop_confidence_threshold": tune.grid_search([0.0, 0.5, 0.6, 0.7, 0.8, 0.9])},
    metric="gt_known",
    published=Published(
        source="LCHP, Table 4",
        figure="GT-Known of LCHP-R, CUB-200-2011 test",
        values={0.5: 88.36, 0.6: 91.18, 0.7: 92.80, 0.8: 93.98, 0.9: 94.36},
    ),
)
