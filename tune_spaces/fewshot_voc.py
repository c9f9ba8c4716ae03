"""ADePT, Table 2: few-shot detection on Pascal VOC, three splits of novel classes, 1 to 10 shots, joint pre-training.

Shots are drawn by `data.split_seed`, or by each of `--seeds`: one draw of so few says little. Steps and rates are those
of Wang et al. (ICML 2020). Rows of SoCo and of separate training: the same search with another `model.init_from` in the
configuration.
"""

from raydet.sweep.space import Published, Sweep

STEPS = {1: (4000, 3000), 2: (8000, 7000), 3: (12000, 11000), 5: (20000, 18000), 10: (40000, 36000)}  # all, decay
NOVEL = {  # mAP50 of the novel classes, in the order of STEPS
    1: (2.14, 1.23, 1.24, 1.93, 2.91),
    2: (2.53, 0.59, 2.80, 5.55, 4.18),
    3: (1.07, 1.47, 1.43, 2.05, 5.72),
}


def name_of(split: int, shots: int) -> str:
    return f"split {split}, K = {shots}"


sweep = Sweep(
    question="How well are novel classes found after K shots of every class?",
    variants={
        name_of(split, shots): {
            "data.split.novel_classes": f"voc_split{split}",
            "data.shots_per_class": shots,
            "optim.steps": steps,
            "method.burn_in_steps": steps,  # no average of the weights
            "optim.decay_at": [decay],
        }
        for split in NOVEL
        for shots, (steps, decay) in STEPS.items()
    },
    metric="AP50novel",
    published=Published(
        source="ADePT, Table 2",
        figure="mAP50 of novel classes, VOC test07, joint",
        values={
            name_of(split, shots): value
            for split, row in NOVEL.items()
            for shots, value in zip(STEPS, row, strict=True)
        },
    ),
)
