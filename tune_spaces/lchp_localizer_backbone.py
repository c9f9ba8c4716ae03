"""LCHP, Table 5: the localizer's trunk."""

from ray import tune

from raydet.sweep.space import Published, Sweep

sweep = Sweep(
    question="Which trunk should the localizer have?",
    space={"model.localizer_backbone": tune.grid_search(["vgg19_bn", "resnet50", "inception_v3"])},
    metric="gt_known",
    published=Published(
        source="LCHP, Table 5",
        figure="GT-Known of LCHP-R, CUB-200-2011 test",
        values={"vgg19_bn": 83.95, "resnet50": 88.92, "inception_v3": 94.36},
    ),
)
