"""ADePT: how many boxes an image has in a step (K; the papers: 4), and which views the region proposals learn from."""

from ray import tune

from raydet.sweep.space import Sweep

sweep = Sweep(
    question="How many boxes, and which views for the region proposals?",
    space={
        "method.num_boxes": tune.grid_search([2, 4, 8]),
        "method.rpn_views": tune.grid_search([[1], [1, 2]]),
    },
    metric="recall_100",
)
